"""Giving way: the pipeline works when the application does not need the interpreter, as long as that can wait.

All threads of a process share one interpreter lock. What the pipeline does while the application is busy, the
application waits for, however little it is; what it does while models are awaited costs nobody anything. So a busy
application is left alone, for `PATIENCE_S` or until `MOST_CALLS` wait: they are bounded, and on disk they are no more
than markers. Then the work is done in small pieces, with a pause behind each in which the lock changes hands.
"""

from __future__ import annotations

import time
from typing import Final

PATIENCE_S: Final = 1.0
MOST_CALLS: Final = 1000
_BUSY: Final = 0.5  # of a processor
_PAUSE_S: Final = 1e-5
"""What the kernel makes of it is some 60 µs: enough for another thread to wake up and take the lock."""


class Courtesy:
    """For one thread, the pipeline's."""

    def __init__(self) -> None:
        self._since = 0.0
        self._busy = False
        self._wall = self._all = self._own = 0.0

    def begin(self) -> None:
        """Calls have come. From now on it is measured what the other threads do."""
        self._since = time.monotonic()
        self._look()

    def waits(self, waiting: int) -> bool:
        """Whether `waiting` calls had better wait a little longer."""
        self._busy = self._look()
        return self._busy and waiting < MOST_CALLS and self._wall - self._since < PATIENCE_S

    def pause(self, waiting: int) -> None:
        """Offer the interpreter, behind a piece of work of a fraction of a millisecond.

        `sleep(0)` alone lets go of it and takes it again before another thread has woken up.
        """
        time.sleep(_PAUSE_S if self._busy and waiting < MOST_CALLS else 0)

    def _look(self) -> bool:
        """Whether the others have used much of a processor since the last look."""
        before = self._wall, self._all - self._own
        self._wall, self._all, self._own = time.monotonic(), time.process_time(), time.thread_time()
        return self._all - self._own - before[1] > _BUSY * (self._wall - before[0])
