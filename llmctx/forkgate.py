"""A gate before what does not survive a fork: whoever is in the middle of it holds the gate, whoever forks takes it.

A plain lock would do if its holder ever waited. A writer under load lets go and takes it again at once, and starves
the one who wants to fork; here the one who forks goes first.
"""

from __future__ import annotations

import threading
import time


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
        self._lock.release()

    def __enter__(self) -> None:
        while self._wanted:
            time.sleep(0.0005)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
