"""Giving way: the pipeline works when the application does not need the interpreter, as long as that can wait.

To be deleted where only builds of Python without the global interpreter lock are supported.

All threads of a process share one interpreter lock. What the pipeline does while the application is busy, the
application waits for, however little it is; what it does while models are awaited costs nothing. So a busy
application is left alone, ten times as long as the pipeline lingers anyway, or until `MOST_CALLS` wait: they are
bounded, and on disk they are no more than markers. Then the work is done in small pieces, with a pause behind each in
which the lock changes hands (`yield_gil`): in the pipeline, in the journal, and while rows are made ready for the
database. Otherwise an event loop would stand still for the five milliseconds after which Python takes the lock away.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from llmctx.core.pause import pause
from llmctx.core.threads import outside_loop

T = TypeVar("T")

PATIENCE: Final = 10
"""Times the linger, for which calls wait at most."""
MOST_CALLS: Final = 500
_BUSY: Final = 0.5  # of a processor
_LATE_S: Final = 0.002  # another thread had the lock, or the machine has no processor to spare
_PIECE_S: Final = 500e-6
_LARGEST_PIECE_S: Final = 4e-3  # of work while no other thread wants to run
_LOOK_S: Final = 0.02
_AWAKE: Final = 0.02  # of a processor
_PAUSE_S: Final = 10e-6
"""What the kernel makes of it is some 60 µs: enough for another thread to wake up and take the lock."""
_PAUSE_PER_WORK: Final = 8
"""Times the work, that a pause may take: where a busy machine makes it longer, the next piece is larger."""
_STRIDE: Final = 8  # items of a few microseconds each, between two looks at the clock


class Throttle:
    """Decide for one thread, the pipeline's, whether to leave the processor to the application."""

    def __init__(self, linger_s: float) -> None:
        self._patience_s = PATIENCE * linger_s
        self._since = 0.0
        self._wall = self._others = 0.0

    def begin(self) -> None:
        """Begin when calls have come: from now on it is measured what the other threads do."""
        self._since = time.monotonic()
        self._look()

    def should_wait(self, waiting: int, late_s: float = 0.0) -> bool:
        """Return whether `waiting` calls should wait a little longer. This thread has woken up `late_s` too late."""
        is_busy = self._look() or late_s > _LATE_S
        return is_busy and waiting < MOST_CALLS and self._wall - self._since < self._patience_s

    def _look(self) -> bool:
        """Return whether the others have used much of a processor since the last look."""
        before = self._wall, self._others
        self._wall, self._others = time.monotonic(), _used_by_others()
        return self._others - before[1] > _BUSY * (self._wall - before[0])


def _used_by_others() -> float:
    """Return the processor seconds that the other threads of this process have used."""
    return time.process_time() - time.thread_time()


class _Pauses:
    """The pauses so far. Shared by the call logs of a process, and unlocked: a pause too many does no harm."""

    since = 0.0
    piece_s = _PIECE_S
    least_s = 0.0
    """The pause before took so long that a piece should not be smaller."""
    looked = 0.0
    others = 0.0


def yield_gil() -> None:
    """Offer the interpreter, behind each piece of work of a fraction of a millisecond. Not for an event loop's thread.

    `sleep(0)` would let go of it and take it again before another thread has woken up, which would
    begin to wait anew. Where no other thread does anything the pieces are longer.
    """
    now = time.monotonic()
    if now - _Pauses.since < max(_Pauses.piece_s, _Pauses.least_s):
        return
    outside_loop(pause)(_PAUSE_S)
    paused_at, now = now, time.monotonic()
    _Pauses.since, _Pauses.least_s = now, min((now - paused_at) / _PAUSE_PER_WORK, _LARGEST_PIECE_S)
    if (past := now - _Pauses.looked) > _LOOK_S:
        others = _used_by_others()
        _Pauses.piece_s = _PIECE_S if others - _Pauses.others > _AWAKE * past else _LARGEST_PIECE_S
        _Pauses.looked, _Pauses.others = now, others


def yielding(items: Iterable[T]) -> Iterator[T]:
    """Yield `items`, with pauses between them."""
    for number, item in enumerate(items, 1):
        yield item
        if number % _STRIDE == 0:
            yield_gil()
