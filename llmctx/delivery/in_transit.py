"""Rows that a broker has and the database not yet, where a destination hands them on (`confirms_later`).

They stay in the journal, and only their positions in memory. What the broker may have lost is read from the journal
again. A row that no journal has, for want of one or of room in it, is done when the broker has it: nothing could be
read again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

from llmctx.core.diagnostics import diagnostics
from llmctx.core.record import CallRecord
from llmctx.core.threads import outside_loop
from llmctx.delivery.backlog import Backlog
from llmctx.delivery.destination import Destination
from llmctx.delivery.recovery import Recovery


class InTransit:
    """Rows that a broker has and the database not yet. Belongs to the pipeline's thread.

    Args:
        destination: reports what is stored, and what has to be given again.
        held: calls whose rows are in the journal and not in the backlog; the spool's, which removes what is done.
        recovery: of rows of dead processes, which are counted apart.
        backlog: takes rows that have to be read again.
        finish: called with calls whose rows are done.
    """

    def __init__(
        self,
        destination: Destination,
        held: set[bytes],
        recovery: Recovery,
        backlog: Backlog,
        finish: Callable[[Sequence[bytes]], None],
    ) -> None:
        self._destination = destination
        self._held = held
        self._recovery = recovery
        self._backlog = backlog
        self._finish = finish
        self._dead_letters: set[bytes] = set()
        """Of rows that leave the batcher next."""
        self.rows = 0
        """Rows of this process's calls."""
        self.recovered_rows = 0
        """Rows of dead processes."""
        self.returned_rows = 0
        """Rows that were taken back: the broker is given them more than once."""
        destination.follow(self.confirm, self.take_back)

    @property
    def total(self) -> int:
        """Return the number of rows that the batcher calls stored and that are not."""
        return self.rows + self.recovered_rows + self.returned_rows

    def reject(self, call_id: bytes) -> None:
        """Note that a row that leaves the batcher next is a dead letter."""
        if self._destination.confirms_later:
            self._dead_letters.add(call_id)

    @outside_loop
    def hand_over(self, records: Sequence[CallRecord]) -> None:
        """Note that the broker has `records`; those that are dead letters, or in no journal, are done."""
        done = []
        for record in records:
            call_id = record.call_id.bytes
            if call_id in self._dead_letters:
                self._dead_letters.discard(call_id)
                done.append(call_id)
            elif self._recovery.holds(call_id):
                self.recovered_rows += 1
            elif call_id in self._held:
                self.rows += 1
            else:
                done.append(call_id)
        self._finish(done)

    @outside_loop
    def confirm(self, call_ids: Sequence[bytes]) -> None:
        """Note that the database has these rows."""
        self.recovered_rows -= sum(map(self._recovery.holds, call_ids))
        self.rows -= len(self._held.intersection(call_ids))
        self._finish(call_ids)

    @outside_loop
    def take_back(self, call_ids: Sequence[bytes]) -> None:
        """Have these rows read again, which the broker may have lost."""
        lost = set(call_ids)
        journal = self._recovery.journal
        theirs = self._recovery.take_back(lost)
        ours = self._held & lost
        here = ours - self._recovery.take_back_own(ours)
        self._held -= ours
        self.recovered_rows -= theirs
        self.rows -= len(ours)
        self.returned_rows += theirs + len(ours)
        self._backlog.rows += len(here)
        self._backlog.rewind()
        if gone := len(here.difference(() if journal is None else journal.pending_ids())):
            self._backlog.count_lost(gone)

    def leave_to_recovery(self, in_memory: Set[bytes]) -> None:
        """Leave all to the process that recovers the journal, perhaps this one; `in_memory` is what the batcher has."""
        if not self._destination.confirms_later:
            return
        ours = self._held - in_memory
        self._held -= ours
        self.returned_rows += len(ours) + self._recovery.forget(in_memory)
        self._recovery.left_at_close += len(ours)
        self.rows = self.recovered_rows = 0
        self._destination.follow(self.confirm, self.take_back)
        if ours:
            diagnostics.count(
                "closed_before_stored",
                "closed with %d of its calls at %s, not known to be in the database yet: the next process of "
                "this host sends them again",
                len(ours),
                self._destination.name,
            )
