"""`carry=True`: threads, executors and queues hand the scope on, for code that cannot be changed.

- `Thread.start` and `submit` of the standard executors carry the scope in which they were called, for that one thread
  or job: ours only, not the whole context. The threads of a pool are nobody's: they work for whoever submits.
- An item taken from a `queue.Queue` or `asyncio.Queue` brings the scope of whoever put it, so that a long-lived worker
  is in the scope of its present job, or in none. Only workers change their scope so: what a request does itself, or
  waits for, keeps the request's, whatever it reads from a queue (`flow.py`).

Opt-in, because it changes classes of the standard library for the whole process. Idempotent and removable.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import functools
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, Final

from llmctx.context import EMPTY, ID_FIELDS, CallContext, Scope, carry, change_job, current_scope, enter, leave
from llmctx.flow import belongs_to
from llmctx.incidents import incidents

_QUEUES: Final = (
    queue.Queue,
    queue.LifoQueue,
    queue.PriorityQueue,
    asyncio.Queue,
    asyncio.LifoQueue,
    asyncio.PriorityQueue,
)
_SCOPES: Final = "_llmctx_scopes"  # attribute of a queue: id(item) -> the scopes of those who put it, oldest first

_REPLACEABLE: Final = ("item", "job")  # a worker's: by its present item, or by whoever started it

_lock: Final = threading.Lock()
_users: Final[list[object]] = []
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
            for kind in _QUEUES:
                _patch(kind, "_put", _put)
                _patch(kind, "_get", _get)


def remove(user: object) -> None:
    """Stop carrying for `user`; with the last one the standard library is as it was."""
    with _lock:
        if user not in _users:
            return
        _users.remove(user)
        if not _users:
            while _undo:
                _undo.pop()()


def installed() -> bool:
    return bool(_users)


def _patch(kind: type, name: str, make: Callable[[Any], Any]) -> None:
    """Replace `kind.name`, if the class defines it itself."""
    original = vars(kind).get(name)
    if original is None:
        return
    replacement = functools.wraps(original)(make(original))
    setattr(kind, name, replacement)

    def undo() -> None:
        if vars(kind).get(name) is replacement:  # otherwise somebody has wrapped us, and still calls us
            setattr(kind, name, original)

    _undo.append(undo)


# -- threads and executors --------------------------------------------------------------------------------------------


def _start(original: Any) -> Any:
    def start(self: threading.Thread) -> None:
        if _users and current_scope() is not None and not _is_pooled(self):
            try:
                self.run = carry(self.run)  # type: ignore[method-assign]  # of this one thread, whatever its class
            except Exception as problem:  # noqa: BLE001  a thread that starts matters more than its scope
                incidents.note("carry_failed", "a thread could not be given its scope", exc=problem)
        original(self)

    return start


def _is_pooled(thread: threading.Thread) -> bool:
    """Whether it is a thread of a pool, started by chance in somebody's request, that will work for all."""
    target = getattr(thread, "_target", None)
    return target is concurrent.futures.thread._worker or type(thread).__module__.startswith("anyio.")


def _submit_to_thread(original: Any) -> Any:
    def submit(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if _users and callable(fn):
            fn = carry(fn)  # also without a scope: what the job takes from a queue must not stay in the pooled thread
        future: Future[Any] = original(self, fn, *args, **kwargs)
        return future

    return submit


class _InProcess:
    """A function and an identity, as they travel to another process."""

    def __init__(self, fn: Callable[..., Any], identity: CallContext) -> None:
        self.fn = fn
        self.ids = {name: value for name in ID_FIELDS if (value := getattr(identity, name)) is not None}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        scope = Scope(CallContext(**self.ids), "job")
        token = enter(scope)
        try:
            return self.fn(*args, **kwargs)
        finally:
            leave(scope, token)


def _submit_to_process(original: Any) -> Any:
    def submit(self: ProcessPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        scope = current_scope() if _users else None
        if scope is not None and scope.identity is not EMPTY:
            fn = _InProcess(fn, scope.identity)
        future: Future[Any] = original(self, fn, *args, **kwargs)
        return future

    return submit


# -- queues -----------------------------------------------------------------------------------------------------------


def _put(original: Any) -> Any:
    def _put(self: Any, item: Any) -> None:
        if _users:
            try:
                _note(self, item)
            except Exception as problem:  # noqa: BLE001  the item matters more than its scope
                incidents.note("carry_failed", "an item could not be given its scope", exc=problem)
        original(self, item)

    return _put


def _note(jobs: Any, item: Any) -> None:
    """Keep the scope of whoever puts `item`: beside it, for priority queues compare items."""
    scopes: dict[int, deque[Scope | None]] | None = getattr(jobs, _SCOPES, None)
    if scopes is None:
        scopes = {}
        setattr(jobs, _SCOPES, scopes)
    elif scopes and not getattr(jobs, "_qsize", jobs.qsize)():  # queue.Queue's own lock is held here
        scopes.clear()  # somebody emptied the queue in another way
    scopes.setdefault(id(item), deque()).append(current_scope())


def _get(original: Any) -> Any:
    def _get(self: Any) -> Any:
        item = original(self)
        if _users or getattr(self, _SCOPES, None):
            try:
                scopes: dict[int, deque[Scope | None]] = getattr(self, _SCOPES, None) or {}
                put_by = scopes.get(id(item))
                scope = put_by.popleft() if put_by else None
                if not put_by:
                    scopes.pop(id(item), None)
                if _users:
                    _take_up(scope)
            except Exception as problem:  # noqa: BLE001  the item matters more than its scope
                incidents.note("carry_failed", "a worker could not be given the scope of its job", exc=problem)
        return item

    return _get


def _take_up(scope: Scope | None) -> None:
    """Be in the scope of the item's job from here on, if this is a worker."""
    here = current_scope()
    if here is not None and here.is_open and here.kind not in _REPLACEABLE and belongs_to(here) is True:
        return
    if here is not None or scope is not None:
        change_job(None if scope is None else Scope(scope.identity, "item"))
