"""A gate before what does not survive a fork: whoever is in the middle of it holds the gate, whoever forks takes it.

A plain lock would do if its holder ever waited. A writer under load lets go and takes it again at once, and starves
the one who wants to fork; here the one who forks goes first.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Final

from llmctx.incidents import incidents

_LOST_S: Final = 5.0  # longer than a fork takes: an exception may strike in the middle of it


class ForkGate:
    """A context manager for the work; `acquire` and `release` for whoever forks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = 0

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
        deadline = time.monotonic() + _LOST_S
        while self._wanted and time.monotonic() < deadline:
            time.sleep(0.0005)
        if not self._lock.acquire(timeout=_LOST_S):
            incidents.note("lock_lost", "whoever forked has not opened the gate again; there is a new one")
            self._lock, self._wanted = threading.Lock(), 0
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
