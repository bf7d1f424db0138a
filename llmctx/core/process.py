"""What call logs do when their process ends or forks.

A script that ends without close() still gets its rows written. Servers end through their lifespan instead. What has
ended is in the journal soon; the database gets what is left of `shutdown_timeout_s`, once for the whole process.

A forked child starts afresh: what it inherited is the parent's.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, Protocol

from llmctx.core.guard import guarded, swallow
from llmctx.core.locks import ForkGate


class ProcessHooks(Protocol):
    """What is asked of a call log."""

    def flush_at_exit(self, spent_s: float) -> None: ...
    def close_at_exit(self, spent_s: float) -> None: ...
    def after_fork_in_child(self) -> None: ...
    @property
    def fork_gate(self) -> ForkGate | None: ...


running: Final[weakref.WeakSet[ProcessHooks]] = weakref.WeakSet()
"""The call logs that have been started and not closed."""

_spent_s = 0.0
_closed_gates: Final[list[ForkGate]] = []


def close_with_the_child(living: ProcessHooks) -> None:
    """A child of `multiprocessing` ends without `atexit`, but not without this."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, _close, args=(living,), exitpriority=100)


def _each_alive(do: Callable[[ProcessHooks], None]) -> None:
    for living in list(running):
        try:
            do(living)
        except BaseException as problem:  # noqa: BLE001  the interpreter is ending, or has just forked
            swallow(problem, "lifecycle_failed", "a call log could not follow the process")


def _timed(do: Callable[[float], None]) -> None:
    """Let `do` know how much time the end of the process has taken so far."""
    global _spent_s
    began = time.monotonic()
    try:
        do(_spent_s)
    finally:
        _spent_s += time.monotonic() - began


def _flush(living: ProcessHooks) -> None:
    _timed(living.flush_at_exit)


def _close(living: ProcessHooks) -> None:
    _timed(living.close_at_exit)


def _flush_before_exit() -> None:
    _each_alive(_flush)


# The first hook comes while a connection can still be made: later no thread starts, and asyncio cannot look up a host.
getattr(threading, "_register_atexit", atexit.register)(_flush_before_exit)
atexit.register(_each_alive, _close)


@guarded("lifecycle_failed", "%s failed; the application is not affected")
def _before_fork() -> None:
    """Wait until nobody is in the middle of something that does not survive a fork, at most a second."""
    for living in list(running):
        gate = living.fork_gate
        if gate is not None and gate.acquire(timeout=1.0):
            _closed_gates.append(gate)


@guarded("lifecycle_failed", "%s failed; the application is not affected")
def _after_fork_in_parent() -> None:
    while _closed_gates:
        _closed_gates.pop().release()


@guarded("lifecycle_failed", "%s failed; the application is not affected")
def _after_fork_in_child() -> None:
    _closed_gates.clear()
    _each_alive(lambda living: living.after_fork_in_child())


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
