"""The row's way to the database: batches, one pipelined executemany each, errors by SQLSTATE.

A record leaves the queue only when the database has it. Everything here runs in the pipeline's own loop, on a pool
of its own. What goes wrong is sorted by `trouble.py`: rows are kept while the database is away or not set up right,
and a row that it will never take is found by halving its batch, so that the others are stored.

Delivering twice is harmless: `ON CONFLICT DO NOTHING` without a target needs INSERT and no other right.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

import orjson
from sqlalchemy import Table, event, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from llmctx.cleaning import storable_json
from llmctx.errors import MigrationsPending
from llmctx.incidents import incidents
from llmctx.record import COLUMNS, CallRecord
from llmctx.settings import Settings, shown_url
from llmctx.tables import call_log_table
from llmctx.trouble import Trouble, classify

_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 2.0
_LOOK_AGAIN_S: Final = 5.0
_ROW_OVERHEAD: Final = 1024  # bytes that a record weighs beside its texts


@dataclass(slots=True)
class _Waiting:
    record: CallRecord
    size: int


class Writer:
    """A sink that stores what it is given. `submit` belongs to the loop that runs `run`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue: deque[_Waiting] = deque()
        self._bytes = 0
        self._in_hand = 0
        self._more = asyncio.Event()
        self._settled = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine: AsyncEngine | None = None
        self._connections: list[Any] = []  # asyncpg's
        self._columns: tuple[str, ...] = ()
        self._look_again_at: float | None = None
        self._statement = ""
        self._table: Table = call_log_table(settings.table, settings.db_schema)
        self._urgent = False
        self.fork_gate: threading.Lock | None = None if settings.is_postgresql else threading.Lock()
        """Held while a connection to SQLite is open; whoever forks takes it."""
        self.written = 0
        self.quarantined = 0
        self.dropped = 0
        self.snapshots_dropped = 0
        self.trouble: str | None = None
        """Why rows wait, in a sentence; None while all is well."""

    @property
    def waiting(self) -> int:
        return len(self._queue) + self._in_hand

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    # -- taking ---------------------------------------------------------------------------------------------------

    def submit(self, record: CallRecord) -> bool:
        """Queue `record`. When memory is short its snapshots go first; then it is refused."""
        size = _size(record)
        cap = self._settings.memory_bytes
        if self._bytes + size > cap:
            record.prompt_snapshot = record.response_snapshot = record.reasoning_snapshot = None
            record.attributes = {**(record.attributes or {}), "llmctx_snapshots": "dropped: memory was full"}
            self.snapshots_dropped += 1
            incidents.note("snapshots_dropped", "%d bytes wait for the database: rows go without snapshots", cap)
            size = _size(record)
            if self._bytes + size > cap:
                self.dropped += 1
                incidents.note("rows_dropped", "%d bytes wait for the database: the newest calls are lost", cap)
                return False
        self._bytes += size
        self._queue.append(_Waiting(record, size))
        self._settled.clear()
        self._more.set()
        return True

    # -- storing --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Store until cancelled."""
        wait = _FIRST_WAIT_S
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:  # events and connections belong to the loop that has gone
            self._more, self._settled, self._engine = asyncio.Event(), asyncio.Event(), None
        self._loop = loop
        try:
            while True:
                if not self._queue:
                    self._settled.set()
                    self._more.clear()
                    await self._more.wait()
                batch = self._take()
                try:
                    delivered = await self._deliver(batch)
                except BaseException:
                    self._put_back(batch)  # cancelled half-way; delivering twice is harmless
                    raise
                if delivered:
                    wait = _FIRST_WAIT_S
                    self.trouble = None
                    continue
                self._put_back(batch)
                await self._pause(wait)
                wait = min(wait * 2, _LONGEST_WAIT_S)
        finally:
            await self._disconnect()

    async def drain(self, timeout_s: float) -> int:
        """Wait until nothing waits any more. Returns how many records are left."""
        self._urgent = True
        try:
            if self.waiting:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._settled.wait(), timeout_s)
        finally:
            self._urgent = False
        return self.waiting

    async def _pause(self, wait: float) -> None:
        # spread, so that many processes do not come back at the same moment
        await asyncio.sleep(min(wait, 0.2 if self._urgent else wait) * (0.5 + random.random() / 2))  # noqa: S311

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        limit = self._settings.batch_bytes
        while self._queue and len(batch) < self._settings.batch_rows:
            if batch and size + self._queue[0].size > limit:
                break
            waiting = self._queue.popleft()
            size += waiting.size
            batch.append(waiting)
        self._in_hand = len(batch)
        return batch

    def _put_back(self, batch: list[_Waiting]) -> None:
        self._queue.extendleft(reversed(batch))
        self._in_hand = 0

    async def _deliver(self, batch: list[_Waiting]) -> bool:
        """Store `batch`, all but what nobody could store. False: keep it and try later; what is done leaves it."""
        with self._not_forking():
            return await self._store(batch)

    async def _store(self, batch: list[_Waiting]) -> bool:
        try:
            if self._engine is None or not self._columns or self._is_time_to_look():
                await self._bounded(self._look_at_table(), self._settings.connect_timeout_s + 1)
        except Exception as problem:  # noqa: BLE001  sorted by what it says
            return await self._failed(classify(problem))
        todo: list[list[_Waiting]] = [list(batch)]
        while todo:
            part = todo.pop()
            try:
                await self._bounded(self._insert(part), self._settings.statement_timeout_s)
            except Exception as problem:  # noqa: BLE001  sorted by what it says
                trouble = classify(problem)
                if trouble.kind != "poison":
                    return await self._failed(trouble)
                if len(part) == 1:
                    self._quarantine(part[0], trouble)
                    self._done(batch, part)
                else:
                    half = len(part) // 2
                    todo += [part[half:], part[:half]]
                continue
            self.written += len(part)
            self._done(batch, part)
        return True

    def _done(self, batch: list[_Waiting], part: list[_Waiting]) -> None:
        for waiting in part:
            self._bytes -= waiting.size
        if len(part) == len(batch):
            batch.clear()
        else:
            gone = {id(waiting) for waiting in part}
            batch[:] = [waiting for waiting in batch if id(waiting) not in gone]
        self._in_hand = len(batch)

    async def _failed(self, trouble: Trouble) -> bool:
        where = shown_url(self._settings.database_url)
        if trouble.kind == "config":
            self.trouble = f"{trouble.text} [{trouble.code}]"
            remedy = "run `llmctx migrate`, or `llmctx doctor`"
            self._columns = ()  # look at the table again next time: somebody may have mended it
            incidents.note("database_config", "%s refuses rows: %s; %s. They are kept.", where, self.trouble, remedy)
        else:
            self.trouble = f"{trouble.text} [{trouble.code}]"
            incidents.note("database_away", "%s cannot be reached: %s. Rows are kept.", where, self.trouble)
        if trouble.kind in ("reconnect", "config"):
            if trouble.kind == "reconnect":
                self._hang_up()
            await self._disconnect()
        return False

    def _quarantine(self, waiting: _Waiting, trouble: Trouble) -> None:
        self.quarantined += 1
        incidents.note(
            "row_quarantined",
            "the database refuses call %s: %s [%s]. The others of its batch are stored.",
            waiting.record.call_id,
            trouble.text,
            trouble.code,
        )

    # -- the database ---------------------------------------------------------------------------------------------

    async def _bounded(self, work: Any, seconds: float) -> None:
        """A deadline on everything: a stopped server would keep us for ever, and cancelling politely takes longer."""
        task = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            await self._give_up(task)
            raise
        if not done:
            await self._give_up(task)
            raise TimeoutError(f"no answer within {seconds:g} s")
        task.result()

    @contextlib.contextmanager
    def _not_forking(self) -> Iterator[None]:
        """SQLite's locks do not survive a fork: the process must not fork while it holds one (`fork_gate`)."""
        if self.fork_gate is None:
            yield
            return
        with self.fork_gate:  # held by others for the microseconds of a fork
            yield

    async def _give_up(self, task: asyncio.Future[Any]) -> None:
        """Let go of a statement and of its connection, whose state nobody knows."""
        task.add_done_callback(_forget)
        self._hang_up()
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)
        await self._disconnect()

    async def _look_at_table(self) -> None:
        """Connect, see which columns the table has, and compile the insert for those."""
        engine = self._connect()
        async with engine.connect() as connection:
            there = await connection.run_sync(self._columns_there)
        missing = [name for name in COLUMNS if name not in there]
        self._look_again_at = time.monotonic() + _LOOK_AGAIN_S if missing else None
        if missing:
            incidents.note(
                "columns_missing",
                "the table %s lacks %s: those values are left out. Run `llmctx migrate`.",
                self._settings.table,
                ", ".join(missing),
            )
        self._columns = tuple(name for name in COLUMNS if name in there)
        if self._settings.is_postgresql:
            self._statement = self._postgresql_insert()

    def _is_time_to_look(self) -> bool:
        """Columns that were missing may have been added meanwhile."""
        return self._look_again_at is not None and time.monotonic() > self._look_again_at

    def _connected(self, connection: Any, _: object) -> None:
        self._connections = [known for known in self._connections if not known.is_closed()]
        self._connections.append(connection.driver_connection)

    def _columns_there(self, connection: Any) -> set[str]:
        try:
            columns = inspect(connection).get_columns(self._settings.table, self._settings.db_schema)
        except NoSuchTableError:
            raise MigrationsPending from None
        return {column["name"] for column in columns}

    def _connect(self) -> AsyncEngine:
        if self._engine is None:
            settings = self._settings
            if settings.is_postgresql:
                self._engine = create_async_engine(
                    settings.database_url,
                    pool_size=settings.pool_size,
                    max_overflow=0,
                    pool_timeout=settings.connect_timeout_s,
                    connect_args={"timeout": settings.connect_timeout_s},
                )
                event.listen(self._engine.sync_engine, "connect", self._connected)
            else:
                self._engine = create_async_engine(
                    settings.database_url, poolclass=NullPool, connect_args={"timeout": 5.0}
                )
        return self._engine

    async def _disconnect(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            with contextlib.suppress(Exception):
                # what has been hung up is not closed once more: that would fail, and be logged
                polite = bool(self._connections) or not self._settings.is_postgresql
                await asyncio.wait_for(engine.dispose(close=polite), 1.0)
        self._hang_up()

    def _hang_up(self) -> None:
        """Cut PostgreSQL's connections, without a word and without waiting."""
        while self._connections:
            with contextlib.suppress(Exception):
                self._connections.pop().terminate()

    def _postgresql_insert(self) -> str:
        quote = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it bare
        columns = ", ".join(quote.quote(name) for name in self._columns)
        values = ", ".join(f"${number}" for number in range(1, len(self._columns) + 1))
        return f"INSERT INTO {quote.format_table(self._table)} ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING"  # noqa: S608

    async def trial(self, record: CallRecord) -> None:
        """Insert `record` as it would be stored, and take it back. Raises what the database says."""
        try:
            await self._look_at_table()
            async with self._connect().connect() as connection:
                await connection.exec_driver_sql("SELECT 1")  # opens the transaction that is rolled back
                await self._insert_into(connection, [_Waiting(record, 0)])
                await connection.rollback()
        finally:
            await self._disconnect()

    async def _insert(self, part: list[_Waiting]) -> None:
        async with self._connect().connect() as connection:
            await self._insert_into(connection, part)
            if not self._settings.is_postgresql:
                await connection.commit()

    async def _insert_into(self, connection: AsyncConnection, part: list[_Waiting]) -> None:
        if self._settings.is_postgresql:
            await self._insert_postgresql(connection, part)
        else:
            statement = sqlite.insert(self._table).on_conflict_do_nothing()
            rows = [{n: getattr(w.record, n) for n in self._columns} for w in part]
            for row in rows:
                if row.get("attributes"):
                    row["attributes"] = orjson.loads(storable_json(row["attributes"]) or "null")
            await connection.execute(statement, rows)

    async def _insert_postgresql(self, connection: AsyncConnection, part: list[_Waiting]) -> None:
        # asyncpg's own executemany, on SQLAlchemy's connection: atomic, pipelined, and 20 % more rows a second than
        # SQLAlchemy's executemany (measured by `make bench`)
        raw = await connection.get_raw_connection()
        driver: Any = raw.driver_connection
        values = attrgetter(*self._columns)
        at = self._columns.index("attributes") if "attributes" in self._columns else None
        rows = [values(waiting.record) for waiting in part]
        if at is not None:
            rows = [(*row[:at], storable_json(row[at]), *row[at + 1 :]) for row in rows]
        await driver.executemany(self._statement, rows)


def _forget(task: asyncio.Future[Any]) -> None:
    """Whatever became of a statement that we gave up on."""
    if not task.cancelled():
        task.exception()


def _size(record: CallRecord) -> int:
    size = _ROW_OVERHEAD
    for text in (record.prompt_snapshot, record.response_snapshot, record.reasoning_snapshot, record.error_message):
        if text is not None:
            size += len(text) * (1 if text.isascii() else 3)
    if record.attributes:
        size += len(storable_json(record.attributes) or "")
    return size
