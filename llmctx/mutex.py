"""A lock that a failure cannot leave closed for ever: an exception may strike between a block's end and its release."""

from __future__ import annotations

import contextlib
import threading
from typing import Final

from llmctx.incidents import incidents

_LOST_S: Final = 1.0  # what is done under most of these takes microseconds


class Mutex:
    """Reentrant, for the garbage collector may run somebody else's code in the middle of a block.

    After `lost_s` seconds whoever waits for it takes it for lost: longer than what is done under it can last.
    """

    def __init__(self, lost_s: float = _LOST_S) -> None:
        self._lost_s = lost_s
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=self._lost_s):
            incidents.note("lock_lost", "a lock was not released in time, and is given up for a new one")
            self._lock = threading.RLock()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):  # it was given up meanwhile
            self._lock.release()
