"""How long a batch waits for company: the longer, the fewer rows come, so that a process with few calls makes batches.

Many processes with few calls each would otherwise send each row by itself, for twelve times the work of the server. A
row that comes after a silence does not wait, nor does one that would wait in vain.
"""

from __future__ import annotations

import math
from typing import Final

from llmctx.core.sigterm import is_ending

_MEMORY_S: Final = 3.0  # of what came before that, a third counts
_LONGEST_S: Final = 1.2
"""With the worker's own linger and the statement, a row is in the table within two seconds."""
_ROWS: Final = 100
"""Of a batch of so many, each row costs little more than of a full one."""


class Pace:
    """The rate at which rows come. All times are of the monotonic clock, in seconds."""

    def __init__(self, longest_s: float = _LONGEST_S, rows: int = _ROWS) -> None:
        """Linger for `longest_s` at most, and no longer than it takes for `rows` to come."""
        self._longest_s = longest_s
        self._rows = rows
        self._rate = 0.0
        self._at = 0.0

    def count(self, now: float, rows: int = 1) -> None:
        """Count `rows`."""
        self._rate = self._rate_at(now) + rows / _MEMORY_S
        self._at = now

    def linger_s(self, now: float) -> float:
        """Return for how long a batch should wait that begins `now`, judged by the rows that came before."""
        rate = self._rate_at(now)
        if rate * self._longest_s < 1 or is_ending():
            return 0.0
        return min(self._longest_s, self._rows / rate)

    def _rate_at(self, now: float) -> float:
        """Return rows a second."""
        return self._rate * math.exp((self._at - now) / _MEMORY_S)
