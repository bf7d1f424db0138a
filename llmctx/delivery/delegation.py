"""Journals that this process leaves to `llmctx ship --host`, which stores the rows of all processes of a host.

A journal that was left is like that of a dead process: the process that gets its lock stores its rows and removes its
directory. So nothing is lost, and nothing is double, whichever of the two dies; and where no shipper has been seen for
a while this process recovers what it has left, and stores its rows itself.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import JournalUnavailable
from llmctx.delivery.journal import Journal
from llmctx.delivery.journal.directory import DEAD_LETTERS, touch, touched_at
from llmctx.delivery.recovery import Recovery

_FILE: Final = ".shipper"
_ABSENT_S: Final = 10.0
"""A shipper that has said nothing for so long is none."""
_EVERY_S: Final = 0.5


def announce_shipper(directory: Path) -> None:
    """Say to the processes whose journals lie in `directory` that a shipper is at work. Raise OSError."""
    touch(directory / DEAD_LETTERS / _FILE)


class Delegation:
    """Journals left to the shipper, and whether there is one. Belongs to the pipeline's thread."""

    def __init__(self) -> None:
        self.is_served = False
        """Whether a shipper was seen lately."""
        self.shipped_rows = 0
        """Rows that it has taken care of."""
        self._bytes = 0
        self._delegated: dict[Path, tuple[int, int]] = {}
        self._sign = 0
        self._seen_at = 0.0
        self._left_at = 0.0

    def poll_shipper(self, directory: Path) -> None:
        """See whether a shipper is at work on `directory`: by its clock, which may not be ours, only changes count."""
        sign = touched_at(directory / DEAD_LETTERS / _FILE)
        if not sign:
            self.is_served = False
            return
        now = time.monotonic()
        if sign != self._sign:
            is_new = self._sign or abs(time.time() - sign / 1e9) < _ABSENT_S
            self._sign, self._seen_at = sign, now if is_new else -_ABSENT_S
        self.is_served = now - self._seen_at < _ABSENT_S

    def should_delegate(self, journal: Journal, room: int) -> bool:
        """Return whether it is time to leave `journal`: not where more than `room` bytes lie there, for a shipper that
        is behind; nor all the time, for each costs a directory.
        """
        is_due = time.monotonic() - self._left_at >= _EVERY_S
        return self.is_served and is_due and self._bytes + journal.used_bytes <= room and journal.is_intact

    def delegate(self, old: Journal, begin: Callable[[Path], Journal], recovery: Recovery) -> Journal | None:
        """Leave `old` to the shipper. Return the journal that takes its place; None if that is not possible."""
        try:
            new = begin(old.directory)
        except (JournalUnavailable, OSError):
            return None
        size = old.used_bytes
        try:
            new.copy_starts(old)
            left = old.leave_to_recovery()
        except OSError as problem:
            new.close(discard=True)
            diagnostics.count("journal_failed", "rows cannot be handed to the shipper: %s", problem)
            return None
        self._left_at = time.monotonic()
        self._delegated[old.directory / old.name] = left, size
        self._bytes += size
        recovery.previous_journals.add(old.name)  # unless the shipper does it
        recovery.left_at_close += left
        return new

    def collect(self, recovery: Recovery) -> None:
        """Count the rows of journals that are gone: the shipper has taken care of them, or `recovery` has."""
        for path in [path for path in self._delegated if not _is_there(path)]:
            left, size = self._delegated.pop(path)
            self._bytes -= size
            if path.name in recovery.previous_journals:
                recovery.previous_journals.discard(path.name)
                recovery.left_at_close -= left
                self.shipped_rows += left


def _is_there(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        path.stat()
        return True
    return False
