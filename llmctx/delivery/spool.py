"""Rows on their way through the journal: on disk before they are stored, on disk alone when memory is short.

`Spool(destination)` is a sink for any `Destination`. Records are appended to the journal, then offered to the
`Batcher`; what it has no room for stays in the journal and is read back, oldest first, when it has. Rows leave the
journal when the destination has them, when it will never take them (dead letters), or when they are lost (counted).

The journals of dead processes are recovered here, too (`delivery/recovery.py`). Without a journal, because none is
wanted or its directory cannot be used, this is the batcher and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import ClassVar, Final

from llmctx.capture.open_calls import OpenCall
from llmctx.core.diagnostics import diagnostics
from llmctx.core.endpoint import Endpoint
from llmctx.core.errors import JournalUnavailable
from llmctx.core.record import CallRecord, use_thread_as_session, without_snapshots
from llmctx.core.scheduling import yielding
from llmctx.core.threads import outside_loop
from llmctx.delivery.backlog import Backlog
from llmctx.delivery.batcher import Batcher
from llmctx.delivery.delegation import Delegation
from llmctx.delivery.destination import Destination
from llmctx.delivery.in_transit import InTransit
from llmctx.delivery.journal import Journal, pack_record
from llmctx.delivery.journal.move import move_journal
from llmctx.delivery.recovery import Recovery
from llmctx.delivery.row import marker_of
from llmctx.delivery.sink import RecordingSink
from llmctx.settings import Settings, load

_SEGMENT: Final = 8 * 1024 * 1024
_INDEX_ENTRY: Final = 110  # bytes of memory for each row that waits in the journal
_CHECKPOINT_S: Final = 1.0
_CONFIRM_S: Final = 0.5  # for the database, when a broker has all rows
_TRY_AGAIN_S: Final = 5.0  # to begin a journal where none could be begun


class Spool(RecordingSink):
    """Journal and batcher as one sink. Everything but `mark` belongs to the pipeline's thread."""

    deduplicates: ClassVar[bool] = True

    def __init__(self, destination: Destination, settings: Settings | None = None) -> None:
        self._destination = destination
        self._settings = settings = settings or load()
        self._batcher = batcher = Batcher(destination, settings)
        batcher.on_write = self._wrote
        self._remember = batcher.on_rejected
        batcher.on_rejected = self._keep_rejected
        self._journal: Journal | None = None
        self._held: set[bytes] = set()
        """Calls whose rows are in the journal, and in the batcher's memory or in transit."""
        self._room = settings.memory_bytes // 4  # half is for calls on their way here, and the index takes its share
        self._backlog = Backlog(batcher, self._held, self._room)
        lost = use_thread_as_session if settings.session == "thread" else None
        self._recovery = Recovery(batcher, self._held, self._room // 2, destination, settings, lost)
        self._in_transit = InTransit(destination, self._held, self._recovery, self._backlog, self._finish)
        batcher.on_done = self._in_transit.hand_over if destination.confirms_later else self._done
        self._delegation = Delegation() if settings.writer == "ship" and settings.durability != "memory" else None
        self._recovery.is_left_to_shipper = lambda: self._is_served
        self._strip_at = settings.journal_bytes // 2  # what is left holds ten times as many rows without their texts
        self._try_again_at = 0.0
        self._has_begun = False

    def for_child(self) -> Spool:
        """Return a spool that has inherited nothing."""
        return Spool(self._destination, self._settings)

    # -- the ledger -----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Return the number of this process's rows that are not done."""
        return self._undelivered + self._in_transit.rows

    @property
    def _undelivered(self) -> int:
        theirs = self._recovery.pending - self._in_transit.recovered_rows
        return max(0, self._batcher.waiting - theirs) + self._backlog.rows + self._recovery.left_at_close

    @property
    def published(self) -> int:
        """Return the number of this process's rows that a broker has and the destination not yet."""
        return self._in_transit.rows

    @property
    def written(self) -> int:
        """Return the number of this process's rows that the destination has."""
        shipped = 0 if self._delegation is None else self._delegation.shipped_rows
        return self._batcher.written - self._in_transit.total - self._recovery.written + shipped

    @property
    def quarantined(self) -> int:
        """Return the number of this process's rows that are dead letters."""
        return self._batcher.quarantined - self._recovery.quarantined

    @property
    def given_up(self) -> int:
        """Return the number of rows that were taken and are lost: neither stored nor kept as dead letters."""
        return self._batcher.given_up - self._recovery.given_up + self._backlog.unreadable

    @property
    def recovered(self) -> int:
        """Return the number of rows of dead processes that the destination has now."""
        return self._recovery.written

    @property
    def last_error(self) -> str | None:
        """Return why rows wait, in a sentence; None while all is well."""
        return self._batcher.last_error or (None if self._journal is None else self._journal.last_error)

    @property
    def journal_bytes(self) -> int:
        """Return how large the journal is."""
        journal = self._journal
        return 0 if journal is None else journal.used_bytes

    @property
    def oldest_s(self) -> float:
        """Return the age of the oldest row that waits in memory, in seconds."""
        return self._batcher.oldest_s

    @property
    def perishable(self) -> int:
        """Return the number of this process's rows in memory alone, for want of a journal or of room in it."""
        return len(self._unjournaled())

    def _unjournaled(self) -> list[CallRecord]:
        return [one for one in self._of_this_process() if one.call_id.bytes not in self._held]

    def _of_this_process(self) -> list[CallRecord]:
        return [one for one in self._batcher.in_memory() if not self._recovery.holds(one.call_id.bytes)]

    # -- from any thread ------------------------------------------------------------------------------------------

    def mark(self, call: OpenCall) -> None:
        """Note in the journal that `call` has started. A few microseconds; waits for nothing."""
        journal = self._journal
        if journal is not None:
            journal.start(call.call_id.bytes, call.created_s, marker_of(call))

    # -- taking ---------------------------------------------------------------------------------------------------

    def open(self) -> bool:
        """Begin a journal, if one is wanted and none is where it should be. Return False if there is nothing new.

        Asked again and again: a directory that could not be used may have been mended, another may have been moved.
        """
        old = self._journal
        if self._delegation is not None and old is not None and self._leave(self._delegation, old):
            return True
        if self._settings.durability == "memory" or time.monotonic() < self._try_again_at:
            return False
        if old is not None and not old.is_displaced and old.is_intact:
            return False
        problem: Exception | None = None
        try:
            for directory in self._settings.journal_directories_of(self._destination.key):
                # removed with all around it: not wanted there
                if self._has_begun and not directory.parent.parent.is_dir():
                    continue
                try:
                    new = self._begin(directory)
                except (JournalUnavailable, OSError) as refusal:
                    problem = problem or refusal
                else:
                    if old is None or move_journal(old, new):
                        self._use(new)
                        return True
        except Exception as failure:  # noqa: BLE001  there may be no home, no user, no temporary directory
            problem = problem or failure
        self._try_again_at = time.monotonic() + _TRY_AGAIN_S
        if old is None:
            why = problem or "There is no directory for the journal: set LLMCTX_JOURNAL_DIR to one."
            diagnostics.count(
                "journal_unavailable", "%s Until then rows wait in memory and are lost when the process ends.", why
            )
        elif old.has_vanished:
            self._lose(old)
        else:
            diagnostics.count(
                "journal_astray", "the journal was moved or cut, and no new one can be created there: %s", problem
            )
        return False

    @property
    def _is_served(self) -> bool:
        """Return whether `llmctx ship --host` stores the rows of this process."""
        return self._delegation is not None and self._delegation.is_served

    def _leave(self, delegation: Delegation, old: Journal) -> bool:
        """Leave the journal to the shipper, if there is one and something is in it. Return whether there is another."""
        delegation.poll_shipper(old.directory)
        delegation.collect(self._recovery)
        most_bytes = self._settings.journal_bytes // 2
        if not self._backlog.rows or self._held or not delegation.should_delegate(old, most_bytes):
            return False
        if (new := delegation.delegate(old, self._begin, self._recovery)) is None:
            return False
        self._backlog.clear()
        self._use(new)
        return True

    def _begin(self, directory: Path) -> Journal:
        settings = self._settings
        return Journal(
            directory,
            limit_bytes=settings.journal_bytes,
            segment_bytes=min(_SEGMENT, settings.journal_bytes // 16),
            fsync_s=0.0 if settings.durability == "fsync" else None,
            endpoint=self._destination.endpoint or Endpoint(self._destination.name),
        )

    def _use(self, new: Journal) -> None:
        self._journal = self._recovery.journal = new
        self._try_again_at, self._has_begun = 0.0, True
        self._backlog.rewind()
        if self._delegation is not None:
            self._delegation.poll_shipper(new.directory)
        # what was in memory alone, for want of a journal; others' rows are in theirs
        here = self._of_this_process()
        self._held.update(one.call_id.bytes for one in here[: new.append(here)])
        new.sync(now=True)
        # of what was on disk alone, as far as it could be read from where it was
        gone = self._backlog.rows - sum(call_id not in self._held for call_id in new.pending_ids())
        if gone > 0:
            self._backlog.count_lost(gone)
            diagnostics.count("journal_damaged", "%d of the rows lost, which only the journal held", gone)

    def submit(self, record: CallRecord) -> bool:
        """Take `record`. Return False if neither disk nor memory has room."""
        return not self.submit_all([record])

    def submit_all(self, records: Sequence[CallRecord]) -> int:
        """Take `records`. Return how many were refused: the newest, when neither disk nor memory has room."""
        records = [record for record in records if record.call_id.bytes not in self._held]  # the thread died meanwhile
        journal = self._journal
        if journal is None:
            return sum(not self._batcher.submit(record) for record in records)
        if journal.used_bytes > self._strip_at:
            journal.checkpoint()  # what is done makes room
            if journal.used_bytes > self._strip_at:
                self._strip(records)
        packed = [pack_record(record) for record in yielding(records)] if self._destination.takes_packed else None
        noted, refused = journal.append(records, packed), 0
        if noted < len(records) and journal.used_bytes > self._strip_at:
            self._strip(records[noted:])
            noted += journal.append(records[noted:])
            packed = None
        journal.sync()
        for record, payload in zip(records[:noted], packed or repeat(None), strict=False):
            if self._backlog.rows or self._is_served or not self._batcher.offer(record, self._room, payload):
                self._backlog.rows += 1
            else:
                self._held.add(record.call_id.bytes)
        if noted < len(records):
            self._batcher.cap_bytes = max(self._room, 2 * self._room - _INDEX_ENTRY * journal.pending)
        for record in records[noted:]:
            if not self._batcher.submit(record):
                refused += 1
                journal.mark_done([record.call_id.bytes])
        return refused

    def forget(self, call_ids: Sequence[bytes]) -> None:
        """Discard the start markers of these calls: no rows will come."""
        if self._journal is not None:
            self._journal.mark_done(call_ids)

    def _strip(self, records: Sequence[CallRecord]) -> None:
        for record in records:
            without_snapshots(record, "the journal was full")
        diagnostics.count("snapshots_dropped", "the journal is nearly full: rows are stored without snapshots")

    # -- what the batcher reports ---------------------------------------------------------------------------------

    @outside_loop
    def _wrote(self, seconds: float) -> None:
        if self.on_write is not None:
            self.on_write(seconds)

    @outside_loop
    def _done(self, records: Sequence[CallRecord]) -> None:
        self._finish([record.call_id.bytes for record in records])

    def _finish(self, call_ids: Sequence[bytes]) -> None:
        self._recovery.on_stored(call_ids)
        self._held.difference_update(call_ids)
        if self._journal is not None:
            self._journal.mark_done(call_ids)
            if self._backlog.rows:
                self._read_back()

    @outside_loop
    def _keep_rejected(self, record: CallRecord, code: str, reason: str) -> bool:
        journal = self._journal
        is_kept = (self._remember if journal is None else journal.dead_letters.append)(record, code, reason)
        self._in_transit.reject(record.call_id.bytes)
        self._recovery.on_rejected(record.call_id.bytes, is_kept=is_kept)
        return is_kept

    @outside_loop
    def _read_back(self) -> None:
        if self._journal is not None and not self._is_served:
            self._backlog.read_back(self._journal)

    # -- in the background ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Store, tidy up, and recover what dead processes left, until cancelled."""
        self._recovery.restart()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._batcher.run(), name="llmctx-writer")
            if self._delegation is None or self._destination.confirms_later:  # otherwise the shipper does it
                tasks.create_task(self._destination.maintain(), name="llmctx-maintenance")
            if self._settings.durability != "memory":
                tasks.create_task(self._tidy(), name="llmctx-journal")
                tasks.create_task(self._recovery.run(), name="llmctx-recovery")

    async def drain(self, timeout_s: float) -> int:
        """Wait until nothing waits any more, at most `timeout_s` seconds. Return how many rows are left, but for those
        that a broker has: the database is waited for a moment only.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self._read_back()
            left = max(0.0, deadline - time.monotonic())
            # in short steps where more is to come, or where others' rows would be waited for
            others = self._backlog.rows or self._recovery.pending or self._is_served
            if self._undelivered and not self._batcher.waiting:  # for what is in other journals
                await asyncio.sleep(min(left, 0.05))
            await self._batcher.drain(min(left, 0.1) if others else left)
            if not self._undelivered or time.monotonic() >= deadline:
                break
        if self._in_transit.rows:
            await self._destination.confirm(min(_CONFIRM_S, max(0.0, deadline - time.monotonic())))
        return self._undelivered

    def close(self) -> None:
        """End the journal. What is left in it belongs to the process that recovers it, perhaps this one."""
        journal, self._journal = self._journal, None
        self._recovery.journal = None
        if journal is None:
            return
        if alone := self._unjournaled():
            self._strip(alone)  # without their texts they may fit
            self._held.update(one.call_id.bytes for one in alone[: journal.append(alone)])
        self._recovery.left_at_close += self._backlog.clear()
        self._in_transit.leave_to_recovery({one.call_id.bytes for one in self._batcher.in_memory()})
        journal.sync(now=True)
        if journal.close():
            self._recovery.previous_journals.add(journal.name)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(_CHECKPOINT_S)
            if self._journal is not None:
                self._tidy_up(self._journal)

    @outside_loop
    def _tidy_up(self, journal: Journal) -> None:
        if (endpoint := self._destination.endpoint) is not None:
            journal.note_endpoint(endpoint)
        if not journal.is_intact:  # `open` begins another one
            return
        journal.checkpoint()
        journal.sync()
        self._read_back()

    def _lose(self, journal: Journal) -> None:
        """Let go of a journal that was removed, where no other one can be begun. What is in memory is stored."""
        diagnostics.count(
            "journal_vanished",
            "the journal in %s was removed, and no new one can be created: %d of the rows lost, which only it held; "
            "others wait in memory",
            journal.directory,
            self._backlog.rows,
        )
        self._journal = self._recovery.journal = None
        self._backlog.count_lost(self._backlog.rows)
        self._backlog.rewind()
        journal.close()
