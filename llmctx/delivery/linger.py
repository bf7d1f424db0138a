"""How long the pipeline lets calls wait before it takes them: for company, and for the application to be done.

Whatever wakes the pipeline pays for cold caches and for some rounds of its event loop, which a call that comes alone
bears by itself. Calls that come slowly wait for one another, half a second at most with the usual linger; one that
comes after a silence does not.
"""

from __future__ import annotations

import time
from typing import Final

from llmctx.core.scheduling import MOST_CALLS, PATIENCE, Throttle
from llmctx.delivery.pace import Pace

_COMPANY: Final = 20
"""Of so many calls at once, each costs little more than of many."""
_SLICE: Final = 4
"""Times the linger, between two looks whether too many wait."""


class Linger:
    """Decide for the pipeline's thread how long to wait. All times are of the monotonic clock, in seconds."""

    def __init__(self, linger_s: float) -> None:
        self._linger_s = linger_s
        self._throttle = Throttle(linger_s)
        self._pace = Pace(PATIENCE * linger_s, _COMPANY)
        self._company_until = self._due = 0.0

    @property
    def has_company(self) -> bool:
        """Return whether calls come so steadily that a look now and then does: none has to wake the thread."""
        return self._pace.linger_s(time.monotonic()) > 0

    def begin(self) -> None:
        """Begin when calls have come, or are about to."""
        now = time.monotonic()
        self._company_until = now + self._pace.linger_s(now)
        self._throttle.begin()

    def next_s(self) -> float:
        """Return how long to wait until `is_over` is asked."""
        now = time.monotonic()
        left_s = self._company_until - now
        # one look between: each costs a thread that has slept more than what it looks at
        wait_s = max(self._linger_s, left_s if left_s < 2 * _SLICE * self._linger_s else _SLICE * self._linger_s)
        self._due = now + wait_s
        return wait_s

    def is_over(self, waiting: int) -> bool:
        """Return whether the calls that wait should be taken now."""
        now = time.monotonic()
        if now < self._company_until and waiting < MOST_CALLS:
            return False
        return not (waiting and self._throttle.should_wait(waiting, now - self._due))

    def end(self, calls: int) -> None:
        """Count the calls that are taken."""
        self._pace.count(time.monotonic(), calls)
