"""How a process finds out that Redis has lost what it was told: flushed, restarted, a replica that lagged, evictions.

In each exchange it leaves a number under a key of its own, and looks for the one before. While there is a gap, that is
until all processes have had the time to tell again what they know, what Redis says of a thread may be half of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from llmctx.identity.registry.redis_keys import Layout
from llmctx.identity.registry.redis_scripts import BEAT, calls

BEAT_S: Final = 1.0  # an exchange is due after this long, whether or not there is anything to tell
_MARK_S: Final = 3600.0  # a number in Redis is looked for within half of this, and goes after it
_GAP_S: Final = 3.0  # a loss is noticed within a beat: by then the others have begun to tell again
_RETELL_S: Final = 30.0  # where Redis goes on evicting, it is told again this often


class Heartbeat:
    """The numbers of one process."""

    def __init__(self, layout: Layout, *, longest_gap_s: float) -> None:
        self._layout = layout
        self._longest_gap_s = max(_GAP_S, longest_gap_s)
        self._number = 0
        self._at = 0.0
        self._evicted: bytes | None = None
        self._retold_at = 0.0
        self._had_gap = False

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._at > BEAT_S

    @property
    def has_gap(self) -> bool:
        """Return whether other processes may not have told again yet what they know."""
        return self._had_gap and time.monotonic() - self._at < _GAP_S

    def command(self, *, is_telling: bool, knows_all: bool) -> tuple[int, tuple[Any, ...]]:
        """Return a number, and the command that leaves it. `is_telling` says that this process tells again.

        Where it does not know all that it has told, for it has forgotten some, a gap lasts until that would have
        expired in Redis.
        """
        layout = self._layout
        expected = self._number if self._number and time.monotonic() - self._at < _MARK_S / 2 else ""
        keys = [layout.process, layout.gap, layout.evicted]
        # Where the last attempt failed, it may have come to Redis all the same: the same number again.
        number = self._number + 1
        gap_s = _GAP_S if knows_all else self._longest_gap_s
        seconds = [_MARK_S, gap_s, self._longest_gap_s]
        mark_ms, gap_ms, longest_ms = (int(1000 * one) for one in seconds)
        arguments = [expected, number, mark_ms, gap_ms, int(is_telling), longest_ms]
        (command,) = calls(BEAT, [(keys, arguments)])
        return number, command

    def receive(self, number: int, answer: Sequence[Any]) -> tuple[float, str | None]:
        """Learn from the answer to a `command`. Return the server's seconds, and why to tell all again, if so."""
        at, is_lost, evicted, gap = answer
        now = time.monotonic()
        before, self._evicted = self._evicted, evicted
        self._number, self._at, self._had_gap = max(self._number, number), now, bool(gap)
        reason = None
        if is_lost:
            reason = "has lost entries"
        elif before not in (None, evicted) and now - self._retold_at > _RETELL_S:
            reason = "has evicted entries (set its maxmemory-policy to noeviction)"
        if reason is not None:
            self._retold_at = now
        return float(at) / 1000, reason
