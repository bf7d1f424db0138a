"""The row's way to the database: a bounded backlog, batches, and an exact account of what became of each row.

A record leaves the queue only when the database has it. Everything here runs in the pipeline's own loop, on a pool of
its own (`link.py`). What the table looks like, and the insert for it, is `fitting.py`'s. What goes wrong is sorted by
`trouble.py`: rows are kept while the database is away or not set up right, and a row that it will never take is found
by `isolation.py`, so that the others are stored. Delivering twice is harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from llmctx.core.diagnostics import diagnostics
from llmctx.core.locks import ForkGate
from llmctx.core.record import SNAPSHOTS, CallRecord, without_snapshots
from llmctx.delivery.writer import insert as fitting
from llmctx.delivery.writer.bisect import isolate
from llmctx.delivery.writer.connection import Connection
from llmctx.delivery.writer.insert import TableShape
from llmctx.settings import Settings, shown_url
from llmctx.storage.db_errors import DatabaseFailure, classify
from llmctx.storage.sanitize import storable_json
from llmctx.storage.table import call_log_table

_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 2.0
_URGENT_WAIT_S: Final = 0.5  # while somebody waits for us
_LOOK_AGAIN_S: Final = 5.0
_LOOK_SELDOM_S: Final = 60.0
_ASIDE_S: Final = 5.0
_ROW_OVERHEAD: Final = 1024  # bytes that a record weighs beside its texts
_REFUSED_KEPT: Final = 1000
_SPECIMEN_BYTES: Final = 65_536
_CAREFUL: Final = 4  # batches, after one that held rows which were there already


@dataclass(slots=True, eq=False)
class _Waiting:
    record: CallRecord
    json: str | None
    """The record's attributes."""
    size: int


class Writer:
    """A sink that stores what it is given. `submit` and `offer` belong to the loop that runs `run`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.on_rejected: Callable[[CallRecord, str, str], bool] = self._remember
        """Keeps a row that the database will never take, with SQLSTATE and reason. False: it could not, and the row is
        given up. As long as nobody sets it, the last thousand stand in `refused`, without their snapshots."""
        self.on_done: Callable[[Sequence[CallRecord]], None] | None = None
        """Told, in the loop, of rows that need us no more: stored, kept by `on_rejected`, or given up."""
        self._queue: deque[_Waiting] = deque()
        self._batch: list[_Waiting] = []
        """In hand; what is done leaves it."""
        self._aside: list[_Waiting] = []
        """For these the table has no place yet. The others need not wait for it."""
        self._aside_until = 0.0
        self._bytes = 0
        self.cap_bytes = settings.memory_bytes // 2
        """Of what waits here. The other half is for calls on their way (`inbox.py`)."""
        self._limit = settings.batch_rows
        self._careful = 0
        self._more = asyncio.Event()
        self._settled = asyncio.Event()
        self._hurry = asyncio.Event()
        self._hurried = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link = Connection(settings)
        self._fit: TableShape | None = None
        self._look_again_at = 0.0
        self._good: CallRecord | None = None
        """One that the database took: the specimen for a probe."""
        self._table = call_log_table(settings.table, settings.db_schema)
        self.fork_gate: ForkGate | None = None if settings.is_postgresql else ForkGate()
        """Held while a connection to SQLite is open, for its locks do not survive a fork; whoever forks takes it."""
        self.refused: deque[tuple[CallRecord, str, str]] = deque(maxlen=_REFUSED_KEPT)
        self.adopted = 0
        """Of all that were taken, how many came from dead processes."""
        self.written = 0
        self.quarantined = 0
        self.dropped = 0
        self.given_up = 0
        """Of the dropped, those that had been taken before."""
        self.snapshots_dropped = 0
        self.tries = 0
        """How often the database was given a batch."""
        self.trouble: str | None = None
        """Why rows wait, in a sentence; None while all is well."""

    @property
    def waiting(self) -> int:
        return len(self._queue) + len(self._batch) + len(self._aside)

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    def in_memory(self) -> list[CallRecord]:
        """The rows that wait."""
        return [waiting.record for waiting in (*self._batch, *self._queue, *self._aside)]

    # -- taking ---------------------------------------------------------------------------------------------------

    def submit(self, record: CallRecord) -> bool:
        """Queue `record`. When memory is short its snapshots go first; then it is refused."""
        cap = self.cap_bytes
        if self.offer(record, cap):
            return True
        without_snapshots(record, "memory was full")
        self.snapshots_dropped += 1
        diagnostics.count("snapshots_dropped", "%d bytes wait for the database: rows are stored without snapshots", cap)
        if self.offer(record, cap):
            return True
        self.dropped += 1
        diagnostics.count("rows_dropped", "%d bytes wait for the database: the newest calls are lost", cap)
        return False

    def offer(self, record: CallRecord, room: int, *, adopted: bool = False) -> bool:
        """Queue `record` if no more than `room` bytes wait then, or nothing but it. Otherwise nothing happens."""
        waiting = _weighed(record)
        if self._bytes and self._bytes + waiting.size > room:
            return False
        self.adopted += adopted
        self._bytes += waiting.size
        self._queue.append(waiting)
        self._settled.clear()
        self._more.set()
        return True

    # -- storing --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Store until cancelled."""
        self._move_to(asyncio.get_running_loop())
        wait = _FIRST_WAIT_S
        try:
            while True:
                await self._next_batch()
                try:
                    with self.fork_gate or contextlib.nullcontext():  # held by others for the microseconds of a fork
                        trouble = await self._store()
                finally:
                    self._put_back()  # also when cancelled half-way; delivering twice is harmless
                if trouble is None:
                    wait = _FIRST_WAIT_S
                    self.trouble = None
                    continue
                await self._failed(trouble)
                await self._pause(wait)
                wait = min(wait * 2, _LONGEST_WAIT_S)
        finally:
            await self._link.close()

    async def drain(self, timeout_s: float) -> int:
        """Wait until nothing waits any more. Returns how many records are left."""
        self._hurried += 1
        self._hurry.set()
        self._aside_until = 0.0
        self._more.set()
        try:
            if self.waiting:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._settled.wait(), timeout_s)
        finally:
            self._hurried -= 1
            if not self._hurried:
                self._hurry.clear()
        return self.waiting

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None and self._loop is not loop:  # events and connections belong to the loop that has gone
            self._more, self._settled, self._hurry = asyncio.Event(), asyncio.Event(), asyncio.Event()
            self._hurried = 0
            self._link.forget()
        self._loop = loop

    async def _pause(self, wait: float) -> None:
        """Wait before the next try; less when somebody waits for us, but never so little that it is a hot loop."""
        spread = wait * (0.5 + random.random() / 2)  # noqa: S311  so that many processes do not come back at once
        hurry = min(spread, _URGENT_WAIT_S)
        await asyncio.sleep(hurry)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), spread - hurry)

    async def _next_batch(self) -> None:
        """Wait for rows, and take some in hand."""
        while True:
            if self._aside and time.monotonic() >= self._aside_until:
                self._queue.extendleft(reversed(self._aside))
                self._aside.clear()
            if self._queue:
                break
            if not self._aside:
                self._settled.set()
            self._more.clear()
            patience = self._aside_until - time.monotonic() if self._aside else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._more.wait(), patience)
        size = 0
        while self._queue and len(self._batch) < self._limit:
            if self._batch and size + self._queue[0].size > self._settings.batch_bytes:
                break
            waiting = self._queue.popleft()
            size += waiting.size
            self._batch.append(waiting)

    def _put_back(self) -> None:
        self._queue.extendleft(reversed(self._batch))
        self._batch.clear()

    async def _store(self) -> DatabaseFailure | None:
        """Store what is in hand, all but what nobody could store. With a trouble, what is left must be kept."""
        looked = False
        while True:
            try:
                if self._fit is None or not self._link.is_open or time.monotonic() > self._look_again_at:
                    await self._look()
                await self._insert(list(self._batch))
            except Exception as problem:  # noqa: BLE001  sorted by what it says
                trouble = classify(problem)
            else:
                self._limit = min(self._limit * 2, self._settings.batch_rows)
                return None
            if self._fit is None:
                return trouble
            if trouble.is_outage:
                return await self._stuck(trouble)
            if looked:
                break
            looked = True
            try:
                if not await self._look():  # before a row is suspected: the table may have changed
                    break
            except Exception as problem:  # noqa: BLE001  sorted by what it says
                return classify(problem)
        known = trouble.kind == "config" and not trouble.no_partition and self._good is not None
        if known and await self._probe() is not None:  # a row that was good is refused as well: no need to search
            return trouble
        result = await isolate(list(self._batch), self._insert, self._probe)
        for waiting, blamed in result.poison_rows:
            self._blame(waiting, blamed)
        return result.trouble

    async def _insert(self, part: list[_Waiting]) -> None:
        self.tries += 1
        await self._link.with_deadline(self._insert_into_table(part), self._settings.statement_timeout_s)
        self.written += len(part)
        if part[-1].size < _SPECIMEN_BYTES:
            self._good = part[-1].record
        self._done(part)

    def _done(self, part: list[_Waiting]) -> None:
        self._bytes -= sum(waiting.size for waiting in part)
        if len(part) == len(self._batch):
            self._batch.clear()
        else:
            gone = set(part)
            self._batch[:] = [waiting for waiting in self._batch if waiting not in gone]
        if self.on_done is not None:
            try:
                self.on_done([waiting.record for waiting in part])
            except Exception as problem:  # noqa: BLE001  the row is stored, whatever becomes of the note of it
                diagnostics.count("on_done_failed", "stored rows could not be marked as done", exc=problem)

    # -- what goes wrong ------------------------------------------------------------------------------------------

    async def _stuck(self, trouble: DatabaseFailure) -> DatabaseFailure | None:
        """Next time less at once: a server may be too slow for so much. A single row lets the others pass."""
        self._careful = _CAREFUL  # nobody knows what of it was stored
        self._limit = max(1, len(self._batch) // 2)
        if trouble.kind == "reconnect":  # or the probe would meet what is left of the connection
            await self._link.close(cut=True)
        if len(self._batch) == 1 and self._queue and await self._probe() is None:
            self._defer(self._batch[0], trouble)
            return None
        return trouble

    async def _failed(self, trouble: DatabaseFailure) -> None:
        where = shown_url(self._settings.database_url)
        self.trouble = trouble.shown
        if trouble.is_outage:
            diagnostics.count("database_away", "%s cannot be reached: %s. Rows are kept.", where, trouble.shown)
        else:
            remedy = "run `llmctx migrate`, or `llmctx doctor`"
            diagnostics.count(
                "database_config", "%s refuses rows: %s; %s. They are kept.", where, trouble.shown, remedy
            )
        # look at the table again next time, through a new connection: somebody may have mended the one or the other
        self._fit = None
        await self._link.close(cut=trouble.kind == "reconnect")
        if trouble.code.startswith("28"):
            self._link.reload_credentials()

    def _blame(self, waiting: _Waiting, trouble: DatabaseFailure) -> None:
        if trouble.no_partition:
            self._defer(waiting, trouble)
            return
        record = waiting.record
        try:
            kept = bool(self.on_rejected(record, trouble.code, trouble.text))
        except Exception as problem:  # noqa: BLE001  one row must not stop the others
            diagnostics.count("quarantine_failed", "a dead letter could not be written", exc=problem)
            kept = False
        self.quarantined += kept
        self.dropped += not kept
        self.given_up += not kept
        diagnostics.count(
            "row_quarantined" if kept else "rows_dropped",
            "the database refuses call %s: %s. The rest of its batch is stored.",
            record.call_id,
            f"{trouble.name} [{trouble.code}]",
        )
        self._done([waiting])

    def _defer(self, waiting: _Waiting, trouble: DatabaseFailure) -> None:
        self._batch.remove(waiting)
        self._aside.append(waiting)
        self._aside_until = time.monotonic() + _ASIDE_S
        diagnostics.count("row_waits", "call %s waits: %s. Others are stored.", waiting.record.call_id, trouble.shown)

    def _remember(self, record: CallRecord, code: str, reason: str) -> bool:
        bare = replace(record)
        without_snapshots(bare, "the database refused the row")
        self.refused.append((bare, code, reason))
        return True

    async def _probe(self) -> DatabaseFailure | None:
        """Why a row beyond suspicion would be refused now; None if it would not. Nothing of it stays."""
        specimen = self._good or CallRecord(call_id=uuid4(), created_at=datetime.now(UTC), model="llmctx", success=True)
        specimen = replace(specimen, call_id=uuid4(), created_at=datetime.now(UTC))
        if self._fit is not None:  # its twin is there, with the same values
            specimen = self._fit.without_theirs(specimen)
        try:
            await self._try(specimen)
        except Exception as problem:  # noqa: BLE001  that is the answer
            return classify(problem)
        return None

    # -- the database ---------------------------------------------------------------------------------------------

    async def _look(self) -> bool:
        """Connect, see what the table looks like, and compile the insert for that. False: it is as it was."""
        before, self._fit = self._fit, None
        fit: TableShape = await self._link.with_deadline(
            fitting.look(self._link, self._table), self._settings.connect_timeout_s + 1
        )
        # columns that are missing may be added while we run, and a rule, which COPY would pass by
        self._look_again_at = time.monotonic() + (_LOOK_AGAIN_S if fit.missing else _LOOK_SELDOM_S)
        if fit.missing:
            diagnostics.count(
                "columns_missing",
                "the table %s lacks %s: those values are left out. Run `llmctx migrate`.",
                self._settings.table,
                ", ".join(fit.missing),
            )
        self._fit = fit
        return fit != before

    async def _insert_into_table(self, part: list[_Waiting]) -> None:
        assert self._fit is not None
        if await fitting.store(self._link, self._fit, self._table, part, by_copy=not self._careful):
            self._careful = _CAREFUL
        else:
            self._careful = max(0, self._careful - 1)

    async def _try(self, record: CallRecord) -> None:
        assert self._fit is not None
        await self._link.with_deadline(
            fitting.attempt(self._link, self._fit, self._table, [_weighed(record)]),
            self._settings.statement_timeout_s,
        )

    async def trial(self, record: CallRecord) -> None:
        """Insert `record` as it would be stored, and take it back. Raises what the database says."""
        try:
            await self._look()
            await self._try(record)
        finally:
            await self._link.close()


def _weighed(record: CallRecord) -> _Waiting:
    size = _ROW_OVERHEAD
    for name in (*SNAPSHOTS, "error_message"):
        text = getattr(record, name)
        if text is not None:
            size += len(text) * (1 if text.isascii() else 3)
    json = storable_json(record.attributes)
    return _Waiting(record, json, size + len(json or ""))
