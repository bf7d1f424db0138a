"""Calls that have started and not ended, and the ways in which they end.

LangChain does not report every end: an `ainvoke` that is cancelled, times out, or falls with a failing sibling node
fires a start and then nothing, ever. So each open call is watched: by a done-callback on its task (one per task), by
the exit of the scope it started in, by the end of its parent run, by the next call of its task, by a look at what its
task awaits, by a time limit, and at shutdown. Whoever ends it first wins (`claim`); the others find it ended.

A call made by `stream` or `astream` is not bound to the task that started it: the stream may be handed on and read
elsewhere. It ends by LangChain's own word, by the time limit, or at shutdown.

No locks: the garbage collector may close somebody's stream, and so end a call, between any two steps of the same
thread. Each change is one step of a dict or list.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from uuid import UUID

import uuid_utils

from llmctx.attribution import Hearing, Verdict
from llmctx.context import Scope, current_scope
from llmctx.extract import Answer, Failure, Prompt, Stream
from llmctx.flow import awaiting_task, is_waited_for_by
from llmctx.incidents import incidents
from llmctx.record import Status
from llmctx.stack import STREAMED, is_awaited, is_awaiting_a_model, is_helper, is_on_stack, started_by

_FIRST_LOOK_NS: Final = 1_000_000_000


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
        "found",
        "handler",
        "hearing",
        "home",
        "is_stream",
        "look_ns",
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
        self.home: object = None  # the task, or the number of the thread, in which it started
        self.task: asyncio.Task[Any] | None = None  # the task that awaits it, where that is certain
        self.look_ns = self.started_ns + _FIRST_LOOK_NS
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
        self.found: dict[str, str] | None = None  # where a call without ids was made
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

    def __init__(
        self,
        deliver: Callable[[OpenCall], None],
        *,
        announce: Callable[[OpenCall], None] | None = None,
        limit: int = 100_000,
    ) -> None:
        self._deliver = deliver
        self.announce = announce or _nobody
        """Told of each call before it is watched, and again when it becomes known whose it is."""
        self._limit = limit
        self._started = itertools.count()
        self._by_run: dict[UUID, OpenCall] = {}
        self._twins: dict[OpenCall, UUID] = {}  # further open calls with a run_id that is in `_by_run`
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
        return bool(self._by_run) or bool(self._twins)

    # -- start ----------------------------------------------------------------------------------------------------

    def start(self, call: OpenCall) -> None:
        """Watch a call that LangChain has reported. Its `handler`, `scope` and `run_id` are set."""
        self.announce(call)
        next(self._started)
        run_id = call.run_id
        assert run_id is not None
        if self._by_run.setdefault(run_id, call) is not call:
            self._twins[call] = run_id
        if asyncio._get_running_loop() is None:
            call.home = threading.get_ident()
        else:
            self._watch(call)
        if len(self._by_run) > self._limit:
            self._evict()

    def start_manual(self, call: OpenCall) -> None:
        """Watch a call that was announced by hand; it ends where its block ends."""
        self.announce(call)
        next(self._started)
        self._manual.add(call)

    def _watch(self, call: OpenCall) -> None:
        """Bind an awaited call to its task and to its scope."""
        name, known = started_by(sys._getframe(2))
        task = asyncio.current_task()
        if not name and task is not None:
            # Completion models report their starts from helper tasks; then it is the one who waits for them that
            # counts. Whoever else begins a run (a wrapper of some vendor's client, a stream of a new kind) ends it.
            call.home = task
            if not is_helper(task):
                return
            task = awaiting_task()
            if task is None or not is_awaiting_a_model(task):
                call.is_stream = True  # an async generator hides what it awaits, and reports its end
                return
        call.home = task
        call.is_stream = name in STREAMED
        if call.is_stream or name == "generate":  # LangChain reports every end of these
            return
        if task is not None:
            calls = self._by_task.get(task)
            if calls is None:
                self._by_task[task] = [call]
                task.add_done_callback(self._task_done)
            else:
                for other in list(calls):
                    # This task goes on elsewhere: what it awaited before, and does not now, was cut off in it.
                    if other.task is task and not _is_sibling(other, call) and not is_on_stack(other.run_id):
                        self.end(other, Status.CANCELLED)
                calls.append(call)
            if known or not name:
                call.task = task
        scope = call.scope
        if scope is not None and scope.is_open:
            calls = self._by_scope.get(scope)
            if calls is None:
                calls = self._by_scope.setdefault(scope, [])
                scope.on_close.append(self._scope_closed)
            calls.append(call)
            if scope.closed_at is not None:  # meanwhile, in another thread
                self._scope_closed(scope)

    def seen(self, run_id: UUID, handler: object, params: object) -> OpenCall | None:
        """The open call of `run_id` if another handler has reported it: one call, heard twice.

        The same run_id in other hands is another call: LangChain uses one that was put into a config for as many
        calls as that config is used for. `params` tells: LangChain makes them anew for each call, and hands the same
        object to all handlers.
        """
        for call in self._with(run_id):
            if call.params is params if params is not None else call.handler is not handler:
                return call
        return None

    def get(self, run_id: UUID, parent_run_id: UUID | None = None) -> OpenCall | None:
        """The open call of `run_id`. Of several, the one that started in the same chain, task or thread, and scope."""
        if not self._twins:
            return self._by_run.get(run_id)
        calls = self._with(run_id)
        if len(calls) < 2:
            return calls[0] if calls else None
        calls = [call for call in calls if call.parent_run_id == parent_run_id] or calls
        if len(calls) > 1:
            calls = [call for call in calls if _is_home(call)] or calls
        if len(calls) > 1:
            here = current_scope()
            calls = [call for call in calls if call.scope is here] or calls
        return calls[-1]

    def _with(self, run_id: UUID) -> list[OpenCall]:
        first = self._by_run.get(run_id)
        found = [] if first is None else [first]
        if self._twins:
            found += [call for call, its in list(self._twins.items()) if its == run_id]
        return found

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
        if self._by_run.get(run_id) is call:  # and nobody but who has claimed it takes it out
            self._by_run.pop(run_id, None)
        else:
            self._twins.pop(call, None)
        if isinstance(call.home, asyncio.Task):
            _discard(self._by_task.get(call.home), call)
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
            if call.home is here or (call.task is not None and call.task.done()):
                self.end(call, Status.CANCELLED)

    def sibling_failed(self, failed: OpenCall) -> None:
        """In a thread, `generate` of several prompts stops at the first that fails, and reports no other's end."""
        if isinstance(failed.home, int):
            for call in self._all():
                if call.home == failed.home and _is_sibling(call, failed):
                    self.end(call, Status.CANCELLED)

    def parent_ended(self, run_id: UUID) -> None:
        """The run `run_id` is over: end those of its calls that nobody awaits any more."""
        for call in self._all():
            if call.parent_run_id == run_id and call.task is not None and not is_awaited(call.task, call.run_id):
                self.end(call, Status.CANCELLED)

    def sweep(self, older_than_s: float) -> None:
        """End calls that have been open for longer than that, and look after those whose task may have gone on."""
        now = time.perf_counter_ns()
        oldest = now - int(older_than_s * 1e9)
        doubtful: defaultdict[asyncio.AbstractEventLoop, list[OpenCall]] = defaultdict(list)
        for call in self._all():
            if call.started_ns < oldest:
                self.end(call, Status.ABANDONED)
            elif call.task is not None and call.look_ns < now:
                call.look_ns = now + (now - call.started_ns)  # less and less often
                doubtful[call.task.get_loop()].append(call)
        for loop, calls in doubtful.items():
            try:
                # in their own loop, where nothing runs while this does: only then does a task show what it awaits
                loop.call_soon_threadsafe(partial(self._look_at, calls))
            except RuntimeError:  # the loop is closed: nobody awaits anything there
                self._look_at(calls)

    def _look_at(self, calls: list[OpenCall]) -> None:
        for call in calls:
            try:
                if call.task is not None and (
                    call.task.get_loop().is_closed() or not is_awaited(call.task, call.run_id)
                ):
                    self.end(call, Status.CANCELLED)
            except Exception as problem:  # noqa: BLE001  this runs in the host's loop
                incidents.note("look_failed", "an open call could not be looked after", exc=problem)

    def close(self) -> None:
        """Shutdown: what nobody awaits any more was cancelled, and whatever else is still open has been abandoned."""
        here = asyncio.current_task() if asyncio._get_running_loop() is not None else None
        for call in self._all():
            task = call.task
            cut_off = task is not None and (
                task is here or task.get_loop().is_closed() or not is_awaited(task, call.run_id)
            )
            self.end(call, Status.CANCELLED if cut_off else Status.ABANDONED)

    def under_way(self) -> list[OpenCall]:
        """The calls that have started and not ended."""
        return self._all()

    def _all(self) -> list[OpenCall]:
        # list() of a dict is one step for the interpreter; iterating it while other threads start calls is not
        return [*list(self._by_run.values()), *list(self._twins), *list(self._manual)]

    def _evict(self) -> None:
        oldest = next(iter(list(self._by_run.values())), None)
        if oldest is not None:
            incidents.note("open_calls_full", "more than %d calls are open; the oldest is given up", self._limit)
            self.end(oldest, Status.ABANDONED)


def _nobody(call: OpenCall) -> None:
    """Whom starts are announced to where there is no journal."""


def _discard(calls: list[OpenCall] | None, call: OpenCall) -> None:
    if calls:
        try:
            calls.remove(call)
        except ValueError:  # whoever ends all calls of a task or scope has taken the list
            return


def _is_sibling(one: OpenCall, other: OpenCall) -> bool:
    """Whether both are prompts of one `agenerate`."""
    return one.params is other.params and one.params is not None


def _is_home(call: OpenCall) -> bool:
    """Whether this is the task or thread in which `call` started, or one that works for it (shielded callbacks)."""
    if asyncio._get_running_loop() is None:
        return call.home == threading.get_ident()
    task = asyncio.current_task()
    return task is not None and (task is call.home or is_waited_for_by(task, call.home))
