"""Rows of this process that are in its journal alone: read back, oldest first, when the batcher has room for them.

Each is there until it is read back, left to another process, or lost: what cannot be read any more is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.record import CallRecord
from llmctx.delivery.batcher import Batcher
from llmctx.delivery.journal import Journal

_READ_AT_ONCE: Final = 1000  # records between two looks at everything else that runs in the loop


class Backlog:
    """The number of rows on disk alone, and how far they have been read back. Belongs to the pipeline's thread.

    Args:
        batcher: takes the rows as long as no more than `room` bytes wait there.
        held: calls whose rows are in the journal and in the batcher's memory; the spool's, which removes them.
        room: in bytes.
    """

    def __init__(self, batcher: Batcher, held: set[bytes], room: int) -> None:
        self._batcher = batcher
        self._held = held
        self._room = room
        self.rows = 0
        self.unreadable = 0
        """Rows that were lost with the journal, or with a part of it."""
        self._reading: Iterator[CallRecord] | None = None
        self._read: CallRecord | None = None

    def rewind(self) -> None:
        """Begin to read anew: the rows are in another journal now, or in none."""
        self._reading = self._read = None

    def clear(self) -> int:
        """Forget the rows, which are left to another process. Return how many there were."""
        rows, self.rows = self.rows, 0
        self.rewind()
        return rows

    def count_lost(self, rows: int) -> None:
        """Count so many of the rows as lost."""
        self.rows -= rows
        self.unreadable += rows

    def read_back(self, journal: Journal) -> None:
        """Give the batcher what is in `journal` alone, as far as it has room."""
        if self._batcher.waiting_bytes > self._room // 2:
            return
        has_just_begun = False
        for _ in range(_READ_AT_ONCE):
            if not self.rows:
                return
            if self._reading is None:
                self._reading, has_just_begun = journal.pending_records(besides=self._held), True
            try:
                record, self._read = self._read or next(self._reading, None), None
            except OSError as problem:  # no descriptor is left, say
                diagnostics.count("journal_failed", "the journal cannot be read at the moment: %s", problem)
                self._reading = None
                return
            if record is None:
                self._reading = None
                if has_just_begun:  # all of it was read, and nothing is there
                    self._abandon(journal)
                continue
            has_just_begun = False
            call_id = record.call_id.bytes
            if call_id in self._held:
                continue
            if not self._batcher.offer(record, self._room):
                self._read = record
                return
            self._held.add(call_id)
            self.rows -= 1

    def _abandon(self, journal: Journal) -> None:
        diagnostics.count("journal_damaged", "%d of the rows in the journal cannot be read any more", self.rows)
        journal.mark_done([call_id for call_id in journal.pending_ids() if call_id not in self._held])
        self.count_lost(self.rows)
