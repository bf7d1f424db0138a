"""Calls that have started and not ended, and the ways in which they end.

LangChain does not report every end: an `ainvoke` that is cancelled, times out, or falls with a failing sibling node
fires a start and then nothing, ever. So each open call is watched: by a done-callback on its task (one per task), by
the exit of the scope it started in, by the end of its parent run, by a time limit, and at shutdown. Whoever ends it
first wins (`_claim`); the others find it ended.

A call made by `stream` or `astream` is not bound to the task that started it: the stream may be handed on and read
elsewhere. It ends by LangChain's own word, by the time limit, or at shutdown.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import sys
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Final
from uuid import UUID

import uuid_utils

from llmctx.attribution import Hearing, Verdict
from llmctx.context import Scope, current_scope
from llmctx.extract import Answer, Failure, Prompt, Stream
from llmctx.incidents import incidents
from llmctx.record import Status

_AWAITED: Final = frozenset({"agenerate", "generate"})
_STREAMED: Final = frozenset({"astream", "stream"})


class OpenCall:
    """One call, from its start until it has become a record. Holds references, interprets nothing."""

    __slots__ = (
        "_unclaimed",
        "answer",
        "call_id",
        "created_s",
        "ended_ns",
        "failure",
        "fields",
        "first_token_ns",
        "handler",
        "hearing",
        "is_stream",
        "metadata",
        "params",
        "parent_run_id",
        "prompt",
        "run_id",
        "scope",
        "started_ns",
        "status",
        "stream",
        "tags",
        "task",
        "twin",
        "verdict",
    )

    def __init__(self, run_id: UUID | None, hearing: Hearing, verdict: Verdict) -> None:
        self.call_id: uuid_utils.UUID = uuid_utils.uuid7()
        self.created_s = time.time()
        self.started_ns = time.perf_counter_ns()
        self.ended_ns = 0
        self.run_id = run_id
        self.parent_run_id: UUID | None = None
        self.hearing = hearing
        self.verdict = verdict
        self.handler: object = None
        self.scope: Scope | None = None
        self.task: asyncio.Task[Any] | None = None
        self.is_stream = False
        self.metadata: dict[str, Any] | None = None
        self.params: dict[str, Any] | None = None
        self.tags: list[str] | None = None
        self.prompt: Prompt | None = None
        self.answer: Answer | None = None
        self.failure: Failure | None = None
        self.stream: Stream | None = None
        self.first_token_ns = 0
        self.status = Status.OK
        self.fields: dict[str, Any] | None = None
        self.twin: OpenCall | None = None  # another open call with the same run_id
        self._unclaimed = [True]

    def mark_first_token(self) -> None:
        self.first_token_ns = time.perf_counter_ns()

    def claim(self) -> bool:
        """True for the first who asks, in any thread: the one who may end the call."""
        try:
            return self._unclaimed.pop()
        except IndexError:
            return False


class OpenCalls:
    """The calls of one call log that are under way. Every method may be called from any thread."""

    def __init__(self, deliver: Callable[[OpenCall], None], *, limit: int = 100_000) -> None:
        self._deliver = deliver
        self._limit = limit
        self._started = itertools.count()
        self._by_run: dict[UUID, OpenCall] = {}
        self._by_task: dict[asyncio.Task[Any], list[OpenCall]] = {}
        self._by_scope: dict[Scope, list[OpenCall]] = {}
        self._manual: set[OpenCall] = set()

    @property
    def started(self) -> int:
        """Calls that have started, ever. Counted by a C iterator: `+= 1` loses counts between threads."""
        return next(copy.copy(self._started))

    def __len__(self) -> int:
        return sum(1 for _ in self._all())

    def __bool__(self) -> bool:
        return bool(self._by_run)

    # -- start ----------------------------------------------------------------------------------------------------

    def start(self, call: OpenCall) -> None:
        """Watch a call that LangChain has reported. Its `handler`, `scope` and `run_id` are set."""
        next(self._started)
        run_id = call.run_id
        assert run_id is not None
        other = self._by_run.get(run_id)
        if other is not None:
            call.twin = other
        self._by_run[run_id] = call
        if asyncio._get_running_loop() is not None:
            self._watch(call)
        if len(self._by_run) > self._limit:
            self._evict()

    def start_manual(self, call: OpenCall) -> None:
        """Watch a call that was announced by hand; it ends where its block ends."""
        next(self._started)
        self._manual.add(call)

    def _watch(self, call: OpenCall) -> None:
        """Bind an awaited call to its task and to its scope."""
        call.is_stream = _is_stream(sys._getframe(2))
        if call.is_stream:
            return
        task = call.task = asyncio.current_task()
        if task is not None:
            calls = self._by_task.get(task)
            if calls is None:
                self._by_task[task] = [call]
                task.add_done_callback(self._task_done)
            else:
                calls.append(call)
        scope = call.scope
        if scope is not None and scope.is_open:
            calls = self._by_scope.get(scope)
            if calls is None:
                self._by_scope[scope] = [call]
                if scope.on_close is None:
                    scope.on_close = []
                scope.on_close.append(self._scope_closed)
            else:
                calls.append(call)

    def seen(self, run_id: UUID, handler: object) -> OpenCall | None:
        """The open call of `run_id` if another handler has reported it: one call, heard twice.

        The same handler reporting the same run_id again is another call: LangChain uses a `run_id` that was put into
        a config for as many calls as that config is used for.
        """
        call = self._by_run.get(run_id)
        while call is not None:
            if call.handler is not handler:
                return call
            call = call.twin
        return None

    def get(self, run_id: UUID) -> OpenCall | None:
        """The open call of `run_id`. Of several, the one that started in the current scope, or the newest."""
        newest = self._by_run.get(run_id)
        if newest is None or newest.twin is None:
            return newest
        here = current_scope()
        call: OpenCall | None = newest
        while call is not None:
            if call.scope is here:
                return call
            call = call.twin
        return newest

    # -- end ------------------------------------------------------------------------------------------------------

    def end(
        self,
        call: OpenCall,
        status: Status,
        *,
        answer: Answer | None = None,
        failure: Failure | None = None,
    ) -> bool:
        """End `call` and deliver it. False if somebody else has ended it before."""
        if not call.claim():
            return False
        call.ended_ns = time.perf_counter_ns()
        call.status = status
        call.answer = answer
        call.failure = failure
        self._forget(call)
        self._deliver(call)
        return True

    def _forget(self, call: OpenCall) -> None:
        run_id = call.run_id
        if run_id is None:
            self._manual.discard(call)
            return
        newest = self._by_run.get(run_id)
        if newest is call:
            if call.twin is None:
                self._by_run.pop(run_id, None)
            else:
                self._by_run[run_id] = call.twin
        else:
            while newest is not None:
                if newest.twin is call:
                    newest.twin = call.twin
                    break
                newest = newest.twin
        if call.task is not None:
            _discard(self._by_task.get(call.task), call)
        if call.scope is not None:
            _discard(self._by_scope.get(call.scope), call)

    # -- ends that LangChain does not report ----------------------------------------------------------------------

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        for call in self._by_task.pop(task, ()):
            self.end(call, Status.CANCELLED)

    def _scope_closed(self, scope: Scope) -> None:
        calls = self._by_scope.pop(scope, None)
        if not calls:
            return
        here = asyncio.current_task() if asyncio._get_running_loop() is not None else None
        for call in calls:
            # What another task still awaits goes on: a fire-and-forget call outlives its request.
            if call.task is not None and (call.task is here or call.task.done()):
                self.end(call, Status.CANCELLED)

    def parent_ended(self, run_id: UUID) -> None:
        """The run `run_id` is over: end those of its calls that nobody awaits any more."""
        for call in self._all():
            if call.parent_run_id == run_id and call.task is not None and not _is_awaited(call.task, call.run_id):
                self.end(call, Status.CANCELLED)

    def sweep(self, older_than_s: float) -> None:
        """End calls that have been open for longer than that: nobody will."""
        oldest = time.perf_counter_ns() - int(older_than_s * 1e9)
        for call in self._all():
            if call.started_ns < oldest:
                self.end(call, Status.ABANDONED)

    def close(self) -> None:
        """Shutdown: whatever is still open has been abandoned."""
        for call in self._all():
            self.end(call, Status.ABANDONED)

    def _all(self) -> Iterable[OpenCall]:
        # list() of a dict is one step for the interpreter; iterating it while other threads start calls is not
        found: list[OpenCall] = []
        for call in list(self._by_run.values()):
            one: OpenCall | None = call
            while one is not None:
                found.append(one)
                one = one.twin
        found.extend(list(self._manual))
        return found

    def _evict(self) -> None:
        oldest = next(iter(list(self._by_run.values())), None)
        if oldest is not None:
            incidents.note("open_calls_full", "more than %d calls are open; the oldest is given up", self._limit)
            self.end(oldest, Status.ABANDONED)


def _discard(calls: list[OpenCall] | None, call: OpenCall) -> None:
    if calls is not None and call in calls:
        calls.remove(call)


def _is_stream(frame: FrameType | None) -> bool:
    """Whether the call was started by a model's `stream` or `astream`: LangChain's callbacks do not say."""
    for _ in range(12):
        if frame is None:
            return False
        name = frame.f_code.co_name
        if name in _AWAITED:
            return False
        if name in _STREAMED:
            return True
        frame = frame.f_back
    return False


def _is_awaited(task: asyncio.Task[Any], run_id: UUID | None) -> bool:
    """Whether `task` may still be inside the model call `run_id`, as far as its chain of awaits can be followed.

    A coroutine shows what it awaits; an async generator does not. Where the chain ends in the dark the answer is
    yes: a call is only ended when it is certain that nobody awaits it.
    """
    if task.done():
        return False
    step: Any = task.get_coro()
    while step is not None:
        frame = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None)
        if frame is None:
            # A future is the honest end of a chain; anything else hides what is inside of it.
            return type(step).__name__ != "FutureIter"
        if frame.f_code.co_name == "agenerate":
            managers = frame.f_locals.get("run_managers") or ()
            if any(getattr(manager, "run_id", None) == run_id for manager in managers):
                return True
        step = getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None)
    return False
