"""Recovery of the journals of dead processes, by the spool of a living one.

Their files stay where they are, locked, until the destination has all of it. Should this process die meanwhile, the
next one recovers them; storing twice is harmless. The rows are counted apart from this process's own.

A journal belongs to a database, not to its name (`storage/database_identity.py`): rows that were to go to another one
stay.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence, Set
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.place import Place, is_of
from llmctx.core.record import CallRecord
from llmctx.core.threads import outside_loop, run_in_daemon_thread
from llmctx.delivery.batcher import Batcher
from llmctx.delivery.destination import Destination
from llmctx.delivery.journal import DeadJournal, Journal
from llmctx.settings import Settings

_AT_ONCE: Final = 200  # records that are read from a journal before anything else is done
_EVERY_S: Final = 3.0
_CONNECTED_S: Final = 0.1  # between two looks whether the destination is known that was asked for
_ELSEWHERE_EVERY: Final = 5  # rounds between two looks into directories of other names: the same place may have several


class Recovery:
    """The rows of dead processes on their way into `batcher`. Belongs to the pipeline's thread.

    Args:
        batcher: takes the rows as long as no more than `room` bytes wait there.
        held: calls of this process whose rows are in the batcher's memory; the spool's, which removes them.
        room: in bytes.
        destination: whose rows these are to be.
        settings: say where else journals lie.
        lost: applied to the rows of calls that were open when their process died.
    """

    def __init__(
        self,
        batcher: Batcher,
        held: set[bytes],
        room: int,
        destination: Destination,
        settings: Settings,
        lost: Callable[[CallRecord], CallRecord] | None = None,
    ) -> None:
        self._batcher = batcher
        self._held = held
        self._room = room
        self._destination = destination
        self._settings = settings
        self._lost = lost
        self._rounds = 0
        self._is_asked = False
        self._progress = asyncio.Event()
        self._recovered_ids: set[bytes] = set()
        """Calls of dead processes whose rows are in the batcher's memory, or in transit."""
        self._own_again: set[bytes] = set()
        """Calls of this process whose rows are in the journal that is being recovered, and stored from there."""
        self._returned: set[bytes] = set()
        """Calls whose rows are to be read from that journal once more."""
        self.journal: Journal | None = None
        """This process's own, whose directory is looked through."""
        self.is_left_to_shipper: Callable[[], bool] = lambda: False
        """Return whether another process of this host does it."""
        self.previous_journals: set[str] = set()
        """Names of journals of this process that were closed with something in them."""
        self.left_at_close = 0
        """Rows that were in those alone: with the others' until they are recovered."""
        self.written = self.quarantined = self.given_up = 0

    @property
    def pending(self) -> int:
        """Rows of dead processes that are in the batcher's memory, or in transit."""
        return len(self._recovered_ids)

    def holds(self, call_id: bytes) -> bool:
        """Return whether this is a call of a dead process whose row is in the batcher's memory, or in transit."""
        return call_id in self._recovered_ids

    def done(self, call_ids: Sequence[bytes]) -> None:
        """Count those of the rows, which the batcher does not hold any more, that are of dead processes."""
        if self._recovered_ids:
            theirs = self._recovered_ids.intersection(call_ids)
            self.written += len(theirs)
            self._recovered_ids -= theirs
        self._progress.set()

    def rejected(self, call_id: bytes, *, is_kept: bool) -> None:
        """Count a row that the destination will never take, if it is of a dead process."""
        if call_id in self._recovered_ids:
            self._recovered_ids.remove(call_id)
            self.quarantined += is_kept
            self.given_up += not is_kept

    def take_back(self, call_ids: Set[bytes]) -> int:
        """Have rows of dead processes read again. Return how many of these calls are such."""
        theirs = self._recovered_ids & call_ids
        self._recovered_ids -= theirs
        self._returned |= theirs
        self._progress.set()
        return len(theirs)

    def take_back_own(self, call_ids: Set[bytes]) -> Set[bytes]:
        """Have rows of this process that lie in the journal being recovered read again. Return their calls."""
        own = self._own_again & call_ids
        self._returned |= own
        self.left_at_close += len(own)
        self._progress.set()
        return own

    def forget(self, but: Set[bytes]) -> int:
        """Forget the rows of dead processes that are not among these. Return how many."""
        gone = len(self._recovered_ids - but)
        self._recovered_ids &= but
        return gone

    def restart(self) -> None:
        """Prepare for another event loop."""
        self._progress = asyncio.Event()

    async def run(self) -> None:
        """Look for journals of dead processes every few seconds, until cancelled."""
        while True:
            journal = self.journal
            try:
                if journal is not None and not self.is_left_to_shipper():
                    await self._recover_all(journal)
            except Exception as problem:  # noqa: BLE001  the disk; the next round tries again
                diagnostics.count(
                    "adoption_failed", "the journal of a dead process could not be recovered", exc=problem
                )
            await self._rest()

    async def _rest(self) -> None:
        """Sleep until the next round, which comes as soon as the place is known that this one has asked for."""
        rest_s = _EVERY_S * (0.5 + random.random())  # noqa: S311  spread: workers die together
        if not self._is_asked:
            await asyncio.sleep(rest_s)
            return
        until, self._is_asked = time.monotonic() + rest_s, False
        # polled: a destination has no event for it
        while self._destination.place is None and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(_CONNECTED_S)

    async def _recover_all(self, journal: Journal) -> None:
        elsewhere = self._elsewhere() if self._rounds % _ELSEWHERE_EVERY == 0 else []
        if not elsewhere and not outside_loop(lambda: journal.has_company)():
            self._rounds += 1
            return
        if self._destination.place is None:  # whose they are is known only with a connection
            # which is not made for journals of the living
            if await run_in_daemon_thread(partial(journal.has_orphans, elsewhere)):
                self._batcher.prepare_soon()
                self._is_asked = True
            return
        self._rounds += 1
        journals = journal.recover(self._is_ours, elsewhere)
        while (dead := await run_in_daemon_thread(partial(next, journals, None))) is not None:
            with dead:
                await self._recover(dead)

    @outside_loop
    def _elsewhere(self) -> list[Path]:
        roots = self._settings.journal_roots(self._destination.key)
        journal = self.journal
        return [root for root in roots if journal is None or root != journal.directory]

    def _is_ours(self, place: Place, is_here: bool) -> bool:
        """Return whether rows that were to go to `place` may go where ours go; `is_here`: it goes by the same name."""
        here = self._destination.place
        return here is not None and is_of(here, place, goes_by_our_name=is_here)

    async def _recover(self, dead: DeadJournal) -> None:
        """Give the batcher everything of a dead process's, wait until all of it is done, then remove its files."""
        again = self._own_again = set()
        self._returned = set()
        wanted: Set[bytes] | None = None
        while wanted is None or wanted:
            await self._offer(dead, again, wanted)
            while self._recovered_ids or not again.isdisjoint(self._held):
                await self._wait()
            wanted, self._returned = self._returned, set()
        if len(dead):
            diagnostics.count(
                "journal_adopted", "%d calls were recovered from the journal of a dead process", len(dead)
            )
        outside_loop(dead.finish)()
        self.previous_journals.discard(dead.name)

    async def _offer(self, dead: DeadJournal, again: set[bytes], wanted: Set[bytes] | None) -> None:
        """Give the batcher the rows of a dead process: all, or those of the calls `wanted`."""
        is_ours = dead.name in self.previous_journals
        # a record may be one of ours; a call that is lost was never counted as waiting
        lost = dead.lost_calls() if self._lost is None else map(self._lost, dead.lost_calls())
        rows = chain(zip(dead.records(), repeat(True)), zip(lost, repeat(False)))
        while some := await run_in_daemon_thread(lambda: list(islice(rows, _AT_ONCE))):
            for record, is_whole in some:
                call_id = record.call_id.bytes
                if call_id in self._recovered_ids or (wanted is not None and call_id not in wanted):
                    continue  # from before we had to restart
                if call_id in self._held:  # from before we were closed
                    again.add(call_id)
                    continue
                while not self._batcher.offer(record, self._room):
                    await self._wait()
                if is_ours and is_whole and self.left_at_close:
                    self.left_at_close -= 1
                    self._held.add(call_id)
                    again.add(call_id)
                else:
                    self._recovered_ids.add(call_id)

    async def _wait(self) -> None:
        self._progress.clear()
        await self._progress.wait()
