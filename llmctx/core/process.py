"""The end and the fork of a process: all that happens then, in one declared order.

A script that ends without close() still gets its rows written. Servers end through their lifespan instead, or are told
by SIGTERM (`sigterm.py`). What has ended is in the journal soon; the database gets what is left of
`shutdown_timeout_s`, once for the whole process.

A forked child starts afresh: what it inherited is the parent's. Whatever must be made anew in a child says so here
(`in_forked_child`, `Forkable`), with its place in `ForkStage`. `os.register_at_fork` is called nowhere else.

The call of `threading._register_atexit` may be deleted once Python has a public hook that runs before it refuses to
start threads.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from llmctx.core.guard import guard_harmless, swallow
from llmctx.core.locks import ForkGate, ForkLock, gates

T = TypeVar("T")
F = TypeVar("F", bound=Callable[[], object])


class ForkStage(IntEnum):
    """The things that a forked child makes anew, first to last. Each may rely on those before it."""

    CALL_IDS = 1  # random numbers: it would mint its parent's
    SCOPE = 2  # the scope that was current is the parent's
    REGISTRY = 3  # locks that other threads of the parent held
    SHARED_REGISTRY = 4  # connections
    JOURNAL = 5  # files and their locks, which must end with the parent
    DEAD_JOURNAL = 6  # those that the parent was about to recover
    CALL_LOG = 7  # pipelines, which use all of the above


_hooks: Final[list[tuple[ForkStage, Callable[[], object]]]] = []
fork_lock: Final = ForkLock()
"""Held for moments that a forked child must not inherit half done: a lock that is taken but not noted, an import."""
import_lock: Final = ForkLock()
"""Held where another thread than the application's imports: a child would wait for ever for a module half imported."""
_PATIENCE_S: Final = 1.0  # of a fork: the disk may have hung up
_STORE_S: Final = 10.0  # of a fork, while rows go to SQLite, which waits for other processes for 5 s
_IMPORT_S: Final = 30.0  # of a fork, while modules are imported: that takes long on a busy machine, and ends
_closed: Final[list[ForkGate | ForkLock]] = []
_ATTEMPTS: Final = 2  # of each part of a fork and of the end: what fails once is done again
_OURS: Final = ("llmctx", "asyncio_")  # names of the pipeline's threads, and of those in which its loop looks up hosts
_forks_from_a_thread = _began_in_a_thread = False


def in_forked_child(stage: ForkStage) -> Callable[[F], F]:
    """Run the function in each forked child, in the order of the stages."""

    def register(hook: F) -> F:
        _hooks.append((stage, hook))
        return hook

    return register


class Forkable(Generic[T]):
    """The living objects of one kind: in a forked child `renew` is called with each. Holds them weakly."""

    def __init__(self, stage: ForkStage, renew: Callable[[T], object]) -> None:
        self._all: weakref.WeakSet[T] = weakref.WeakSet()
        self.add = self._all.add
        self.discard = self._all.discard
        in_forked_child(stage)(lambda: self.for_each(renew))

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._all))

    def for_each(self, do: Callable[[T], object]) -> None:
        """Call `do` with each, also where it fails for others."""
        for one in self:
            _persist(partial(do, one), f"a {type(one).__name__}")


def _persist(do: Callable[[], object], what: str) -> None:
    """Call `do`, and once more where it fails: half of it would be left. Count what fails."""
    for _ in range(_ATTEMPTS):
        try:
            do()
        except BaseException as problem:  # noqa: BLE001  the interpreter is ending, or has just forked
            swallow(problem, "lifecycle_failed", "%s failed in a process hook and is called again", what)
        else:
            return


@guard_harmless("lifecycle_failed")
def _before_fork() -> None:
    """Wait until no thread is in the middle of something that does not survive a fork, but never for ever."""
    global _forks_from_a_thread
    _forks_from_a_thread = threading.get_ident() != threading.main_thread().ident
    # In the order in which a thread asks for them: rows are stored across awaits, during which it does all the rest.
    # A child that is born meanwhile takes the parent's lock of the file for its own process's, and waits for ever.
    locks: list[tuple[ForkGate | ForkLock, float]] = [
        *((gate, _STORE_S) for gate in gates if gate.is_awaited_in),
        (import_lock, _IMPORT_S),
        *((gate, _IMPORT_S) for gate in gates if not gate.is_awaited_in),
        (fork_lock, _PATIENCE_S),
    ]
    for lock, patience_s in locks:
        if lock.acquire(timeout=patience_s):
            _closed.append(lock)


@guard_harmless("lifecycle_failed")
def _after_fork_in_parent() -> None:
    while _closed:
        _closed.pop().release()


@guard_harmless("lifecycle_failed")
def _after_fork_in_child() -> None:
    global _began_in_a_thread
    _began_in_a_thread |= _forks_from_a_thread
    _closed.clear()
    gates.clear()  # the threads that would open them are the parent's
    fork_lock.reset()
    import_lock.reset()
    for stage, hook in sorted(_hooks, key=lambda one: one[0]):
        _persist(hook, f"the part {stage.name}")


if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


# -- the end ------------------------------------------------------------------------------------------------------


def is_left_alone() -> bool:
    """Return whether no thread of the application's is left. Only then the pipeline's thread must end by itself.

    Of a process that was forked by a thread, Python does not notice the end: it is over with its last thread, without
    a hook, and the pipeline's would keep it for ever.
    """
    if not _began_in_a_thread or not _first_thread_has_ended():
        return False
    first = threading.main_thread()
    return all(thread is first or thread.name.startswith(_OURS) for thread in threading.enumerate())


def _first_thread_has_ended() -> bool:
    try:
        state = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return not threading.main_thread().is_alive()
    return state.rpartition(")")[2].split()[0] == "Z"  # the others of its process are not seen there


class ProcessHooks(Protocol):
    """The hooks of a call log. `spent_s` are the seconds that the end of the process has taken so far."""

    def hasten(self, patience_s: float) -> None: ...
    async def flush_at_shutdown(self, spent_s: float) -> None: ...
    def flush_at_exit(self, spent_s: float) -> None: ...
    def close_at_exit(self, spent_s: float) -> None: ...
    def after_fork_in_child(self) -> None: ...


running_call_logs: Final[Forkable[ProcessHooks]] = Forkable(
    ForkStage.CALL_LOG, lambda call_log: call_log.after_fork_in_child()
)
"""The call logs that have been started and not closed."""

_spent_s = 0.0


def close_with_the_child(call_log: ProcessHooks) -> None:
    """Close `call_log` with a child of `multiprocessing`, which ends without `atexit`, but not without this."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, _close, args=(call_log,), exitpriority=100)


async def flush_at_shutdown() -> None:
    """Flush while a server shuts down, for coroutines: it may end without any `atexit`."""
    global _spent_s
    for call_log in running_call_logs:
        began = time.monotonic()
        try:
            await call_log.flush_at_shutdown(_spent_s)
        except Exception as problem:  # noqa: BLE001  the server's loop may be none of asyncio
            swallow(problem, "flush_failed", "rows are still being written as the server shuts down")
        finally:
            _spent_s += time.monotonic() - began


def _timed(do: Callable[[float], None]) -> None:
    global _spent_s
    began = time.monotonic()
    try:
        do(_spent_s)
    finally:
        _spent_s += time.monotonic() - began


def _close(call_log: ProcessHooks) -> None:
    _timed(call_log.close_at_exit)


def _flush_before_exit() -> None:
    running_call_logs.for_each(lambda call_log: _timed(call_log.flush_at_exit))


# The first hook comes while a connection can still be made: later no thread starts, and asyncio cannot look up a host.
getattr(threading, "_register_atexit", atexit.register)(_flush_before_exit)
atexit.register(running_call_logs.for_each, _close)
