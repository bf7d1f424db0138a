"""`carry=True`: threads, executors and queues hand the scope on, for code that cannot be changed.

- `Thread.start`, `Process.start`, `submit` of the standard executors and the pools of multiprocessing carry the scope
  in which they were called, for that one thread or job: ours only, not the whole context. The threads of a pool are
  in no scope: they work for all that submit. A thread that has inherited its scope so may be a worker: what it is
  handed with a job (a config, a thread_id) comes before it.
- An item taken from a queue brings the scope in which it was put, so that a long-lived worker is in the scope of its
  present job, or in none (`queues.py`).

Opt-in, because it changes classes of the standard library for the whole process. Idempotent and removable.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing.pool
import multiprocessing.process
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, Final, TypeGuard

from llmctx.core.guard import guard_harmless, guard_without_ids
from llmctx.core.locks import RecoverableLock
from llmctx.core.patches import Make, patch
from llmctx.identity.carry import each_in, job_scope, run_in_failed_scope
from llmctx.identity.config_carrier import pack
from llmctx.identity.present_scope import present_scope
from llmctx.identity.propagation import queues
from llmctx.identity.scope import (
    EMPTY,
    CallContext,
    Inside,
    Scope,
    carrying_call_logs,
    current_scope,
    failed_scope,
    is_left_over,
)
from llmctx.identity.spawned_work import may_be_of_others
from llmctx.identity.work_frames import callback_here, frames_of, is_in_a_loop, is_in_own_loop

_POOLS: Final = ("concurrent.futures.thread", "concurrent.futures.process", "multiprocessing.pool")
"""Where the targets of threads and processes that work for all stand."""

_lock: Final = RecoverableLock()
_users: Final = carrying_call_logs
_undo: Final[list[Callable[[], None]]] = []


def install(user: object) -> None:
    """Begin to carry, for `user`. Doing it twice is doing it once."""
    with _lock:
        if user in _users:
            return
        _users.append(user)
        if len(_users) == 1:
            _patch(threading.Thread, "start", _start)
            _patch(ThreadPoolExecutor, "submit", _submit_to_thread)
            _patch(ProcessPoolExecutor, "submit", _submit_to_process)
            _patch(multiprocessing.process.BaseProcess, "start", _start_process)
            for name in ("apply_async", "_map_async", "imap", "imap_unordered"):
                _patch(multiprocessing.pool.Pool, name, _pool)
            _patch(asyncio.BaseEventLoop, "create_task", _create_task)
            queues.install(_patch)


def remove(user: object) -> None:
    """Stop carrying for `user`; with the last one the standard library is as it was."""
    with _lock:
        if user not in _users:
            return
        _users.remove(user)
        if not _users:
            while _undo:
                _undo.pop()()


def is_installed() -> bool:
    return bool(_users)


@guard_harmless("carry_failed")
def _patch(kind: Any, name: str, make: Make) -> None:
    undo = patch(kind, name, make)
    if undo is not None:
        _undo.append(undo)


# -- threads and executors --------------------------------------------------------------------------------------------


def _start(original: Any) -> Any:
    def start(self: threading.Thread) -> None:
        _give_scope(self)
        original(self)

    return start


def _give_none(thread: threading.Thread) -> None:
    thread.run = functools.partial(run_in_failed_scope, thread.run)  # type: ignore[method-assign]


@guard_without_ids("carry_failed", otherwise=_give_none)
def _give_scope(thread: threading.Thread) -> None:
    outer = present_scope() if _users else None
    if outer is not None and not _is_pooled(thread):
        thread.run = _inheriting(thread.run, outer, _is_of_worker(outer))  # type: ignore[method-assign]  # this one's, whatever its class


def _inheriting(run: Callable[[], None], outer: Scope, is_of_worker: bool) -> Callable[[], None]:
    """Return `run` in a scope that is only inherited: the thread may turn out to be a worker."""

    @functools.wraps(run)
    def inherit() -> None:
        with Inside(_inherited(outer, is_of_worker)):
            run()

    return inherit


@guard_without_ids("carry_failed", otherwise=lambda outer, is_of_worker: failed_scope("thread"))
def _inherited(outer: Scope, is_of_worker: bool) -> Scope:
    scope = Scope(outer.identity, "thread", outer)
    scope.may_be_of_others = is_of_worker
    if is_of_worker:
        scope.serial = outer.serial  # others may have used a thread since
    return scope


def _is_of_worker(outer: Scope | None) -> TypeGuard[Scope]:
    """Return whether what looks like a worker, such as a scheduler, runs in what is left of the request of `outer`."""
    if outer is None or not is_left_over(outer):
        return False
    return callback_here() is not None or may_be_of_others(outer) or _goes_on()


def _goes_on() -> bool:
    """Return whether a thread or task runs here that goes on until it is told to end."""
    if asyncio._get_running_loop() is not None:
        return any(map(is_in_own_loop, frames_of(())))
    return any(is_in_a_loop(frame) for frame in frames_of(()) if frame.f_globals.get("__name__") not in _POOLS)


def _is_pooled(thread: threading.Thread) -> bool:
    """Return whether it is a thread of a pool, started by chance in some request, that will work for all."""
    target = getattr(thread, "_target", None)
    kind = type(thread).__module__
    return getattr(target, "__module__", None) in _POOLS or kind in _POOLS or kind.startswith("anyio.")


def _submit_to_thread(original: Any) -> Any:
    def submit(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        fn = _carried(fn)
        future: Future[Any] = original(self, fn, *args, **kwargs)
        return future

    return submit


def _create_task(original: Any) -> Any:
    def create_task(self: asyncio.BaseEventLoop, *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        _note_use()
        task: asyncio.Task[Any] = original(self, *args, **kwargs)
        return task

    return create_task


@guard_harmless("carry_failed")
def _note_use() -> None:
    scope = current_scope()
    if scope is not None:
        scope.anchor.used = True  # a worker that starts a task for each item does not collect them


def _of_nobody(fn: Any, **_: Any) -> Any:
    return functools.partial(run_in_failed_scope, fn) if callable(fn) else fn


@guard_without_ids("carry_failed", otherwise=_of_nobody)
def _carried(fn: Any, *, to_process: bool = False) -> Any:
    """Return `fn` as a job. Also without a scope: a pooled thread must not keep what a job took from a queue, and a
    forked worker has inherited that of some request.
    """
    if not _users or not callable(fn):
        return fn
    outer = present_scope()
    if to_process:
        return _InProcess(fn, None if _is_of_worker(outer) else outer)  # a thread's users are not known there
    opened = functools.partial(_inherited, outer, True) if _is_of_worker(outer) else functools.partial(job_scope, outer)
    return each_in(opened, fn)


class _InProcess:
    """A function and an identity, as they travel to another process."""

    def __init__(self, fn: Callable[..., Any], scope: Scope | None) -> None:
        self.fn = fn
        self.ids: dict[str, Any] = {} if scope is None else pack(scope.identity)
        self.is_anonymous = scope is not None and scope.anonymous

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with Inside(self._opened()):
            return self.fn(*args, **kwargs)

    @guard_without_ids("carry_failed", otherwise=lambda self: failed_scope("job"))
    def _opened(self) -> Scope:
        scope = Scope(CallContext(**self.ids), "job")
        if self.is_anonymous:
            scope.of_request = scope.serial  # what the caller of the request sends names no user there either
        inherited = current_scope()
        if inherited is not None and inherited.kind == "fork":
            scope.displaced = inherited.anchor
        return scope


def _submit_to_process(original: Any) -> Any:
    def submit(self: ProcessPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        fn = _carried(fn, to_process=True)
        future: Future[Any] = original(self, fn, *args, **kwargs)
        return future

    return submit


def _pool(original: Any) -> Any:
    """Return a method of `multiprocessing.pool.Pool` whose first argument is a function."""

    def method(self: multiprocessing.pool.Pool, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        func = _carried(func, to_process=not isinstance(self, multiprocessing.pool.ThreadPool))
        return original(self, func, *args, **kwargs)

    return method


def _start_process(original: Any) -> Any:
    def start(self: multiprocessing.process.BaseProcess) -> None:
        target = getattr(self, "_target", None)
        _give_identity(self)
        try:
            original(self)
        except BaseException:
            if target is not None:
                self._target = target  # type: ignore[attr-defined]
            raise

    return start


def _give_nobody(process: Any) -> None:
    target = getattr(process, "_target", None)
    if target is not None and getattr(target, "__module__", None) not in _POOLS:
        process._target = functools.partial(run_in_failed_scope, target)


@guard_without_ids("carry_failed", otherwise=_give_nobody)
def _give_identity(process: Any) -> None:
    target = getattr(process, "_target", None)
    scope = present_scope()
    has_words = scope is not None and (scope.identity is not EMPTY or scope.anonymous)
    if _users and has_words and target is not None and getattr(target, "__module__", None) not in _POOLS:
        process._target = _InProcess(target, None if _is_of_worker(scope) else scope)
