"""Rows on their way through the journal: on disk before they are in the database, on disk alone when memory is short.

The pipeline gives records to `Spool` as to any sink. They are appended to the journal, then offered to the writer;
what the writer has no room for stays in the journal and is read back, oldest first, when it has. Rows leave the journal
when the database has them, when it will never take them (quarantine), or when nobody could keep them (counted).

What dead processes left is taken over here, too: their files stay where they are, locked, until the database has all
of it. Should this process die meanwhile, the next one takes them over; delivering twice is harmless.

Without a journal, because none is wanted or its directory cannot be used, this is the writer and nothing else.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice, repeat
from typing import Final

from llmctx.capture.open_calls import OpenCall
from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import JournalUnavailable
from llmctx.core.record import CallRecord, without_snapshots
from llmctx.core.threads import run_in_daemon_thread
from llmctx.delivery.journal import DeadJournal, Journal
from llmctx.delivery.row import marker_of
from llmctx.delivery.writer.writer import Writer
from llmctx.settings import Settings
from llmctx.storage.sanitize import clean

_SEGMENT: Final = 8 * 1024 * 1024
_INDEX_ENTRY: Final = 110  # bytes of memory for each row that waits in the journal
_CHECKPOINT_S: Final = 1.0
_ADOPT_S: Final = 3.0
_TRY_AGAIN_S: Final = 5.0  # to begin a journal where none could be begun
_READ_AT_ONCE: Final = 1000  # records between two looks at everything else that runs in the loop
_ADOPT_AT_ONCE: Final = 200


class Spool:
    """Journal and writer as one sink. Everything but `mark` belongs to the pipeline's thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._writer = writer = Writer(settings)
        writer.on_done = self._done
        self._remember = writer.on_rejected
        writer.on_rejected = self._keep_refused
        self._journal: Journal | None = None
        self._held: set[bytes] = set()
        """Calls whose rows are in the journal and in the writer's memory."""
        self._on_disk_only = 0
        """Rows that are in the journal alone."""
        self._left_at_close = 0
        """Rows that were in the journal alone when it was closed: with the others' until they are taken over."""
        self._previous_journals: set[str] = set()
        self._recovered_ids: set[bytes] = set()
        """Calls of dead processes whose rows are in the writer's memory."""
        self._their_written = self._their_quarantined = self._their_given_up = 0
        self._reading: Iterator[CallRecord] | None = None
        self._read: CallRecord | None = None
        self._progress = asyncio.Event()
        self._room = settings.memory_bytes // 4  # half is for calls on their way here, and the index takes its share
        self._strip_at = settings.journal_bytes // 2  # what is left holds ten times as many rows without their texts
        self._unreadable = 0
        self._try_again_at = 0.0
        self._begun = False

    # -- what the ledger wants to know ----------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return max(0, self._writer.waiting - len(self._recovered_ids)) + self._on_disk_only + self._left_at_close

    @property
    def written(self) -> int:
        return self._writer.written - self._their_written

    @property
    def quarantined(self) -> int:
        return self._writer.quarantined - self._their_quarantined

    @property
    def given_up(self) -> int:
        """Rows that were taken and are lost: neither the database nor the quarantine has them."""
        return self._writer.given_up - self._their_given_up + self._unreadable

    @property
    def adopted(self) -> int:
        """Rows of dead processes that the database has now."""
        return self._their_written

    @property
    def trouble(self) -> str | None:
        return self._writer.trouble or (None if self._journal is None else self._journal.trouble)

    @property
    def keeps(self) -> bool:
        """Whether what is left survives the process."""
        return self._journal is not None or bool(self._previous_journals)

    # -- from any thread ------------------------------------------------------------------------------------------

    def mark(self, call: OpenCall) -> None:
        """Note in the journal that `call` has started. A few microseconds; waits for nothing."""
        journal = self._journal
        if journal is not None:
            journal.start(call.call_id.bytes, call.created_s, marker_of(call))

    # -- taking ---------------------------------------------------------------------------------------------------

    def open(self) -> bool:
        """Begin a journal, if one is wanted and none is where it should be. False if there is nothing new.

        Asked again and again: a directory that could not be used may have been mended, another may have been moved.
        """
        settings, old = self._settings, self._journal
        if settings.durability == "memory" or time.monotonic() < self._try_again_at:
            return False
        if old is not None and not old.is_displaced:
            return False
        problem: Exception | None = None
        for place in settings.journal_places:
            if self._begun and not place.parent.parent.is_dir():  # who has taken even that away wants nothing there
                continue
            try:
                new = Journal(
                    place,
                    limit_bytes=settings.journal_bytes,
                    segment_bytes=min(_SEGMENT, settings.journal_bytes // 16),
                    fsync_s=0.0 if settings.durability == "fsync" else None,
                )
            except (JournalUnavailable, OSError) as found:
                problem = problem or found
            else:
                if old is None or self._move(old, new):
                    self._journal = new
                    self._try_again_at, self._begun = 0.0, True
                    # what was in memory alone, for want of a journal; others' rows are in theirs
                    here = [one for one in self._writer.in_memory() if one.call_id.bytes not in self._recovered_ids]
                    self._held.update(one.call_id.bytes for one in here[: new.append(here)])
                    return True
        self._try_again_at = time.monotonic() + _TRY_AGAIN_S
        if old is not None:
            diagnostics.count(
                "journal_astray", "the journal was moved, and no new one can be created there: %s", problem
            )
            return False
        told = problem or "The journal's directory is gone: set LLMCTX_JOURNAL_DIR."
        diagnostics.count(
            "journal_unavailable", "%s Until then rows wait in memory, and are lost when the process ends.", told
        )
        return False

    def submit(self, record: CallRecord) -> bool:
        return not self.submit_all([record])

    def submit_all(self, records: Sequence[CallRecord]) -> int:
        """Take `records`. Returns how many were refused: the newest, when neither disk nor memory has room."""
        records = [record for record in records if record.call_id.bytes not in self._held]  # the thread died meanwhile
        journal = self._journal
        if journal is None:
            return sum(not self._writer.submit(record) for record in records)
        if journal.used_bytes > self._strip_at:
            journal.checkpoint()  # what is done makes room
            if journal.used_bytes > self._strip_at:
                self._strip(records)
        noted = journal.append(records)
        if noted < len(records) and journal.used_bytes > self._strip_at:
            self._strip(records[noted:])
            noted += journal.append(records[noted:])
        journal.sync()
        refused = 0
        for record in records[:noted]:
            if not self._on_disk_only and self._writer.offer(record, self._room):
                self._held.add(record.call_id.bytes)
            else:
                self._on_disk_only += 1
        if noted < len(records):
            self._writer.cap_bytes = max(self._room, 2 * self._room - _INDEX_ENTRY * journal.pending)
        for record in records[noted:]:
            if not self._writer.submit(record):
                refused += 1
                journal.done([record.call_id.bytes])
        return refused

    def forget(self, call_ids: Sequence[bytes]) -> None:
        """No rows will come for these calls."""
        if self._journal is not None:
            self._journal.done(call_ids)

    def _strip(self, records: Sequence[CallRecord]) -> None:
        for record in records:
            without_snapshots(record, "the journal was full")
        diagnostics.count("snapshots_dropped", "the journal is nearly full: rows are stored without snapshots")

    # -- what the writer says -------------------------------------------------------------------------------------

    def _done(self, records: Sequence[CallRecord]) -> None:
        call_ids = [record.call_id.bytes for record in records]
        if self._recovered_ids:
            theirs = self._recovered_ids.intersection(call_ids)
            self._their_written += len(theirs)
            self._recovered_ids -= theirs
        self._held.difference_update(call_ids)
        self._progress.set()
        if self._journal is not None:
            self._journal.done(call_ids)
            if self._on_disk_only:
                self._read_back()

    def _keep_refused(self, record: CallRecord, sqlstate: str, reason: str) -> bool:
        if self._journal is None:
            return self._remember(record, sqlstate, reason)
        kept = self._journal.quarantine.append(record, sqlstate, reason)
        if record.call_id.bytes in self._recovered_ids:
            self._recovered_ids.remove(record.call_id.bytes)
            self._their_quarantined += kept
            self._their_given_up += not kept
        return kept

    def _read_back(self) -> None:
        """Give the writer what is in the journal alone, oldest first, as far as it has room."""
        journal = self._journal
        if journal is None or self._writer.waiting_bytes > self._room // 2:
            return
        begun_now = False
        for _ in range(_READ_AT_ONCE):
            if not self._on_disk_only:
                return
            if self._reading is None:
                self._reading, begun_now = journal.waiting(), True
            try:
                record, self._read = self._read or next(self._reading, None), None
            except OSError as problem:  # no descriptor is left, say
                diagnostics.count("journal_failed", "the journal cannot be read now: %s", problem)
                self._reading = None
                return
            if record is None:
                self._reading = None
                if begun_now:  # all of it was read, and nothing is there
                    self._give_up(journal)
                continue
            begun_now = False
            call_id = record.call_id.bytes
            if call_id in self._held:
                continue
            if not self._writer.offer(record, self._room):
                self._read = record
                return
            self._held.add(call_id)
            self._on_disk_only -= 1

    def _give_up(self, journal: Journal) -> None:
        diagnostics.count("journal_damaged", "%d rows in the journal cannot be read any more", self._on_disk_only)
        journal.done([call_id for call_id in journal.pending_ids() if call_id not in self._held])
        self._unreadable += self._on_disk_only
        self._on_disk_only = 0

    # -- in the background ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write, tidy up, and take over what others left, until cancelled."""
        self._progress = asyncio.Event()  # the last one belonged to a loop that has gone
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._writer.run(), name="llmctx-writer")
            if self._settings.retain == "on":
                from llmctx.storage.retention.scheduler import keep  # late: few want it

                tasks.create_task(keep(self._settings), name="llmctx-retention")
            if self._settings.durability != "memory":
                tasks.create_task(self._tidy(), name="llmctx-journal")
                tasks.create_task(self._adopt(), name="llmctx-adoption")

    async def drain(self, timeout_s: float) -> int:
        """Wait until nothing waits any more. Returns how many rows are left."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._read_back()
            left = max(0.0, deadline - time.monotonic())
            # in short steps where more is to come, or where others' rows would be waited for
            await self._writer.drain(min(left, 0.1) if self._on_disk_only or self._recovered_ids else left)
            if not self.waiting or time.monotonic() >= deadline:
                return self.waiting

    def close(self) -> None:
        """End the journal. What is left in it belongs to whoever takes it over, perhaps ourselves."""
        journal, self._journal = self._journal, None
        if journal is None:
            return
        self._left_at_close += self._on_disk_only
        self._on_disk_only = 0
        self._reading = self._read = None
        journal.sync(now=True)
        if journal.close():
            self._previous_journals.add(journal.name)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(_CHECKPOINT_S)
            journal = self._journal
            if journal is None:
                continue
            if journal.has_vanished:
                self._lose(journal)
                continue
            journal.checkpoint()
            journal.sync()
            self._read_back()

    def _move(self, old: Journal, new: Journal) -> bool:
        """Write what waits in `old`, whose directory was moved away, into `new`. False: it does not fit, `old` stays.

        Where `old` lies now, nobody would ever look.
        """
        rows = old.waiting()
        try:
            while some := list(islice(rows, _ADOPT_AT_ONCE)):
                if new.append(some) < len(some):
                    break
        except OSError as problem:
            diagnostics.count("journal_failed", "the journal cannot be read now: %s", problem)
        else:
            if not some:
                new.sync(now=True)
                self._reading = self._read = None
                diagnostics.count("journal_moved", "the journal in %s was moved: a new one is created", old.directory)
                old.close(discard=True)
                return True
        new.close(discard=True)
        return False

    def _lose(self, journal: Journal) -> None:
        """Somebody has removed the files of our journal. What is in memory is written; `open` begins another one."""
        diagnostics.count(
            "journal_vanished",
            "the journal in %s was removed: %d rows that only it held are lost. A new one is created.",
            journal.directory,
            self._on_disk_only,
        )
        self._journal = None
        self._unreadable += self._on_disk_only
        self._on_disk_only = 0
        self._reading = self._read = None
        journal.close()

    # -- what dead processes left ---------------------------------------------------------------------------------

    async def _adopt(self) -> None:
        while True:
            journal = self._journal
            try:
                if journal is not None and journal.has_company:
                    await self._adopt_all(journal)
            except Exception as problem:  # noqa: BLE001  the disk; the next round tries again
                diagnostics.count(
                    "adoption_failed", "the journal of a dead process could not be recovered", exc=problem
                )
            await asyncio.sleep(_ADOPT_S * (0.5 + random.random()))  # noqa: S311  spread: workers die together

    async def _adopt_all(self, journal: Journal) -> None:
        dead = journal.adopt()
        while (adopted := await run_in_daemon_thread(partial(next, dead, None))) is not None:
            with adopted:
                await self._take_over(adopted)

    async def _take_over(self, adopted: DeadJournal) -> None:
        """Give the writer everything of a dead process's, wait until all of it is done, then take its files away."""
        ours = adopted.name in self._previous_journals
        again: set[bytes] = set()
        # a record may be one of ours; a call that is lost was never counted as waiting
        rows = chain(zip(adopted.records(), repeat(True)), zip(map(clean, adopted.lost()), repeat(False)))
        while some := await run_in_daemon_thread(lambda: list(islice(rows, _ADOPT_AT_ONCE))):
            for record, whole in some:
                call_id = record.call_id.bytes
                if call_id in self._recovered_ids:  # from before we had to restart
                    continue
                if call_id in self._held:  # from before we were closed
                    again.add(call_id)
                    continue
                while not self._writer.offer(record, self._room // 2):
                    await self._wait()
                if ours and whole and self._left_at_close:
                    self._left_at_close -= 1
                    self._held.add(call_id)
                    again.add(call_id)
                else:
                    self._recovered_ids.add(call_id)
        while self._recovered_ids or not again.isdisjoint(self._held):
            await self._wait()
        if len(adopted):
            diagnostics.count(
                "journal_adopted", "%d calls were recovered from the journal of a dead process", len(adopted)
            )
        adopted.finish()
        self._previous_journals.discard(adopted.name)

    async def _wait(self) -> None:
        self._progress.clear()
        await self._progress.wait()
