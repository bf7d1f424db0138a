"""Calls that have started and not ended, and the ways in which they end.

LangChain does not report every end: an `ainvoke` that is cancelled, times out, or falls with a failing sibling node
fires a start and then nothing, ever. So each open call is watched: by a done-callback on its task (one per task), by
the exit of the scope it started in, by the end of its parent run, by the next call of its task, by a look at what its
task awaits, by a time limit, and at shutdown. The first that ends it wins (`unclaimed`); the others find it ended.

A call made by `stream` or `astream` is bound to the task or thread that started it until its first chunk, for where it
waits before that (a rate limiter) LangChain reports no end. Afterwards the stream may be handed on and read elsewhere:
it ends by LangChain's own word, by the time limit, or at shutdown.

No locks: the garbage collector may close a stream, and so end a call, between any two steps of the same
thread. Each change is one step of a dict or list.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from uuid import UUID

from llmctx.capture.call import OpenCall as OpenCall  # part of what stands here
from llmctx.capture.call import key_of
from llmctx.capture.callstack import (
    STREAMED,
    is_awaited,
    is_awaiting_a_model,
    is_helper,
    is_in_thread,
    is_on_stack,
)
from llmctx.capture.payload.failures import CallFailure, failure_of
from llmctx.capture.payload.messages import Answer, UnreadAnswer
from llmctx.capture.payload.raw_answers import with_chunks
from llmctx.core.diagnostics import diagnostics
from llmctx.core.guard import guard, guard_harmless
from llmctx.core.record import Status
from llmctx.identity.await_graph import awaiting_task, is_waited_for_by
from llmctx.identity.present_scope import present_scope
from llmctx.identity.scope import Scope

_FIRST_LOOK_NS: Final = 1_000_000_000


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
        """Told of each call before it is watched, and again when its identity becomes known."""
        self._limit = limit
        self._started = itertools.count()
        self._by_run: dict[object, OpenCall] = {}
        self._twins: dict[OpenCall, UUID] = {}  # further open calls with a run_id that is in `_by_run`
        self._by_task: dict[asyncio.Task[Any], list[OpenCall]] = {}
        self._manual: set[OpenCall] = set()
        self._ending: set[OpenCall] = set()
        """Calls that were about to be ended at the last sweep."""

    @property
    def started(self) -> int:
        """Return the number of calls ever started. Counted by a C iterator: `+= 1` loses counts between threads."""
        return int(repr(self._started)[len("count(") : -1])  # from Python 3.14 it cannot be copied

    def __len__(self) -> int:
        return sum(1 for _ in self._all())

    def __bool__(self) -> bool:
        return bool(self._by_run) or bool(self._twins)

    # -- start ----------------------------------------------------------------------------------------------------

    def start(self, call: OpenCall) -> None:
        """Watch a call that LangChain has reported. Its `handler`, `scope`, `run_id` and `method` are set."""
        self.announce(call)
        run_id = call.run_id
        assert run_id is not None
        # on one line, so that no failure comes between: what has been counted is known
        known = (next(self._started), self._by_run.setdefault(call.key, call))[1]
        if known is not call:
            self._twins[call] = run_id
        if call.parent_run_id is not None and (outer := self._by_run.get(key_of(call.parent_run_id))) is not None:
            outer.shared_by += 1  # a model that asks others: what it reports is their sum
        if asyncio._get_running_loop() is None:
            call.home = threading.get_ident()
            call.is_stream = call.method == "stream" and call.is_langchains
        else:
            self._watch(call)
        if len(self._by_run) > self._limit:
            self._evict()

    def start_manual(self, call: OpenCall) -> None:
        """Watch a call that was announced by hand; it ends where its block ends."""
        self.announce(call)
        self._manual.add((next(self._started), call)[1])

    def _watch(self, call: OpenCall) -> None:
        """Bind an awaited call to its task and to its scope."""
        name = call.method
        task = asyncio.current_task()
        if task is not None and (not name or is_helper(task)):
            # Completion models report their starts from helper tasks; then it is the task that waits for them that
            # counts. Other code that begins a run (a wrapper of some vendor's client, a stream of a new kind) ends it.
            # A helper that is started eagerly stands above the model's method on the stack.
            call.home = task
            if not is_helper(task):
                return
            task = awaiting_task()
            if task is None or not (name or is_awaiting_a_model(task)):
                call.is_stream = True  # an async generator hides what it awaits, and reports its end
                return
        call.home = task
        call.is_stream = name in STREAMED
        if name == "generate" or (call.is_stream and (name == "stream" or not call.is_langchains)):
            return  # LangChain reports every end of these
        if task is not None:
            calls = self._by_task.get(task)
            if calls is None:
                task.add_done_callback(self._task_done)  # first: a list without it would never be asked for
                self._by_task[task] = [call]
            else:
                if calls:
                    self._end_cut_off(task, calls, call)
                calls.append(call)
            if call.is_langchains or not name:
                call.task = task
        scope = call.scope
        if scope is not None and scope.closed_at is None and not call.is_stream:
            for watcher in scope.on_close:
                if type(watcher) is _InScope and watcher.open_calls is self:
                    inside = watcher
                    break
            else:
                inside = _InScope(self)
                scope.on_close.append(inside)
            call.inside = inside
            inside.append(call)
            if not scope.is_open:  # meanwhile, in another thread
                inside(scope)

    def release(self, call: OpenCall) -> None:
        """Bind a stream that has begun to its task no longer: it may be handed on, and LangChain reports its end."""
        call.task = None
        calls = self._by_task.get(call.home)  # type: ignore[call-overload]  # a thread's number
        if calls and call in calls:
            calls.remove(call)

    def _end_cut_off(self, task: asyncio.Task[Any], calls: list[OpenCall], new: OpenCall) -> None:
        """End the calls that were cut off in `task`, which goes on with `new`: what it awaits no longer."""
        for other in list(calls):
            if other.task is task and not _is_sibling(other, new) and not is_on_stack(other.run_id):
                self.end(other, Status.CANCELLED)

    def is_run_open(self, run_id: UUID) -> bool:
        """Return whether a call of that run is open."""
        return (run_id.int if type(run_id) is UUID else key_of(run_id)) in self._by_run or bool(self._twins)

    def reported_by_another(self, run_id: UUID, handler: object, params: object) -> OpenCall | None:
        """Return the open call of `run_id` if another handler has reported it: one call, reported twice.

        The same run_id in other hands is another call: LangChain uses one that was put into a config for as many
        calls as that config is used for. `params` tells: LangChain makes them anew for each call, and hands the same
        object to all handlers.
        """
        for call in self._with(run_id):
            if call.params is params if params is not None else call.handler is not handler:
                return call
        return None

    def get(self, run_id: UUID, parent_run_id: UUID | None = None) -> OpenCall | None:
        """Return the open call of `run_id`. Of several, that of the same chain, task or thread, and scope."""
        if not self._twins:
            return self._by_run.get(run_id.int if type(run_id) is UUID else key_of(run_id))
        calls = self._with(run_id)
        if len(calls) < 2:
            return calls[0] if calls else None
        calls = [call for call in calls if call.parent_run_id == parent_run_id] or calls
        if len(calls) > 1:
            calls = [call for call in calls if _is_home(call)] or calls
        if len(calls) > 1:
            here = present_scope()
            calls = [call for call in calls if call.scope is here] or calls
        return calls[-1]

    def _with(self, run_id: UUID) -> list[OpenCall]:
        first = self._by_run.get(key_of(run_id))
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
        answer: Answer | UnreadAnswer | None = None,
        failure: CallFailure | None = None,
    ) -> bool:
        """End `call` and deliver it. False if it had ended before."""
        try:
            call.unclaimed.pop()
        except IndexError:
            return False
        call.ended_ns = time.perf_counter_ns()
        call.status = status
        call.answer = with_chunks(None, call.stream) if answer is None else answer
        call.failure = failure
        self._finish(call)
        return True

    def _finish(self, call: OpenCall) -> None:
        """Deliver it, then forget it. If something fails in here, the sweep does what has not been done."""
        if not call.delivered:
            self._deliver(call)
        self._forget(call)

    def _forget(self, call: OpenCall) -> None:
        run_id = call.run_id
        if run_id is None:
            self._manual.discard(call)
            return
        if self._by_run.get(call.key) is call:  # and none but the one that has claimed it takes it out
            self._by_run.pop(call.key, None)
        else:
            self._twins.pop(call, None)
        for calls in (self._by_task.get(call.home), call.inside):  # type: ignore[call-overload]  # a thread's number
            if calls:
                try:
                    calls.remove(call)
                except ValueError:  # the list was taken by the end of a task or scope
                    continue

    # -- ends that LangChain does not report ----------------------------------------------------------------------

    @guard_harmless("end_failed")
    def _task_done(self, task: asyncio.Task[Any]) -> None:
        for call in self._by_task.pop(task, ()):
            problem = None if not call.is_stream or task.cancelled() else getattr(task, "_exception", None)
            if problem is None or isinstance(problem, TimeoutError):
                self.end(call, Status.CANCELLED)
            else:
                self.end(call, Status.ERROR, failure=failure_of(problem))

    def on_scope_closed(self, calls: list[OpenCall]) -> None:
        """End those of `calls` that were cut off by the end of the scope in which they started."""
        if not calls:
            return
        here = asyncio.current_task() if asyncio._get_running_loop() is not None else None
        for call in list(calls):
            # What another task still awaits goes on: a fire-and-forget call outlives its request.
            if call.home is here or (call.task is not None and call.task.done()):
                self.end(call, Status.CANCELLED)

    def on_sibling_failed(self, failed: OpenCall) -> None:
        """End its call: in a thread, `generate` of several prompts stops at the first that fails and ends no other."""
        if isinstance(failed.home, int):
            for call in self._all():
                if call.home == failed.home and _is_sibling(call, failed):
                    self.end(call, Status.CANCELLED)

    def on_parent_ended(self, run_id: UUID) -> None:
        """End, after the run `run_id`, those of its calls that nothing awaits any more."""
        for call in self._all():
            if call.parent_run_id == run_id and call.task is not None and not is_awaited(call.task, call.run_id):
                self.end(call, Status.CANCELLED)

    def sweep(self, older_than_s: float) -> None:
        """End calls that have been open for longer than that, and look after those whose task may have gone on."""
        self._mend()
        now = time.perf_counter_ns()
        oldest = now - int(older_than_s * 1e9)
        doubtful: defaultdict[asyncio.AbstractEventLoop, list[OpenCall]] = defaultdict(list)
        for call in self._all():
            if call.started_ns < oldest:
                self.end(call, Status.ABANDONED)
            elif call.task is not None and (call.look_ns or call.started_ns + _FIRST_LOOK_NS) < now:
                call.look_ns = now + (now - call.started_ns)  # less and less often
                doubtful[call.task.get_loop()].append(call)
            elif call.started_ns + _FIRST_LOOK_NS < now and _has_left_its_thread(call):
                self.end(call, Status.CANCELLED)
        for loop, calls in doubtful.items():
            try:
                # in their own loop, where nothing runs while this does: only then does a task show what it awaits
                loop.call_soon_threadsafe(partial(self._look_at, calls))
            except RuntimeError:  # the loop is closed: nothing is awaited there
                self._look_at(calls)

    def _mend(self) -> None:
        """Finish what was begun a while ago and is not done: it failed, and was counted."""
        ending = {call for call in self._all() if call.is_claimed}
        for call in ending & self._ending:
            self._finish(call)
        self._ending = ending
        for task in [task for task in list(self._by_task) if task.done() or task.get_loop().is_closed()]:
            self._task_done(task)  # a closed loop runs no callbacks

    @guard("look_failed", "%s failed: an open call is no longer watched")  # this runs in the host's loop
    def _look_at(self, calls: list[OpenCall]) -> None:
        for call in calls:
            if call.task is not None and (call.task.get_loop().is_closed() or not is_awaited(call.task, call.run_id)):
                self.end(call, Status.CANCELLED)

    def close(self) -> None:
        """End all at shutdown: what nothing awaits any more as cancelled, the others as abandoned."""
        here = asyncio.current_task() if asyncio._get_running_loop() is not None else None
        for call in self._all():
            if call.is_claimed:  # no thread is left that could be in the middle of it
                self._finish(call)
                continue
            task = call.task
            cut_off = task is not None and (
                task is here or task.get_loop().is_closed() or not is_awaited(task, call.run_id)
            )
            self.end(call, Status.CANCELLED if cut_off else Status.ABANDONED)

    def under_way(self) -> list[OpenCall]:
        """Return the calls that have started and not ended."""
        return self._all()

    def _all(self) -> list[OpenCall]:
        # list() of a dict is one step for the interpreter; iterating it while other threads start calls is not
        return [*list(self._by_run.values()), *list(self._twins), *list(self._manual)]

    def _evict(self) -> None:
        oldest = next(iter(list(self._by_run.values())), None)
        if oldest is not None:
            diagnostics.count("open_calls_full", "more than %d calls are open; the oldest is abandoned", self._limit)
            self.end(oldest, Status.ABANDONED)


class _InScope(list[OpenCall]):
    """The open calls of one scope, which holds them and tells them of its end: they need no table that could leak."""

    def __init__(self, of: OpenCalls) -> None:
        super().__init__()
        self.open_calls = of

    def __call__(self, scope: Scope) -> None:
        self.open_calls.on_scope_closed(self)


def _nobody(call: OpenCall) -> None:
    """Announce a start where there is no journal."""


def _is_sibling(one: OpenCall, other: OpenCall) -> bool:
    """Return whether both are prompts of one `agenerate`."""
    return one.params is other.params and one.params is not None


def _has_left_its_thread(call: OpenCall) -> bool:
    """Return whether `call` is a stream without a first chunk, for which its thread does not wait any more."""
    is_waiting = call.is_stream and call.stream is None and type(call.home) is int
    return is_waiting and not is_in_thread(call.run_id, call.home)  # type: ignore[arg-type]  # it is a number


def _is_home(call: OpenCall) -> bool:
    """Return whether `call` started in this task or thread, or in one that this works for (shielded callbacks)."""
    if asyncio._get_running_loop() is None:
        return call.home == threading.get_ident()
    task = asyncio.current_task()
    return task is not None and (task is call.home or is_waited_for_by(task, call.home))
