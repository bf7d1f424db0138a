"""The queue before a destination: bounded in bytes, stored in batches, with an exact account of each row.

A row leaves the queue only when the destination has it. While that is away or not set up right, all rows are kept and
tried again with back-off; a row that it will never take is found by halving its batch (`bisect.py`) and handed to
`on_rejected`, so that the others are stored. Storing twice is harmless. Nothing here knows what the destination is.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import TemporarilyUnavailable
from llmctx.core.record import CallRecord, without_snapshots
from llmctx.core.threads import outside_loop
from llmctx.delivery.batch_row import row_of
from llmctx.delivery.bisect import isolate
from llmctx.delivery.destination import Destination, Failure, Row
from llmctx.delivery.pace import Pace
from llmctx.settings import Settings

_FIRST_WAIT_S: Final = 0.1
_URGENT_WAIT_S: Final = 0.5  # while a `drain` waits for us
_DEFER_S: Final = 5.0
_REJECTED_KEPT: Final = 1000
_SPECIMEN_BYTES: Final = 65_536


class Batcher:
    """Batches into one destination. Everything belongs to the loop that runs `run`."""

    def __init__(self, destination: Destination, settings: Settings, pace: Pace | None = None) -> None:
        self._settings = settings
        self._destination = destination
        self.on_rejected: Callable[[CallRecord, str, str], bool] = self._remember
        """Keep a row that the destination will never take, with code and reason. Return False if that failed: the row
        is given up. Raise `TemporarilyUnavailable` to be asked again. Until it is set, the last thousand stand in
        `rejected_rows`, without their snapshots."""
        self.on_done: Callable[[Sequence[CallRecord]], None] | None = None
        """Called in the loop with rows that are not held here any more: stored, kept by `on_rejected`, or given up."""
        self.filter_rows: Callable[[list[Row]], Awaitable[list[Row]]] | None = None
        """Returns those that are wanted, of rows about to be stored; the others are done."""
        self.on_write: Callable[[float], object] | None = None
        """Told how many seconds a batch took to be stored. Must not raise."""
        self._queue: deque[Row] = deque()
        self._batch: list[Row] = []
        """In hand; what is done leaves it."""
        self._deferred: list[Row] = []
        """Rows for which the destination, or the file of dead letters, has no room yet, while the others pass."""
        self._deferred_until = 0.0
        self._deferred_for = ""
        self._bytes = 0
        self.cap_bytes = settings.memory_bytes // 2
        """Bound of what waits here. The other half is for calls on their way (`call_queue.py`)."""
        self._limit = settings.batch_rows
        self._pace = pace or (Pace() if settings.linger_ms else Pace(0.0))
        self._linger_until = 0.0
        self.idle_s = math.inf  # or less than the destination's own
        self._more = asyncio.Event()
        self._settled = asyncio.Event()
        self._hurry = asyncio.Event()
        self._hurried = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_prepared = False
        self._is_to_prepare = False
        self._good: CallRecord | None = None
        """One that the destination took: the specimen for a probe."""
        self.rejected_rows: deque[tuple[CallRecord, str, str]] = deque(maxlen=_REJECTED_KEPT)
        self.written = 0
        self.quarantined = 0
        self.dropped = 0
        self.given_up = 0
        """Of the dropped, those that had been taken before."""
        self.snapshots_dropped = 0
        self.attempts = 0
        """How often the destination was given a batch."""
        self.last_error: str | None = None
        """Why rows wait, in a sentence; None while all is well."""

    @property
    def waiting(self) -> int:
        """Return the number of rows that are not done."""
        return len(self._queue) + len(self._batch) + len(self._deferred)

    @property
    def waiting_bytes(self) -> int:
        """About how many bytes they hold."""
        return self._bytes

    @property
    def oldest_s(self) -> float:
        """Return the age of the oldest record that waits, in seconds; 0 if none does. Any thread may ask."""
        firsts = [next(iter(rows), None) for rows in (self._batch, self._queue, self._deferred)]
        oldest = min((row.record.created_at for row in firsts if row is not None), default=None)
        return 0.0 if oldest is None else max(0.0, (datetime.now(UTC) - oldest).total_seconds())

    def in_memory(self) -> list[CallRecord]:
        """Return the records that wait."""
        return [row.record for row in (*self._batch, *self._queue, *self._deferred)]

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

    def offer(self, record: CallRecord, room: int, packed: bytes | None = None) -> bool:
        """Queue `record` (or its packed form) if no more than `room` bytes wait then, or nothing but it."""
        return self.offer_row(row_of(record, packed), room)

    def offer_row(self, row: Row, room: int) -> bool:
        """Queue `row`, as `offer` does."""
        if self._bytes and self._bytes + row.size > room:
            self._linger_until = 0.0  # there is company enough: only what is stored makes room
            self._more.set()
            return False
        now = time.monotonic()
        if not self._queue:
            self._linger_until = now + self._pace.linger_s(now)
        self._pace.count(now)
        self._bytes += row.size
        self._queue.append(row)
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
                    # the thread that forks holds it no longer than a row takes to be made
                    with contextlib.ExitStack() as held:
                        if self._destination.fork_gate is not None:
                            outside_loop(held.enter_context)(self._destination.fork_gate)
                        failure = await self._store()
                finally:
                    self._put_back()  # also when cancelled half-way; storing twice is harmless
                if failure is None:
                    wait = _FIRST_WAIT_S
                    self.last_error = self._deferred_for if self._deferred else None
                    continue
                await self._failed(failure)
                await self._pause(wait)
                wait = min(wait * 2, self._destination.longest_wait_s)
        finally:
            await self._destination.close()

    def prepare_soon(self) -> None:
        """Have the destination prepared even if there is nothing to store."""
        self._is_to_prepare = True
        self._more.set()

    async def drain(self, timeout_s: float) -> int:
        """Wait until nothing waits any more, at most `timeout_s` seconds. Return how many records are left."""
        self._hurried += 1
        self._hurry.set()
        self._deferred_until = 0.0
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
        if self._loop is not loop:  # events and connections belong to the loop that has gone
            self._destination.detach()
            if self._loop is not None:
                self._more, self._settled, self._hurry = asyncio.Event(), asyncio.Event(), asyncio.Event()
                self._hurried = 0
        self._loop = loop

    async def _pause(self, wait: float) -> None:
        """Wait before the next try; less while a `drain` waits, but never so little that it is a hot loop."""
        spread = wait * (0.5 + random.random() / 2)  # noqa: S311  so that many processes do not come back at once
        hurry = min(spread, _URGENT_WAIT_S)
        await asyncio.sleep(hurry)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), spread - hurry)

    async def _next_batch(self) -> None:
        """Wait for rows, and take some in hand."""
        while True:
            if self._deferred and time.monotonic() >= self._deferred_until:
                self._queue.extendleft(reversed(self._deferred))
                self._deferred.clear()
            if self._is_to_prepare or (self._queue and self._is_due()):
                break
            await self._wait_for_rows()
        size = 0
        while self._queue and len(self._batch) < self._limit:
            if self._batch and size + self._queue[0].size > self._settings.batch_bytes:
                break
            row = self._queue.popleft()
            size += row.size
            self._batch.append(row)

    def _is_due(self) -> bool:
        """Return whether the batch that waits is full, or has waited for company long enough."""
        is_full = len(self._queue) >= self._limit or self._bytes >= min(self._settings.batch_bytes, self.cap_bytes // 2)
        return is_full or bool(self._hurried) or time.monotonic() >= self._linger_until

    async def _wait_for_rows(self) -> None:
        """Wait until there is something new to look at; let go of connections when nothing comes."""
        if not (self._queue or self._deferred):
            self._settled.set()
        self._more.clear()
        due = [self._deferred_until] if self._deferred else []
        due += [self._linger_until] if self._queue else []
        idle_s = min(self.idle_s, self._destination.idle_s) if self._is_prepared else None
        patience = max(0.0, min(due) - time.monotonic()) if due else idle_s
        try:
            async with asyncio.timeout(patience):  # wait_for loses a cancellation that comes with a row
                await self._more.wait()
        except TimeoutError:
            if not due:
                self._is_prepared = False
                try:
                    await self._destination.close()
                except Exception as problem:  # noqa: BLE001  it is let go of all the same
                    diagnostics.count("close_failed", "an idle connection could not be closed", exc=problem)

    def _put_back(self) -> None:
        self._queue.extendleft(reversed(self._batch))
        self._batch.clear()

    async def _store(self) -> Failure | None:
        """Store what is in hand, all but what can never be stored. With a failure, what is left must be kept."""
        retried = False
        while True:
            try:
                if not self._is_prepared or self._destination.is_stale:
                    await self._prepare()
                if self._batch:
                    await self._store_part(list(self._batch))
            except Exception as problem:  # noqa: BLE001  sorted by what it says
                failure = self._classify(problem)
            else:
                self._limit = min(self._limit * 2, self._settings.batch_rows)
                return None
            if not self._is_prepared:
                return failure
            if failure.is_outage:
                return await self._stuck(failure)
            if retried:
                break
            retried = True
            try:
                if not await self._prepare():  # before a row is suspected: the table may have changed
                    break
            except Exception as problem:  # noqa: BLE001  sorted by what it says
                return self._classify(problem)
        refuses_all = failure.kind == "config" and not failure.is_deferrable and self._good is not None
        if refuses_all and await self._probe() is not None:  # a row that was good is refused as well: no need to search
            return failure
        result = await isolate(list(self._batch), self._store_part, self._probe, self._classify)
        for row, why in result.poison_rows:
            self._reject(row, why)
        return result.failure

    async def _prepare(self) -> bool:
        self._is_prepared = False
        has_changed = await self._destination.prepare()
        self._is_prepared, self._is_to_prepare = True, False
        return has_changed

    async def _store_part(self, part: list[Row]) -> None:
        self.attempts += 1
        begun = time.monotonic()
        if wanted := part if self.filter_rows is None else await self.filter_rows(part):
            await self._destination.store(wanted)
        if self.on_write is not None:
            self.on_write(time.monotonic() - begun)
        self.written += len(wanted)
        if part[-1].size < _SPECIMEN_BYTES:
            self._good = part[-1].record
        self._done(part)

    def _done(self, part: list[Row]) -> None:
        self._bytes -= sum(row.size for row in part)
        if len(part) == len(self._batch):
            self._batch.clear()
        else:
            gone = set(part)
            self._batch[:] = [row for row in self._batch if row not in gone]
        if self.on_done is not None:
            try:
                self.on_done([row.record for row in part])
            except Exception as problem:  # noqa: BLE001  the row is stored, whatever becomes of the note of it
                diagnostics.count("on_done_failed", "stored rows could not be marked as done", exc=problem)

    # -- what goes wrong ------------------------------------------------------------------------------------------

    def _classify(self, problem: BaseException) -> Failure:
        failure = self._destination.classify(problem)
        if failure.kind == "config" and not self._destination.can_probe:
            return replace(failure, kind="transient")  # nothing can tell whether it follows the row: all are kept
        return failure

    async def _stuck(self, failure: Failure) -> Failure | None:
        """Take less next time: a server may be too slow for so much. A single row lets the others pass."""
        if self._destination.divides_batches:
            self._limit = max(1, len(self._batch) // 2)
        if failure.kind == "reconnect":  # or the probe would meet what is left of the connection
            await self._destination.reset(failure)
        is_alone = len(self._batch) == 1 and self._queue and self._destination.can_probe
        if is_alone and await self._probe() is None:
            self._defer(self._batch[0], failure.shown)
            return None
        return failure

    async def _failed(self, failure: Failure) -> None:
        where, was_well = self._destination.name, self._is_prepared and self.last_error is None
        self.last_error = failure.shown
        if was_well and failure.kind == "reconnect":
            diagnostics.counts["database_away"] += 1  # a connection was lost: why, if it matters, the next one will say
        elif failure.is_outage:
            diagnostics.count("database_away", "%s cannot be reached: %s. The rows are kept.", where, failure.shown)
        else:
            said = (where, failure.shown, failure.remedy or self._destination.remedy)
            diagnostics.count("database_config", "%s refuses rows: %s; %s. The rows are kept.", *said)
        # look again next time, through a new connection: the one or the other may have been mended
        self._is_prepared = False
        await self._destination.reset(failure)

    def _reject(self, row: Row, failure: Failure) -> None:
        if failure.is_deferrable:
            self._defer(row, failure.shown)
            return
        record = row.record
        try:
            is_kept = bool(self.on_rejected(record, failure.code, failure.text))
        except TemporarilyUnavailable as problem:
            self._defer(row, f"the database refuses it, and a dead letter cannot be written: {problem}")
            return
        except Exception as problem:  # noqa: BLE001  one row must not stop the others
            diagnostics.count("quarantine_failed", "a dead letter could not be written", exc=problem)
            is_kept = False
        self.quarantined += is_kept
        self.dropped += not is_kept
        self.given_up += not is_kept
        diagnostics.count(
            "row_quarantined" if is_kept else "rows_dropped",
            "the database refuses call %s: %s. The rest of its batch is stored.",
            record.call_id,
            f"{failure.name} [{failure.code}]",
        )
        self._done([row])

    def _defer(self, row: Row, why: str) -> None:
        self._batch.remove(row)
        self._deferred.append(row)
        self._deferred_until, self._deferred_for = time.monotonic() + _DEFER_S, why
        diagnostics.count("row_waits", "call %s waits: %s. Others are stored.", row.record.call_id, why)

    def _remember(self, record: CallRecord, code: str, reason: str) -> bool:
        bare = replace(record)
        without_snapshots(bare, "the database refused the row")
        self.rejected_rows.append((bare, code, reason))
        return True

    async def _probe(self) -> Failure | None:
        """Return why a row beyond suspicion would be refused now; None if it would be taken. Nothing of it stays."""
        specimen = self._good or CallRecord(call_id=uuid4(), created_at=datetime.now(UTC), model="llmctx", success=True)
        specimen = replace(specimen, call_id=uuid4(), created_at=datetime.now(UTC))
        try:
            await self._destination.probe(specimen)
        except Exception as problem:  # noqa: BLE001  that is the answer
            return self._classify(problem)
        return None
