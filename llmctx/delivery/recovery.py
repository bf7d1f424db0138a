"""Recovery of the journals of dead processes, by the spool of a living one.

Their files stay where they are, locked, until the destination has all of it. Should this process die meanwhile, the
next one recovers them; storing twice is harmless. The rows are counted apart from this process's own. What a broker
has may wait for the database for a long time: no journal waits for another one, up to `_MOST_ROWS`.

A journal belongs to a database, not to its name (`storage/database_identity.py`): rows that were to go to another one
stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.endpoint import Endpoint, is_same_endpoint
from llmctx.core.record import CallRecord
from llmctx.core.text import counted
from llmctx.core.threads import outside_loop, run_in_daemon_thread
from llmctx.delivery.batcher import Batcher
from llmctx.delivery.destination import Destination
from llmctx.delivery.journal import DeadJournal, Journal
from llmctx.settings import Settings

_AT_ONCE: Final = 200  # records that are read from a journal before anything else is done
_MOST_ROWS: Final = 50_000
"""Rows in memory, or in transit, with which no other journal is begun."""
_EVERY_S: Final = 3.0
_CONNECTED_S: Final = 0.1  # between two looks whether the destination is known that was asked for
_ELSEWHERE_EVERY: Final = 5  # rounds between two looks into directories of other names: the same place may have several


@dataclass(slots=True, eq=False)
class _Recovering:
    """A journal whose rows are on their way."""

    dead: DeadJournal
    pending: int = 0
    """Its rows that are in the batcher's memory, or in transit."""
    own: set[bytes] = field(default_factory=set)
    """Calls of this process whose rows are in it, and stored from there."""
    returned: set[bytes] = field(default_factory=set)
    """Calls whose rows are to be read from it once more."""


def _locked(
    taken: contextlib.AbstractContextManager[Iterator[DeadJournal]],
) -> Generator[DeadJournal | None, None, None]:
    """Yield journals, then None, and release all of them when it is closed."""
    with taken as journals, contextlib.ExitStack() as locked:
        yield from map(locked.enter_context, journals)
        yield None


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
        self._recovered: dict[bytes, _Recovering] = {}
        """Calls of dead processes whose rows are in the batcher's memory, or in transit, and the journals of these."""
        self._recovering: list[_Recovering] = []
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
        """Return the number of rows of dead processes that are in the batcher's memory, or in transit."""
        return len(self._recovered)

    def holds(self, call_id: bytes) -> bool:
        """Return whether this is a call of a dead process whose row is in the batcher's memory, or in transit."""
        return call_id in self._recovered

    def on_stored(self, call_ids: Sequence[bytes]) -> None:
        """Count those of the rows, which the batcher does not hold any more, that are of dead processes."""
        if self._recovered:
            self.written += len(self._let_go(call_ids))
        self._progress.set()

    def on_rejected(self, call_id: bytes, *, is_kept: bool) -> None:
        """Count a row that the destination will never take, if it is of a dead process."""
        if self._let_go((call_id,)):
            self.quarantined += is_kept
            self.given_up += not is_kept

    def take_back(self, call_ids: Set[bytes]) -> int:
        """Have rows of dead processes read again. Return how many of these calls are such."""
        theirs = self._let_go(call_ids)
        for call_id, of in theirs:
            of.returned.add(call_id)
        self._progress.set()
        return len(theirs)

    def take_back_own(self, call_ids: Set[bytes]) -> Set[bytes]:
        """Have rows of this process that lie in a journal being recovered read again. Return their calls."""
        taken: set[bytes] = set()
        for of in self._recovering:
            again = of.own & call_ids
            of.returned |= again
            taken |= again
        self.left_at_close += len(taken)
        self._progress.set()
        return taken

    def forget(self, but: Set[bytes]) -> int:
        """Forget the rows of dead processes that are not among these. Return how many."""
        return len(self._let_go([call_id for call_id in self._recovered if call_id not in but]))

    def _let_go(self, call_ids: Iterable[bytes]) -> list[tuple[bytes, _Recovering]]:
        """Return which of these are of dead processes, and of which journals; they are of none from now on."""
        gone = [(call_id, of) for call_id in call_ids if (of := self._recovered.pop(call_id, None)) is not None]
        for _, of in gone:
            of.pending -= 1
        return gone

    def restart(self) -> None:
        """Prepare for another event loop."""
        self._progress = asyncio.Event()

    async def run(self) -> None:
        """Look for journals of dead processes every few seconds, until cancelled."""
        async with asyncio.TaskGroup() as rounds:
            while True:
                journal = self.journal
                if journal is not None and not self.is_left_to_shipper():
                    begun = asyncio.Event()
                    rounds.create_task(self._round(journal, begun), name="llmctx-recovery-round")
                    await begun.wait()
                await self._rest()

    async def _round(self, journal: Journal, begun: asyncio.Event) -> None:
        """Recover what there is; `begun` is set when all of it is on its way."""
        try:
            await self._recover_all(journal, begun)
        except Exception as found:  # noqa: BLE001  the disk; the next round tries again
            problem = found.exceptions[0] if isinstance(found, ExceptionGroup) else found
            diagnostics.count("adoption_failed", "the journal of a dead process could not be recovered", exc=problem)
        finally:
            begun.set()

    async def _rest(self) -> None:
        """Sleep until the next round, which comes as soon as the endpoint is known that this one has asked for."""
        rest_s = _EVERY_S * (0.5 + random.random())  # noqa: S311  spread: workers die together
        if not self._is_asked:
            await asyncio.sleep(rest_s)
            return
        until, self._is_asked = time.monotonic() + rest_s, False
        # polled: a destination has no event for it
        while self._destination.endpoint is None and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(_CONNECTED_S)

    async def _recover_all(self, journal: Journal, begun: asyncio.Event) -> None:
        elsewhere = self._elsewhere() if self._rounds % _ELSEWHERE_EVERY == 0 else []
        if not elsewhere and not outside_loop(lambda: journal.has_company)():
            self._rounds += 1
            return
        if self._destination.endpoint is None:  # whose they are is known only with a connection
            # which is not made for journals of the living
            if await run_in_daemon_thread(partial(journal.has_orphans, elsewhere)):
                self._batcher.prepare_soon()
                self._is_asked = True
            return
        self._rounds += 1
        journals = _locked(journal.open_dead_journals(self._is_ours, elsewhere))
        recovering: list[_Recovering] = []
        try:
            async with asyncio.TaskGroup() as settling:
                while (dead := await run_in_daemon_thread(partial(next, journals))) is not None:
                    one = _Recovering(dead)
                    recovering.append(one)
                    self._recovering.append(one)
                    await self._offer(one)
                    settling.create_task(self._settle(one), name="llmctx-recovery-settle")
                    while len(self._recovered) > _MOST_ROWS:
                        await self._wait()
                begun.set()
        finally:
            for one in recovering:
                self._recovering.remove(one)
            with contextlib.suppress(ValueError):  # cancelled, while the thread reads: then it goes when that has read
                journals.close()

    @outside_loop
    def _elsewhere(self) -> list[Path]:
        roots = self._settings.journal_roots(self._destination.key)
        journal = self.journal
        return [root for root in roots if journal is None or root != journal.directory]

    def _is_ours(self, endpoint: Endpoint, is_here: bool) -> bool:
        """Return whether rows for `endpoint` may go where ours go; `is_here`: it goes by the same name."""
        here = self._destination.endpoint
        return here is not None and is_same_endpoint(here, endpoint, goes_by_our_name=is_here)

    async def _settle(self, one: _Recovering) -> None:
        """Wait until all of a dead process's that is on its way is done, then remove its files."""
        while True:
            while one.pending or not one.own.isdisjoint(self._held):
                await self._wait()
            if not (wanted := one.returned):
                break
            one.returned = set()
            await self._offer(one, wanted)
        dead = one.dead
        if len(dead):
            diagnostics.count(
                "journal_adopted", "%s recovered from the journal of a dead process", counted(len(dead), "call")
            )
        outside_loop(dead.finish)()
        self.previous_journals.discard(dead.name)

    async def _offer(self, one: _Recovering, wanted: Set[bytes] | None = None) -> None:
        """Give the batcher the rows of a dead process: all, or those of the calls `wanted`."""
        dead = one.dead
        is_ours = dead.name in self.previous_journals
        # a record may be one of ours; a call that is lost was never counted as waiting
        lost = dead.lost_calls() if self._lost is None else map(self._lost, dead.lost_calls())
        rows = chain(zip(dead.records(), repeat(True)), zip(lost, repeat(False)))
        while some := await run_in_daemon_thread(lambda: list(islice(rows, _AT_ONCE))):
            for record, is_whole in some:
                call_id = record.call_id.bytes
                if wanted is not None and call_id not in wanted:
                    continue
                if (of := self._recovered.get(call_id)) is not None:  # from before we had to restart
                    of.pending -= 1
                    self._hold(call_id, one)
                    continue
                if call_id in self._held:  # from before we were closed
                    one.own.add(call_id)
                    continue
                while not self._batcher.offer(record, self._room):
                    await self._wait()
                if is_ours and is_whole and self.left_at_close:
                    self.left_at_close -= 1
                    self._held.add(call_id)
                    one.own.add(call_id)
                else:
                    self._hold(call_id, one)

    def _hold(self, call_id: bytes, one: _Recovering) -> None:
        self._recovered[call_id] = one
        one.pending += 1

    async def _wait(self) -> None:
        self._progress.clear()
        await self._progress.wait()
