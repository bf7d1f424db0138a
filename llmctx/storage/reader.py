"""The way to the database for pages: a small pool of its own, and limits on what a question may cost.

Every question is a read-only transaction that ends after some seconds, whatever it asks; those that add many rows up
wait for one another, and the server gives several processes only to one that has no company. So a page can neither
change anything nor take the database from the application.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from llmctx.core.errors import DatabaseUnavailable, LlmctxError
from llmctx.settings import Settings
from llmctx.storage.db_errors import sqlstate
from llmctx.storage.engine import describe_database, engine, explain, probe, sqlite_file
from llmctx.storage.reflection import reflect

_POOL: Final = 4
_AGGREGATES: Final = 2
_ALONE_S: Final = 1.0
"""For so long the second waits for the first: most are done by then, and leave a processor to the application."""
_PATIENCE_S: Final = 8.0
_AGGREGATE_PATIENCE_S: Final = 20.0
_LOOK_AGAIN_S: Final = 60.0
_CANCELLED: Final = "57014"


class QuestionTooLarge(LlmctxError):
    """That took too long, and was given up. Choose fewer days or more filters, or run `llmctx rollup`."""


class Reader:
    """Answers questions of pages. Belongs to the event loop that first uses it; `close` before another."""

    def __init__(
        self,
        settings: Settings,
        *,
        patience_s: float = _PATIENCE_S,
        aggregate_patience_s: float = _AGGREGATE_PATIENCE_S,
    ) -> None:
        self.settings = settings
        self._patience_s, self._aggregate_patience_s = patience_s, aggregate_patience_s
        self._engine: AsyncEngine | None = None
        self._aggregates = asyncio.Semaphore(_AGGREGATES)
        self._turn = asyncio.Lock()
        self._asked = 0
        """Questions that are under way, or wait for others."""
        self._table: sa.Table | None = None
        self._look_again_at = 0.0

    @asynccontextmanager
    async def question(self, *, aggregate: bool = False) -> AsyncIterator[tuple[AsyncConnection, sa.Table]]:
        """Lend a connection and the table as it stands, for one transaction that reads.

        With `aggregate`, many rows are added up: that may take longer, and has to wait for others. Raises
        `QuestionTooLarge` where it takes too long, and otherwise what `engine.read_connection` does.
        """
        patience_s = self._aggregate_patience_s if aggregate else self._patience_s
        async with contextlib.AsyncExitStack() as entered:
            entered.enter_context(self._counted())
            if aggregate:
                await entered.enter_async_context(self._in_turn())
            try:
                async with asyncio.timeout(patience_s + self.settings.connect_timeout_s) as limit:
                    async with self._connection(patience_s) as connection:
                        yield connection, await self._look(connection)
            except TimeoutError as problem:
                raise (QuestionTooLarge() if limit.expired() else explain(problem, self.settings)) from problem
            except Exception as problem:
                if sqlstate(problem) == _CANCELLED or "interrupted" in str(problem):
                    raise QuestionTooLarge from problem
                self._table = None
                raise explain(problem, self.settings) from problem

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """Wait for those that add rows up already: for one, but not if that takes long, and for two."""
        async with self._aggregates:
            is_first = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ALONE_S):
                    is_first = await self._turn.acquire()
            try:
                yield
            finally:
                if is_first:
                    self._turn.release()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._asked += 1
        try:
            yield
        finally:
            self._asked -= 1

    async def close(self) -> None:
        """Close all connections."""
        made, self._engine = self._engine, None
        if made is not None:
            await made.dispose()

    @asynccontextmanager
    async def _connection(self, patience_s: float) -> AsyncIterator[AsyncConnection]:
        if self._engine is None:
            self._engine = self._make_engine()
        async with self._engine.connect() as connection:
            if self.settings.is_postgresql:
                await connection.execution_options(postgresql_readonly=True)
                limits = {"patience": f"{patience_s * 1000:.0f}", "has_company": self._asked > 1}
                await connection.execute(_LIMITS, limits)
                yield connection
                return
            driver: Any = (await connection.get_raw_connection()).driver_connection
            timer = asyncio.get_running_loop().call_later(patience_s, driver._conn.interrupt)
            try:
                yield connection
            finally:
                timer.cancel()

    def _make_engine(self) -> AsyncEngine:
        file = sqlite_file(self.settings)
        if file is not None and not file.exists():
            raise DatabaseUnavailable(
                f"There is no {describe_database(self.settings)}. Run `llmctx migrate` to make it."
            )
        probe(self.settings)
        made = engine(self.settings, patience_s=None, pool_size=_POOL, application_name="llmctx-ui")
        if not self.settings.is_postgresql:
            event.listen(made.sync_engine, "connect", _only_read)
        return made

    async def _look(self, connection: AsyncConnection) -> sa.Table:
        """Return the table as it stands, looked at once a minute."""
        if self._table is None or time.monotonic() > self._look_again_at:
            self._table = await reflect(connection, self.settings)
            self._look_again_at = time.monotonic() + _LOOK_AGAIN_S
        return self._table


_LIMITS: Final = sa.text(
    "SELECT pg_catalog.set_config('jit', 'off', true), pg_catalog.set_config('work_mem', '64MB', true), "
    "pg_catalog.set_config('random_page_cost', '1.1', true), "
    "pg_catalog.set_config('statement_timeout', :patience, true), "
    "pg_catalog.set_config('max_parallel_workers_per_gather', CASE WHEN CAST(:has_company AS boolean) THEN '0' "
    "ELSE pg_catalog.current_setting('max_parallel_workers_per_gather') END, true)"
)
"""Compiling a plan over many partitions takes longer than to run it; with 4 MB of memory every row would be sorted.

Rows lie in the order of time: what an index finds of some days lies together, and need not cost what scattered pages do
before the whole month is read instead.
"""


def _only_read(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only = ON")
    cursor.close()
