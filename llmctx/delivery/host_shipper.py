"""`llmctx ship --host`: store the rows of all processes of a host, over one connection.

It takes the journals that processes have left to it (`delegation.py`) or have died with, many at a time, and removes
each when the destination has all of its rows. One that is killed leaves them to the next, or to the applications.
"""

from __future__ import annotations

import asyncio
import contextlib
from itertools import islice
from pathlib import Path
from typing import Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.endpoint import Endpoint, is_same_endpoint
from llmctx.core.errors import JournalUnavailable
from llmctx.core.record import CallRecord, Status, use_thread_as_session
from llmctx.core.threads import outside_loop, run_in_daemon_thread
from llmctx.delivery.batch_row import row_of
from llmctx.delivery.delegation import announce_shipper
from llmctx.delivery.destination import Destination
from llmctx.delivery.intake import Intake, Load
from llmctx.delivery.journal import DeadJournal, Journal
from llmctx.settings import Settings

_LOOK_S: Final = 0.25
_BEAT_S: Final = 2.0
_AT_ONCE: Final = 64
"""Journals that are stored together."""
_CHUNK: Final = 200


class HostShipper:
    """The journals of a host on their way into `destination`. Belongs to one event loop."""

    def __init__(self, destination: Destination, settings: Settings) -> None:
        self._destination = destination
        self._settings = settings
        self._intake = Intake(destination, settings, self._keep_rejected, room=settings.memory_bytes // 4)
        self._batcher = self._intake.batcher
        self._journal: Journal | None = None
        self.journals = 0
        """Those that were stored whole."""

    @property
    def written(self) -> int:
        """Return the number of rows that the destination has."""
        return self._batcher.written

    @property
    def quarantined(self) -> int:
        """Return the number of dead letters."""
        return self._batcher.quarantined

    async def run(self, stopping: asyncio.Event, *, once: bool = False) -> None:
        """Store what there is, and what comes, until `stopping`; with `once` until nothing is left.

        Raise `JournalUnavailable` where there is no directory for journals.
        """
        directory = next(iter(self._settings.journal_directories_of(self._destination.key)), None)
        if directory is None:
            raise JournalUnavailable("There is no directory for journals: set LLMCTX_JOURNAL_DIR to one.")
        self._journal = journal = Journal(
            directory, endpoint=self._destination.endpoint or Endpoint(self._destination.name)
        )
        tasks = [
            asyncio.create_task(self._batcher.run(), name="llmctx-writer"),
            asyncio.create_task(self._destination.maintain(), name="llmctx-maintenance"),
            asyncio.create_task(self._beat(journal), name="llmctx-shipper"),
        ]
        try:
            while not stopping.is_set():
                work = asyncio.create_task(self._round(journal))
                ending = asyncio.create_task(stopping.wait())
                try:
                    await asyncio.wait({work, ending}, return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.wait({work}, timeout=self._settings.shutdown_timeout_s)
                    stored = work.result() if work.done() else 0
                finally:
                    for one in (work, ending):
                        one.cancel()
                    await asyncio.wait({work, ending})
                if stored:
                    continue
                if once and self._destination.endpoint is not None:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await stopping.wait()
        finally:
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
            journal.close()

    async def _beat(self, journal: Journal) -> None:
        """Say to the other processes that there is a shipper."""
        while True:
            # only where processes lie that name the same database: others may have another one
            for directory in self._settings.journal_directories_of(self._destination.key):
                try:
                    outside_loop(announce_shipper)(directory)
                except FileNotFoundError:  # no process uses this one
                    continue
                except OSError as problem:
                    diagnostics.count("journal_failed", "processes cannot be notified of the shipper: %s", problem)
            outside_loop(journal.checkpoint)()
            await asyncio.sleep(_BEAT_S)

    def _roots(self) -> list[Path]:
        return list(outside_loop(self._settings.journal_roots)(self._destination.key))

    async def _round(self, journal: Journal) -> int:
        """Store some journals. Return how many that were."""
        endpoint = self._destination.endpoint
        if endpoint is None:  # whose they are is known only with a connection
            self._batcher.prepare_soon()
            return 0
        outside_loop(journal.note_endpoint)(endpoint)
        elsewhere = [root for root in self._roots() if root != journal.directory]

        def is_ours(other: Endpoint, is_here: bool) -> bool:
            return is_same_endpoint(endpoint, other, goes_by_our_name=is_here)

        loads: list[_Load] = []
        with journal.open_dead_journals(is_ours, elsewhere) as taken:
            try:
                try:
                    await run_in_daemon_thread(lambda: loads.extend(map(_Load, islice(taken, _AT_ONCE))))
                except OSError as problem:  # no descriptor is left, say
                    diagnostics.count("journal_failed", "journals cannot be read at the moment: %s", problem)
                for load in loads:
                    await self._fill(load)
                for load in loads:
                    await self._intake.wait_until_done(load)
                    outside_loop(load.dead.finish)()
                    self.journals += 1
            finally:
                for load in loads:
                    load.dead.release()
        return len(loads)

    async def _fill(self, load: _Load) -> None:
        """Give the batcher all rows of a journal."""
        rows = load.dead.rows()
        while some := await run_in_daemon_thread(lambda: list(islice(rows, _CHUNK))):
            if self._settings.session == "thread":
                for record in some:
                    if record.status == Status.LOST:
                        use_thread_as_session(record)
            await self._intake.put(map(row_of, some), load)

    @outside_loop
    def _keep_rejected(self, record: CallRecord, code: str, reason: str) -> bool:
        return self._journal is not None and self._journal.dead_letters.append(record, code, reason)


class _Load(Load):
    """A journal of which rows are on their way."""

    def __init__(self, dead: DeadJournal) -> None:
        self.dead = dead
