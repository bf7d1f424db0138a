"""Scopes that travel with the items of queues: each brings along the one in which it was put.

A long-lived worker is in the scope of its present item, or in none: from `get` until it asks for the next one, says
`task_done`, or waits in vain. A worker that takes several users' items before it does anything works for all of them
at once: it is in no scope then, and what was handed on with each item tells them apart. Only workers change
their scope so: what a request does itself, or waits for, keeps the request's, whatever it reads from a queue.

The standard library's queues, and anyio's memory object streams; `queue.SimpleQueue` is C and followed only where it
is made by that name afterwards. `threads.py` installs what stands here.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any, Final

from llmctx.core.guard import guard_without_ids
from llmctx.core.locks import RecoverableLock
from llmctx.core.pause import pause
from llmctx.core.record import Reason
from llmctx.identity.await_graph import context_that_waits, is_part_of
from llmctx.identity.scope import (
    EMPTY,
    FAILED_SCOPE,
    CallContext,
    Scope,
    change_job,
    current_scope,
    with_parents,
)

Patch = Callable[[Any, str, Callable[[Any], Any]], None]

_GIVES_OUT: Final = "_llmctx_gives_out"  # attribute of a queue that a worker has taken an item from
_INTERNAL: Final = ("langgraph", "langchain")  # whose own queues give out no jobs
_NOTES: Final = "_llmctx_notes"  # attribute of a queue: id(item) -> (item, scope) of those that put it, oldest first
_UNSURE: Final = "_llmctx_unsure"  # attribute of a queue: not all who put something into it could be noted
_REPLACEABLE: Final = ("item", "job", "thread")  # a worker's: by its present item, or by what started it

_SUSPENDS_S: Final = 0.02

_noting: Final = RecoverableLock()
_inside: Final[ContextVar[bool]] = ContextVar("llmctx_inside_a_queue", default=False)
"""Whether a method of a queue runs that calls another one which is patched as well."""


def install(patch: Patch) -> None:
    """Let queues carry. `patch(owner, name, make)` replaces `owner.name` by `make(original)`."""
    patch(queue.Queue, "put", _put)
    patch(queue.Queue, "get", _get)
    patch(queue.Queue, "task_done", _task_done)
    patch(queue, "SimpleQueue", _simple_queue)
    patch(asyncio.Queue, "put_nowait", _put)
    patch(asyncio.Queue, "get", _aget)
    patch(asyncio.Queue, "get_nowait", _get_nowait)
    patch(asyncio.Queue, "task_done", _task_done)
    memory: Any = sys.modules.get("anyio.streams.memory")  # starlette has loaded it, if anything has
    if memory is not None:
        patch(memory.MemoryObjectSendStream, "send_nowait", _put)
        patch(memory.MemoryObjectSendStream, "send", _send)
        patch(memory.MemoryObjectReceiveStream, "receive_nowait", _receive_nowait)
        patch(memory.MemoryObjectReceiveStream, "receive", _receive)


# -- what stands beside the items -----------------------------------------------------------------------------------


def _home(jobs: Any) -> Any:
    """Return the object that both ends of a queue share."""
    return getattr(jobs, "_state", jobs)


def _note(jobs: Any, item: Any) -> None:
    """Keep the scope in which `item` is put: beside it, for priority queues compare items."""
    scope = current_scope()
    jobs = _home(jobs)
    with _noting:
        notes: dict[int, deque[tuple[Any, Scope | None]]] | None = getattr(jobs, _NOTES, None)
        if notes is None:
            notes = {}
            setattr(jobs, _NOTES, notes)
        elif len(notes) > 1000 and not _length(jobs):
            notes.clear()  # the queue is emptied in another way
        notes.setdefault(id(item), deque()).append((item, scope))  # holds the item: its id stays its own


def _taken(jobs: Any, item: Any, *, newest: bool = False) -> tuple[bool, Scope | None]:
    """Return whether a scope was kept for `item`, which has left the queue, and which."""
    jobs = _home(jobs)
    with _noting:
        notes = getattr(jobs, _NOTES, None) or {}
        kept = notes.get(id(item))
        if not kept:
            return (True, FAILED_SCOPE) if getattr(jobs, _UNSURE, False) else (False, None)
        scope: Scope | None = (kept.pop() if newest else kept.popleft())[1]
        if not kept:
            del notes[id(item)]
        return True, scope


def _confuse(jobs: Any, item: Any) -> None:
    """Forget the scopes of what is in the queue: noting one has failed."""
    jobs = _home(jobs)
    setattr(jobs, _UNSURE, True)
    setattr(jobs, _NOTES, {})


@guard_without_ids("carry_failed", otherwise=_confuse)
def _put_down(jobs: Any, item: Any) -> None:
    _note(jobs, item)


@guard_without_ids("carry_failed", otherwise=_confuse)
def _take_back(jobs: Any, item: Any) -> None:
    _taken(jobs, item, newest=True)


def _length(jobs: Any) -> int:
    size = getattr(jobs, "_qsize", None) or getattr(jobs, "qsize", None)
    return len(jobs.buffer) if size is None else size()


def _put(original: Any) -> Any:
    def put(self: Any, item: Any, *args: Any, **kwargs: Any) -> Any:
        if _inside.get() or type(item).__name__ == "_WorkItem":  # an executor's: it has been carried by `submit`
            return original(self, item, *args, **kwargs)
        _put_down(self, item)
        try:
            return original(self, item, *args, **kwargs)
        except BaseException:  # full
            _take_back(self, item)
            raise

    return put


def _send(original: Any) -> Any:
    async def send(self: Any, item: Any) -> None:
        _put_down(self, item)
        token = _inside.set(True)
        try:
            await original(self, item)
        except BaseException:  # there is no reader, or it was cancelled
            _take_back(self, item)
            raise
        finally:
            _inside.reset(token)

    return send


# -- taking them --------------------------------------------------------------------------------------------------


def _get(original: Any) -> Any:
    def get(self: Any, block: bool = True, timeout: float | None = None) -> Any:
        patient = block and timeout is None
        place = _here()
        _do(place, _asking, self, patient)
        item = original(self, block, timeout)
        _take(place, self, item)
        return item

    return get


def _get_nowait(original: Any) -> Any:
    def get_nowait(self: Any) -> Any:
        if not _inside.get():
            _ask(self, False)
        item = original(self)
        _take(_here(), self, item)
        return item

    return get_nowait


def _aget(original: Any) -> Any:
    async def get(self: Any) -> Any:
        _do(_here(), _asking, self, None)
        token = _inside.set(True)
        try:
            return await original(self)
        finally:
            _inside.reset(token)

    return get


def _receive(original: Any) -> Any:
    async def receive(self: Any) -> Any:
        _do(_here(), _asking, self, None)
        token = _inside.set(True)
        try:
            item = await original(self)
        finally:
            _inside.reset(token)
        _take(_here(), self, item)
        return item

    return receive


def _receive_nowait(original: Any) -> Any:
    def receive_nowait(self: Any) -> Any:
        if _inside.get():
            return original(self)
        return _get_nowait(original)(self)

    return receive_nowait


def _task_done(original: Any) -> Any:
    def task_done(self: Any) -> None:
        original(self)
        _ask(self, True)

    return task_done


def _simple_queue(original: Any) -> Any:
    class SimpleQueue(original):  # type: ignore[misc]  # the class of the day
        """`queue.SimpleQueue`, whose items bring the scope in which they were put."""

        put = _put(original.put)
        get = _get(original.get)

        def put_nowait(self, item: Any) -> None:
            self.put(item)

        def get_nowait(self) -> Any:
            return self.get(False)

    return SimpleQueue


class _Place:
    """The place where a `get` runs: here, or in a task or job of a pool that a waiting worker made for it alone."""

    def __init__(self, elsewhere: bool, context: Context | None) -> None:
        self.elsewhere = elsewhere
        self.context = context


def _forsake(*_: Any) -> None:
    """Leave a worker without an identity, in whatever context: its present item could not be found out."""
    for here in with_parents(current_scope()):
        if isinstance(here, _Item):
            here.identity, here.failed = EMPTY, True


@guard_without_ids("carry_failed", otherwise=_forsake)
def _here() -> _Place | None:
    return _Place(*context_that_waits(("get", "receive")))


@guard_without_ids("carry_failed", otherwise=_forsake)
def _do(place: _Place | None, asking: Callable[..., None], jobs: Any, patient: bool | None) -> None:
    if patient is None:
        patient = place is None or not place.elsewhere  # in a task of its own: there is a time limit to it
    asking(jobs, patient)
    if place is not None and place.context is not None:
        with contextlib.suppress(RuntimeError):  # it does not wait yet, or no longer
            place.context.run(asking, jobs, patient)


def _take_none(place: _Place | None, jobs: Any, item: Any) -> None:
    if not type(_home(jobs)).__module__.startswith(_INTERNAL):
        _forsake()  # the worker may be in another context, with a copy of this one
        change_job(FAILED_SCOPE)


@guard_without_ids("carry_failed", otherwise=_take_none)
def _take(place: _Place | None, jobs: Any, item: Any) -> None:
    noted, scope = _taken(jobs, item)
    if not noted:  # it was put in some other way
        return
    _take_up(jobs, scope)
    deadline = time.monotonic() + _SUSPENDS_S
    elsewhere = place is not None and place.elsewhere
    while elsewhere and time.monotonic() < deadline:
        # In a pool's thread, that runs while the submitter of the job is still about to wait for it.
        elsewhere, context = context_that_waits(("get", "receive"))
        with contextlib.suppress(RuntimeError):
            if context is not None:
                context.run(_take_up, jobs, scope)
                return
        if asyncio._get_running_loop() is not None:
            return
        pause(0)


@guard_without_ids("carry_failed", otherwise=_forsake)
def _ask(jobs: Any, patient: bool) -> None:
    _asking(jobs, patient)


class _Item(Scope):
    """The scope of a worker's present item. `jobs` is the number of the queue that it came from."""

    __slots__ = ("jobs",)

    def __init__(self, identity: CallContext, jobs: int) -> None:
        super().__init__(identity, "item")
        self.jobs = jobs


def _works(here: Scope) -> bool:
    """Return whether what is in the scope `here` and reads from a queue is a worker."""
    return here.kind in _REPLACEABLE or not here.is_open or is_part_of(here) is not True


def _asking(jobs: Any, patient: bool) -> None:
    """End the present item, for the worker asks for its next one; unless it collects several of them."""
    here, jobs = current_scope(), _home(jobs)
    if type(jobs).__module__.startswith(_INTERNAL):
        return
    if isinstance(here, _Item):
        if here.jobs == id(jobs) and (patient or here.used):
            change_job(None)
    elif here is not None and getattr(jobs, _GIVES_OUT, False) and _works(here):
        change_job(None)


def _take_up(jobs: Any, scope: Scope | None) -> None:
    """Be in the scope of the item's job from here on, if this is a worker."""
    here, jobs = current_scope(), _home(jobs)
    if type(jobs).__module__.startswith(_INTERNAL) or (here is not None and not _works(here)):
        return
    setattr(jobs, _GIVES_OUT, True)
    identity = EMPTY if scope is None else scope.identity
    item = _Item(identity, id(jobs))
    if scope is not None:
        item.failed, item.serial = scope.failed, scope.serial  # others may have used a thread since
    if isinstance(here, _Item) and here.jobs == id(jobs) and not here.used and not _is_same(here.identity, identity):
        item.identity, item.reason = EMPTY, Reason.SHARED_JOB
    change_job(item)


def _is_same(one: CallContext, other: CallContext) -> bool:
    return bool(one) and (one.user_id, one.session_id) == (other.user_id, other.session_id)
