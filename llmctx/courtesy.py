"""Giving way: the pipeline works when the application does not need the interpreter, as long as that can wait.

All threads of a process share one interpreter lock. What the pipeline does while the application is busy, the
application waits for, however little it is; what it does while models are awaited costs nobody anything. So a busy
application is left alone, ten times as long as the pipeline lingers anyway, or until `MOST_CALLS` wait: they are
bounded, and on disk they are no more than markers. Then the work is done in small pieces, with a pause behind each in
which the lock changes hands.
"""

from __future__ import annotations

import time
from typing import Final

_PATIENCE: Final = 10
MOST_CALLS: Final = 500
_BUSY: Final = 0.5  # of a processor
_LATE_S: Final = 0.002  # somebody else had the lock, or the machine has no processor to spare
_PIECE_S: Final = 250e-6
_PAUSE_S: Final = 10e-6
"""What the kernel makes of it is some 60 µs: enough for another thread to wake up and take the lock."""


class Courtesy:
    """For one thread, the pipeline's."""

    def __init__(self, linger_s: float) -> None:
        self._patience_s = _PATIENCE * linger_s
        self._since = 0.0
        self._wall = self._all = self._own = 0.0
        self._paused = 0.0

    def begin(self) -> None:
        """Calls have come. From now on it is measured what the other threads do."""
        self._since = time.monotonic()
        self._look()

    def waits(self, waiting: int, late_s: float = 0.0) -> bool:
        """Whether `waiting` calls had better wait a little longer. This thread has just woken up `late_s` too late."""
        is_busy = self._look() or late_s > _LATE_S
        return is_busy and waiting < MOST_CALLS and self._wall - self._since < self._patience_s

    def pause(self) -> None:
        """Offer the interpreter behind each piece of work of a fraction of a millisecond.

        `sleep(0)` would let go of it and take it again before another thread has woken up, and he who waits for it
        would begin to wait anew.
        """
        now = time.monotonic()
        if now - self._paused > _PIECE_S:
            time.sleep(_PAUSE_S)
            self._paused = time.monotonic()

    def _look(self) -> bool:
        """Whether the others have used much of a processor since the last look."""
        before = self._wall, self._all - self._own
        self._wall, self._all, self._own = time.monotonic(), time.process_time(), time.thread_time()
        return self._all - self._own - before[1] > _BUSY * (self._wall - before[0])
