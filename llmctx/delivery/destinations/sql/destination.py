"""The `Destination` for PostgreSQL and SQLite: deadlines, a look at the table now and then, COPY or INSERT.

The table is looked at before the first batch, after failures, and every minute; while it lacks columns of ours, every
few seconds. Failures are sorted by SQLSTATE (`storage/db_errors.py`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.endpoint import Endpoint
from llmctx.core.locks import ForkGate
from llmctx.core.record import CallRecord
from llmctx.core.text import capitalize
from llmctx.core.urls import shown_url
from llmctx.delivery.destination import Destination, Failure, Row
from llmctx.delivery.destinations.sql import insert, server_facts
from llmctx.delivery.destinations.sql.admission import Admission
from llmctx.delivery.destinations.sql.connection import POOLED_S, Connection
from llmctx.delivery.destinations.sql.server_facts import Facts
from llmctx.delivery.destinations.sql.table_shape import TableShape, fetch_table_shape
from llmctx.settings import Settings
from llmctx.storage.db_errors import classify, lacks_connections
from llmctx.storage.rollup.marks import late_times, mark
from llmctx.storage.sanitize import storable_json
from llmctx.storage.table import call_log_table

_LOOK_AGAIN_S: Final = 5.0
_LOOK_SELDOM_S: Final = 60.0
_CROWDED_WAIT_S: Final = 4.0
"""Between two attempts to get one of the connections of which the server has none left."""
_CAREFUL: Final = 4  # batches, after one that held rows which were there already, or may have been stored


class SqlDestination(Destination):
    """The table that `settings` name."""

    remedy = "`llmctx doctor` says what to do"
    can_probe = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = Connection(settings)
        self._admission = Admission(settings)
        self._is_crowded = False
        """The server had no connection left."""
        self._is_resting = False
        """Connections were let go of because there was nothing to do."""
        self._shape: TableShape | None = None
        self._facts: Facts | None = None
        self._is_known = False
        """The facts are of the database that the connections lead to."""
        self._look_again_at = 0.0
        self._careful = 0
        self._table = call_log_table(settings.table, settings.db_schema)
        # SQLite's locks do not survive a fork while a connection is open
        self.fork_gate = None if settings.is_postgresql else ForkGate(is_awaited_in=True)

    @property
    def name(self) -> str:  # type: ignore[override]  # it is only read
        """Return the URL, without its password."""
        return shown_url(self._settings.database_url)

    @property
    def key(self) -> str:
        """Return a fingerprint of the table and where it is, without what is rotated."""
        return self._settings.database_key

    async def prepare(self) -> bool:
        """Connect, see what the table looks like, and compile the insert for that."""
        is_resting, self._is_resting = self._is_resting, False
        if is_resting and not self.is_stale:
            return False  # the next statement connects
        known, is_due = self._shape, self._is_known and time.monotonic() > self._look_again_at
        if self._connection.is_worn and _has_descriptor():
            await self._connection.close()
        async with self._turn():
            try:
                return await self._prepare()
            except Exception as problem:
                failure = classify(problem)
                if known is None or not (is_due and failure.is_outage and self._connection.is_usable):
                    raise
                # it was to be looked at again, no more: the connection works, and the table was as it is known
                diagnostics.count("look_put_off", "the table cannot be inspected again now: %s", failure.text)
                self._shape, self._look_again_at = known, time.monotonic() + _LOOK_AGAIN_S
                return False

    async def _prepare(self) -> bool:
        before, self._shape = self._shape, None
        # drivers of different age take 20 to 35 round trips for this: one to another continent takes 0.2 s
        patience_s = self._settings.connect_timeout_s + max(1.0, self._settings.statement_timeout_s)
        if not self._is_known:
            await self._connection.with_deadline(self._ask(), patience_s)
        looking = fetch_table_shape(self._connection, self._table, before)
        shape: TableShape = await self._connection.with_deadline(looking, patience_s)
        self._is_crowded = False
        # columns that are missing may be added while we run, and a rule, which COPY would pass by
        self._look_again_at = time.monotonic() + (_LOOK_AGAIN_S if shape.missing_columns else _LOOK_SELDOM_S)
        if shape.missing_columns:
            diagnostics.count(
                "columns_missing",
                "the table %s lacks %s: those values are left out. Run `llmctx migrate`.",
                self._settings.table,
                ", ".join(shape.missing_columns),
            )
        self._shape = shape
        return shape != before

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Connect in turn, where there is no connection, and keep it only while no others want it."""
        connection = self._connection
        is_free = connection.is_open or not self._settings.is_postgresql
        async with contextlib.nullcontext() if is_free else self._admission.turn():
            yield
            if connection.is_wanted_by_others:
                await connection.close()

    @property
    def longest_wait_s(self) -> float:  # type: ignore[override]  # it is only read
        """Return how long to wait at most between attempts: the longer, the more processes come back at once."""
        if self._is_crowded:
            return _CROWDED_WAIT_S
        return 2.0 if self._connection.room is None else self._connection.room.longest_wait_s

    @property
    def idle_s(self) -> float:  # type: ignore[override]  # it is only read
        """Return after how many seconds without rows connections are let go of."""
        return POOLED_S if self._connection.is_pooled else super().idle_s

    async def _ask(self) -> None:
        """Ask what database it is, once for each time that the connection was lost."""
        before = self._facts
        self._facts = await server_facts.fetch_server_facts(self._connection, self._settings, self.name)
        self._is_known = True
        risks = [risk for risk in self._facts.risks if not risk.is_chosen]
        if risks and (before is None or before.risks != self._facts.risks):
            told = " ".join(f"{capitalize(risk.cause)}. {risk.consequence}" for risk in risks)
            diagnostics.count("not_durable", "%s may lose rows that it has acknowledged. %s", self.name, told)

    @property
    def endpoint(self) -> Endpoint | None:
        """Return which database it is; None before it was reached."""
        return None if self._facts is None else self._facts.endpoint

    @property
    def is_stale(self) -> bool:
        """Return True when it is time to look at the table again."""
        return self._shape is None or not self._is_known or time.monotonic() > self._look_again_at

    async def store(self, rows: Sequence[Row]) -> None:
        """Store `rows`, all or none; those that are there already stay as they are."""
        try:
            async with self._turn():
                await self._connection.with_deadline(self._store(rows), self._settings.statement_timeout_s)
        except Exception as problem:
            if classify(problem).is_outage:
                self._careful = _CAREFUL  # it is not known what of it was stored
            raise

    async def _store(self, rows: Sequence[Row]) -> None:
        assert self._shape is not None
        late = late_times(row.record.created_at for row in rows)
        if late:  # in case that we die when the rows are in
            await self._mark(late)
        if await insert.store(self._connection, self._shape, self._table, rows, by_copy=not self._careful):
            self._careful = _CAREFUL
        else:
            self._careful = max(0, self._careful - 1)
        if late:  # in case that totals were made meanwhile
            await self._mark(late)

    async def _mark(self, late: Sequence[datetime]) -> None:
        """Mark the hours of late rows, of which totals may have been made already."""
        async with self._connection.connection() as connection:
            try:
                await mark(connection, self._table, late)
                await connection.commit()
            except Exception as problem:
                if classify(problem).is_outage:
                    raise
                diagnostics.count(
                    "marks_refused", "hours with late rows could not be marked for llmctx rollup: %s", problem
                )

    async def probe(self, record: CallRecord) -> None:
        """Insert `record` as far as it meets no key of the host's, and take it back."""
        await self._attempt(record if self._shape is None else self._shape.without_host_keys(record))

    async def try_insert(self, record: CallRecord) -> None:
        """Insert `record` as it would be stored, and take it back. Raise what the database says."""
        try:
            await self.prepare()
            await self._attempt(record)
        finally:
            await self.close()

    async def _attempt(self, record: CallRecord) -> None:
        assert self._shape is not None
        row = Row(record, storable_json(record.attributes), 0)
        await self._connection.with_deadline(
            insert.attempt(self._connection, self._shape, self._table, [row]), self._settings.statement_timeout_s
        )

    def classify(self, problem: BaseException) -> Failure:
        """Return what `problem` means, by its SQLSTATE where it has one."""
        return classify(problem)

    async def reset(self, failure: Failure) -> None:
        """Close all connections, without a word to a server that does not answer; take up a new password."""
        self._is_known = False
        self._is_crowded = lacks_connections(failure.code, failure.text)
        await self._connection.close(cut=failure.kind == "reconnect")
        if failure.code.startswith("28"):
            self._connection.reload_credentials()

    async def close(self) -> None:
        """Close all connections."""
        self._is_resting = True
        await self._connection.close()

    def detach(self) -> None:
        """Let go of connections of another loop, or of the parent."""
        self._connection.forget()
        self._is_resting = False
        if self.fork_gate is not None:
            self.fork_gate = ForkGate(is_awaited_in=True)  # the parent's is closed for ever

    async def maintain(self) -> None:
        """Delete old rows and keep totals, where that is wanted (`retain`, `rollup`)."""
        if "on" in (self._settings.retain, self._settings.rollup):
            from llmctx.storage.retention.scheduler import run_daily  # late: few want it

            await run_daily(self._settings)


def _has_descriptor() -> bool:
    """Return whether a file can be opened: a connection that works is not given up for one that cannot be made."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True
