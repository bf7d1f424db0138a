"""Whether a request itself created a task or job that nothing waits for, on a thread that others have used meanwhile.

A callback that has the request's context may have created it as well, for another user: a protocol's `data_received`,
a reader, a timer, what is done when a future is done. asyncio keeps no record of the creator. The suspended tasks show
who waits for what the task was given, who holds it, and who knows of it; what shows nothing cannot be told.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterable, Iterator
from types import AsyncGeneratorType, FrameType
from typing import Any, Final, TypeGuard

from llmctx.core.guard import guard_harmless
from llmctx.identity.argument_values import (
    Work,
    fields_of,
    is_given,
    is_given_connection,
    name_of,
    names_thread,
    source_of,
    values_of,
)
from llmctx.identity.await_graph import all_waiting, is_waited_for_by, runs_here
from llmctx.identity.blocked_threads import Job
from llmctx.identity.candidates import effective_scope
from llmctx.identity.eager_start import is_being_made, starter_of
from llmctx.identity.scope import Scope, scope_in, with_parents
from llmctx.identity.task_numbers import number_of
from llmctx.identity.work_frames import (
    context_of,
    instance_fields,
    is_of_a_library,
    loop_of,
    spawns,
    suspended_frames,
)

TASKS: Final = 1000
"""Tasks of a loop up to which it is asked who created one of them."""


def is_created_in(scope: Scope, work: Iterable[Work], thread_id: str, used_in: int) -> bool | None:
    """Return whether the flow of `scope` created all of `work`. False: a user of the thread waits for what was given.

    Others have first used the thread in a task of the number `used_in` (`task_numbers.py`); 0 if that is unknown.
    """
    found = [_Search(scope, thread_id, used_in, one).answer(one) for one in work]
    return True if all(found) else False if False in found else None


def is_output_read_in(scope: Scope, work: Work) -> bool:
    """Return whether the flow of `scope`, and of no other, waits for what `work` was given: a queue that it fills; or
    will do so.
    """
    owner = scope.anchor.owner
    if owner is None:
        return False
    waiting = [one for one in _waiting_for_what_is_given(work, to_fill=True) if one is not work]
    if waiting:
        return any(is_waited_for_by(one, owner) for one in waiting) and all(
            (its := _scope_of(one)) is None or its.anchor is scope.anchor for one in waiting
        )
    queues = _queues_of(work)
    flow = [one for one in tasks_beside(work, scope) if queues and is_in(one, scope) and is_waited_for_by(one, owner)]
    frames = (frame for task in flow for frame in suspended_frames(task))
    return any(_reads_later(value, queues) for frame in frames for value in list(frame.f_locals.values()))


class _Search:
    """The tasks of one loop, and what they show of one another."""

    def __init__(self, scope: Scope, thread_id: str, used_in: int, work: Work) -> None:
        self.scope, self.thread_id, self.used_in = scope, thread_id, used_in
        tasks = tasks_beside(work, scope)
        self.creators = [task for task in tasks if _may_create(task, scope)] if len(tasks) <= TASKS else []
        self.seen: set[int] = set()

    def answer(self, work: Work) -> bool | None:
        """Return who created `work`: the scope's flow, a user of the thread (False), or one who is not seen."""
        waiting = [one for one in _waiting_for_what_is_given(work) if one is not work]
        for_users = any(_is_of_a_user(one, self.scope, self.thread_id) for one in waiting)
        if (
            is_given_connection(work, self.scope)
            or self._is_own(work)
            or any(is_in(one, self.scope) and self._is_own(one) for one in waiting)
        ):
            return None if for_users else True
        return False if for_users else None

    def _is_own(self, work: Work) -> bool:
        """Return whether `work` is part of the scope's flow, or was created by what is."""
        if id(work) in self.seen:
            return False
        self.seen.add(id(work))
        if is_given_connection(work, self.scope):
            return True
        if isinstance(work, asyncio.Task):
            if self._is_of_the_flow(work):
                return True
            if 0 < number_of(work) < self.used_in and is_given(work, self.thread_id):
                return True
            if is_being_made(work):
                starter = starter_of(work)
                return starter is not None and is_in(starter, self.scope) and self._is_own(starter)
        return any(self._shows(one, work) and self._is_own(one) for one in self.creators if one is not work)

    def _is_of_the_flow(self, task: asyncio.Task[Any]) -> bool:
        owner = self.scope.anchor.owner
        return owner is not None and is_waited_for_by(task, owner)

    def _shows(self, task: asyncio.Task[Any], work: Work) -> bool:
        """Return whether `task` holds `work`, names what starts it, or knows the thread, and did so from its start."""
        is_no_worker = (
            self._is_of_the_flow(task)
            or is_given(task, self.thread_id)
            or is_given_connection(task, self.scope, is_socket=True)
        )
        if not is_no_worker:
            return False
        frames = list(suspended_frames(task))
        name, is_spawning = name_of(work), any(map(spawns, frames))
        queues = _queues_of(work)
        for frame in frames:
            code, known = frame.f_code, frame.f_locals
            if spawns(frame) and (name in code.co_names or name in known):
                return True
            for value in list(known.values()):
                if value is work or (is_spawning and _holds(value, work)) or (queues and _reads_later(value, queues)):
                    return True
            if not is_of_a_library(frame) and any(_knows(value, self.thread_id) for value in _variables_of(frame)):
                return True
        return False


def _is_of_a_user(task: asyncio.Task[Any], scope: Scope, thread_id: str) -> bool:
    """Return whether `task` works in an open scope of another than `scope`, who has used the thread."""
    its = _scope_of(task)
    while its is not None and its.parent is not None and thread_id not in its.threads:
        its = its.parent
    return its is not None and its.is_open and its.anchor is not scope.anchor and thread_id in its.threads


@guard_harmless("long_work_failed", otherwise=lambda scope, thread_id: False)
def is_awaited_by_a_user(scope: Scope, thread_id: str | None) -> bool:
    """Return whether the flow of another than `scope`, who has used the thread, waits for what runs here.

    Requests that come together wait for one task, which the first of them has created: it works for all of them. Who
    waits for the flow that opened `scope` waits for what that flow says, and does not count, nor does who is around it.
    """
    owner = scope.anchor.owner
    if thread_id is None or not isinstance(owner, asyncio.Task):
        return False
    around = {id(one) for one in with_parents(scope)}
    return any(
        isinstance(one, asyncio.Task)
        and _is_of_a_user(one, scope, thread_id)
        and (its := _scope_of(one)) is not None
        and its.anchor.owner is one
        and id(its.anchor) not in around
        for one in all_waiting(runs_here(), without=owner)
    )


def _variables_of(frame: FrameType) -> Iterator[object]:
    """Yield what only the code of `frame` itself has put into its variables: no function inside of it, nor around."""
    code, known = frame.f_code, frame.f_locals
    for name in code.co_varnames:
        if name in known and name not in code.co_cellvars and name not in ("self", "cls"):
            yield known[name]


def _knows(value: object, thread_id: str) -> bool:
    return names_thread(value, thread_id) or any(names_thread(part, thread_id) for part in fields_of(value))


def _queues_of(work: Work) -> set[int]:
    """Return the ids of the queues and streams that `work` was given."""
    values = values_of(source_of(work))
    return {
        id(value)
        for value in values
        if isinstance(value, asyncio.Queue) or type(value).__module__ == "anyio.streams.memory"
    }


def _reads_later(value: object, queues: set[int]) -> bool:
    """Return whether `value`, or a field of it (a response's body), is a generator that has not begun and has one of
    the `queues`.
    """
    for part in (value, *instance_fields(value).values()):
        frame = part.ag_frame if isinstance(part, AsyncGeneratorType) and not part.ag_running else None
        if frame is not None and any(id(one) in queues for one in frame.f_locals.values()):
            return True
    return False


def _holds(value: object, work: object) -> bool:
    return type(value) in _CONTAINERS and any(one is work for one in list(value))  # type: ignore[call-overload]


_CONTAINERS: Final = frozenset({set, list, tuple})


def tasks_beside(work: Work, scope: Scope) -> set[asyncio.Task[Any]]:
    """Return the tasks of the loops of `work`, of what waits for it, and of the owner of `scope`."""
    loops = {one.get_loop() for one in (*all_waiting(work), scope.anchor.owner) if isinstance(one, asyncio.Future)}
    if isinstance(work, asyncio.Handle):
        loops.add(loop_of(work))
    return {task for loop in loops for task in asyncio.all_tasks(loop)}


_IN_LOOPS: Final = (asyncio.Task, asyncio.Handle)


def is_in(work: object, scope: Scope) -> TypeGuard[asyncio.Task[Any] | asyncio.Handle]:
    """Return whether `work` is a task or a callback that has `scope`, or one inside of it."""
    its = _scope_of(work) if isinstance(work, _IN_LOOPS) else None
    return its is not None and its.anchor is scope.anchor


def _may_create(task: asyncio.Task[Any], scope: Scope) -> bool:
    """Return whether `task` is in `scope`, or may be, but reads from a queue meanwhile (`propagation/queues.py`)."""
    its = _scope_of(task)
    return its is None or its.kind == "item" or its.anchor is scope.anchor


def _scope_of(work: asyncio.Task[Any] | asyncio.Handle) -> Scope | None:
    context = context_of(work)
    return None if context is None else effective_scope(scope_in(context))


def _waiting_for_what_is_given(work: Work, *, to_fill: bool = False) -> Iterator[asyncio.Task[Any]]:
    """Yield the tasks that wait for what `work` was given; with `to_fill`, for what can be put into that."""
    for value in values_of(source_of(work)):
        for future in _filling(value) if to_fill else (*_filling(value), *_told(value)):
            yield from (one for one in all_waiting(future) if isinstance(one, asyncio.Task))


def _filling(value: object) -> Iterator[Job]:
    """Yield the futures that are done when something is put into `value`, a queue or a stream."""
    if isinstance(value, asyncio.Queue):
        yield from list(getattr(value, "_getters", ()))
    elif type(value).__module__ == "anyio.streams.memory":
        for event in list(getattr(getattr(value, "_state", None), "waiting_receivers", ())):
            yield from _told(event)


def _told(value: object) -> Iterator[Job]:
    """Yield the futures that are done when `value`, an event, is set; `value` itself, if it is a future."""
    if isinstance(value, (asyncio.Future, concurrent.futures.Future)):
        yield value
        return
    event = getattr(value, "_event", None) if type(value).__module__.startswith("anyio.") else value
    if isinstance(event, (asyncio.Event, asyncio.Condition)):
        yield from list(getattr(event, "_waiters", ()))
