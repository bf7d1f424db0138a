"""A lock that a failure cannot leave closed for ever: an exception may strike between a block's end and its release."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from typing import Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.pause import pause

_LOST_S: Final = 1.0  # what is done under most of these takes microseconds


class RecoverableLock:
    """A reentrant lock, for the garbage collector may run other code of ours in the middle of a block.

    A thread that has waited for `lost_s` seconds gives it up for a new one: no block lasts as long.
    """

    def __init__(self, lost_s: float = _LOST_S) -> None:
        self._lost_s = lost_s
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=self._lost_s):
            diagnostics.count("lock_lost", "a lock was not released in time and was replaced by a new one")
            self._lock = threading.RLock()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):  # it was given up meanwhile
            self._lock.release()


_FORK_S: Final = 5.0  # longer than a fork takes: an exception may strike in the middle of it


class ForkLock:
    """A context manager for the work, reentrant; `acquire` and `release` for the fork, `renew` for the child."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget who held it: a thread that is not there any more."""
        self._lock = threading.RLock()

    def acquire(self, timeout: float = -1) -> bool:
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        with contextlib.suppress(RuntimeError):  # it was renewed meanwhile
            self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class ForkGate:
    """A `ForkLock` for long work: a fork that waits comes first, and one that never ends is given up.

    `is_awaited_in` says that the work awaits: other work of the same thread may then enter the other gates. But for
    that no thread enters a gate while it is in one, for a fork closes all of them, one after another.
    """

    def __init__(self, *, is_awaited_in: bool = False) -> None:
        self.is_awaited_in = is_awaited_in
        self._lock = threading.RLock()  # the work itself may fork
        self._wanted = 0
        gates.add(self)

    def acquire(self, timeout: float) -> bool:
        self._wanted += 1
        try:
            return self._lock.acquire(timeout=timeout)
        finally:
            self._wanted -= 1

    def release(self) -> None:
        with contextlib.suppress(RuntimeError):  # it was given up meanwhile
            self._lock.release()

    def __enter__(self) -> None:
        deadline = time.monotonic() + _FORK_S
        while self._wanted and time.monotonic() < deadline:
            pause(0.0005)
        if not self._lock.acquire(timeout=_FORK_S):
            diagnostics.count("lock_lost", "a fork did not reopen its gate, which was replaced by a new one")
            self._lock, self._wanted = threading.RLock(), 0
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


gates: Final[weakref.WeakSet[ForkGate]] = weakref.WeakSet()
"""All of them; a fork closes each."""
