"""The writer's own way to the database: a small pool, a deadline on everything, and no politeness when it has passed.

A server that was stopped, or a network that swallows packets, would keep a statement for ever, and cancelling it
politely takes longer than the statement: so the transport is cut. Nothing of SQLAlchemy's and asyncpg's statement
caches is used, for a pooler such as pgbouncer may give each transaction another server. Where there is none, the
insert is prepared once for each connection.

A password file (`passfile=` in the URL, or PGPASSFILE) is read anew by each attempt to connect: rotate it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from llmctx.core.process import import_lock
from llmctx.core.scheduling import yielding
from llmctx.core.threads import outside_loop
from llmctx.delivery.destinations.sql.admission import ASK_FOR_ROOM, ConnectionRoom
from llmctx.settings import Settings, url_in_environment
from llmctx.storage.driver import connect_arguments, create_private

_GIVE_UP_S: Final = 1.0
LOCK_TIMEOUT_MS: Final = 3000
"""A migration may hold the table: then we stand in its queue for that long, and others behind us no longer."""
_ASK: Final = """
SELECT pg_catalog.pg_backend_pid(), setting::int,
       (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'synchronous_commit')
FROM pg_catalog.pg_settings WHERE name = 'statement_timeout'
"""
_NOT_DURABLE: Final = ("off", "local")
_ROOM_EVERY_S: Final = 5.0
POOLED_S: Final = 3.0
"""Behind a pooler a connection is kept for so long: one that lends servers by session has no other end to that."""


@dataclass(slots=True)
class Session:
    """The facts about one of PostgreSQL's connections."""

    driver: Any  # asyncpg's
    is_pooled: bool
    """A pooler stands between: the server at the other end may be another one for each transaction."""
    limits: dict[str, str | int]
    """What is set for our transactions."""
    prepared_statements: dict[str, Any] = field(default_factory=dict)
    room_at: float = 0.0
    """When it was looked how many connections are left."""
    begun_at: float = field(default_factory=time.monotonic)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Commit at the end, or take all back."""
        async with self.driver.transaction():
            if self.is_pooled:  # what is set for a session would stay there for other clients
                await self.driver.execute(
                    "; ".join(f"SET LOCAL {name} = {value}" for name, value in self.limits.items())
                )
            yield

    async def fetch_row(self, question: str, *args: object) -> Any:
        """Return the first row of the answer to one statement; None if it has none."""
        async with self.transaction() if self.is_pooled else contextlib.nullcontext():
            return await self.driver.fetchrow(question, *args)

    async def try_fetch_row(self, question: str, *args: object) -> Mapping[Any, Any] | None:
        """Do as `fetch_row`; return None also where the server refuses the question, and may still be asked others.

        Some only speak PostgreSQL's protocol, and do not have all of its catalog.
        """
        try:
            found: Mapping[Any, Any] | None = await self.fetch_row(question, *args)
            return found
        except Exception as problem:
            if getattr(problem, "sqlstate", None) is None or self.driver.is_closed():
                raise
            return None

    async def copy(self, table: str, columns: Sequence[str], values: Sequence[tuple[Any, ...]]) -> None:
        """Store rows whose `columns` have `values` in `table`, by COPY. It leaves a prepared statement behind."""
        schema, _, name = table.rpartition(".")
        await self.driver.copy_records_to_table(
            name.strip('"'), schema_name=schema.strip('"') or None, records=yielding(values), columns=columns
        )

    async def prepare(self, statement: str) -> Any:
        """Return `statement`, prepared once."""
        if statement not in self.prepared_statements:
            self.prepared_statements[statement] = await self.driver.prepare(statement)
        return self.prepared_statements[statement]


class Connection:
    """Connections that can be let go of. Belongs to one event loop at a time; `forget` before another."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = settings.database_url
        self._from_environment = self._url == url_in_environment()
        self._engine: AsyncEngine | None = None
        self._drivers: list[Any] = []  # asyncpg's connections, to be cut
        self.is_worn = False
        """A server's process has looked up so much that it stores a tenth slower from then on: close it some time."""
        self.room: ConnectionRoom | None = None
        """How many connections the server had left when it was looked; None where a pooler sees to that."""
        self.is_pooled = self.is_wanted_by_others = False
        """The server has few connections left, or is behind a pooler that may lend by session."""

    @property
    def is_open(self) -> bool:
        return self._engine is not None

    @property
    def is_usable(self) -> bool:
        """Return whether one of PostgreSQL's connections is open."""
        return any(not driver.is_closed() for driver in self._drivers)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection of the pool; back into it at the end."""
        async with self._open().connect() as connection:
            yield connection

    async def session(self, connection: AsyncConnection) -> Session | None:
        """Return PostgreSQL's end of `connection`; SQLite has none."""
        if connection.dialect.name != "postgresql":
            return None
        raw = await connection.get_raw_connection()
        known = raw.info.get("llmctx")
        if isinstance(known, Session):
            await self._look_for_room(known)
            return known
        driver: Any = raw.driver_connection
        async with driver.transaction():  # or the two halves of a statement could meet two servers
            pid, theirs, commit = await driver.fetchrow(_ASK)
        # what we have given up must not go on over there, with its locks; a stricter limit of the host's stays
        ours = max(1, int(self._settings.statement_timeout_s * 900))
        limits: dict[str, str | int] = {
            "lock_timeout": LOCK_TIMEOUT_MS, "statement_timeout": min(ours, theirs or ours),
        }  # fmt: skip
        if commit in (*_NOT_DURABLE, "on"):  # what is acknowledged leaves the journal; "on" may become off meanwhile
            limits["synchronous_commit"] = "on"
        session = Session(driver, is_pooled=pid != driver.get_server_pid(), limits=limits)
        if not session.is_pooled:
            await driver.execute("; ".join(f"SET {name} = {value}" for name, value in limits.items()))
        raw.info["llmctx"] = session
        await self._look_for_room(session)
        return session

    async def _look_for_room(self, session: Session) -> None:
        self.is_pooled = session.is_pooled
        if session.is_pooled:
            self.room = None
            self.is_wanted_by_others = time.monotonic() - session.begun_at > POOLED_S
        elif time.monotonic() - session.room_at > _ROOM_EVERY_S:
            found = await session.try_fetch_row(ASK_FOR_ROOM)
            self.room = None if found is None else ConnectionRoom.from_row(found)
            self.is_wanted_by_others = self.room is not None and self.room.is_scarce
            session.room_at = time.monotonic()

    async def with_deadline(self, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """Return the result of `work`, or raise TimeoutError once its statement, and every connection, has been cut."""
        task = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            await self._abort(task)
            raise
        if not done:
            await self._abort(task)
            raise TimeoutError(f"no answer within {seconds:g} s")
        return task.result()

    async def close(self, *, cut: bool = False) -> None:
        """Close all connections; with `cut` without a word to the server."""
        if cut:
            self._cut()
        engine, self._engine, self.is_worn = self._engine, None, False
        try:
            # by ourselves: of one that does not answer SQLAlchemy would log an error, with a traceback
            await asyncio.gather(
                *(driver.close(timeout=_GIVE_UP_S) for driver in self._drivers), return_exceptions=True
            )
        finally:
            self._cut()
            if engine is not None and self._settings.is_postgresql:
                engine.sync_engine.dispose(close=False)
        if engine is not None and not self._settings.is_postgresql:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(engine.dispose(), _GIVE_UP_S)

    def reload_credentials(self) -> None:
        """Use the URL that stands in the environment by now, if ours stood there: the password was refused.

        Not one of another database: the journal's rows belong to this one.
        """
        url = url_in_environment() if self._from_environment else None
        if url is not None and _place(url) == _place(self._url):
            self._url = url

    def forget(self) -> None:
        """Let go of what belongs to an event loop that has gone."""
        self._engine = None
        self._drivers.clear()

    async def _abort(self, task: asyncio.Future[Any]) -> None:
        """Let go of a statement and of its connection, whose state is not known."""
        task.add_done_callback(_never_mind)
        self._cut()
        task.cancel()
        await asyncio.wait({task}, timeout=_GIVE_UP_S)
        await self.close(cut=True)

    def _cut(self) -> None:
        while self._drivers:
            with contextlib.suppress(Exception):
                self._drivers.pop().terminate()

    @outside_loop
    def _open(self) -> AsyncEngine:
        if self._engine is None:
            with import_lock:  # SQLAlchemy loads the driver now
                self._engine = self._make_engine()
        return self._engine

    def _make_engine(self) -> AsyncEngine:
        settings = self._settings
        if not settings.is_postgresql:
            create_private(make_url(settings.database_url).database or "")
            return create_async_engine(
                settings.database_url, poolclass=NullPool, connect_args={"timeout": 5.0}, hide_parameters=True
            )
        made = create_async_engine(
            self._url,
            pool_size=settings.pool_size,
            max_overflow=0,
            pool_timeout=settings.connect_timeout_s,
            connect_args=_arguments(settings),
            hide_parameters=True,
        )
        # it would ask four questions in eleven round trips, each time, and nothing here needs the answers
        made.sync_engine.dialect.initialize = _ask_nothing  # type: ignore[method-assign]  # of this instance alone
        event.listen(made.sync_engine, "connect", self._connected)
        return made

    def _connected(self, connection: Any, _: object) -> None:
        self._drivers = [known for known in self._drivers if not known.is_closed()]
        self._drivers.append(connection.driver_connection)


def _place(url: str) -> tuple[Any, ...]:
    """Return what a URL leads to, whichever role goes there."""
    made = make_url(url)
    return made.host, made.port, made.database, made.query


def _arguments(settings: Settings) -> dict[str, Any]:
    given = connect_arguments(settings)
    query = make_url(settings.database_url).query
    hosts = query.get("host", "")
    if "target_session_attrs" not in query and (not isinstance(hosts, str) or "," in hosts):
        given["target_session_attrs"] = "read-write"  # of several servers, the one that takes rows
    return given


def _ask_nothing(connection: object) -> None:
    """Take a server as SQLAlchemy takes one that it has not asked."""


def _never_mind(task: asyncio.Future[Any]) -> None:
    """Whatever became of a statement that we gave up on."""
    if not task.cancelled():
        task.exception()
