"""Whether work that nothing waits for was spawned by a request itself, or is a worker's, on a thread that others use.

Both have inherited the request's scope. What a request spawns (a task for each message of a websocket, that of
`astream_events`, work after the response) is given its thread when it is created: it stands among the arguments of its
coroutine. A worker takes it from a queue later on; or a worker has spawned it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterable, Iterator
from contextvars import Context
from types import FrameType
from typing import Any, Final

from llmctx.core.guard import guard_harmless
from llmctx.identity.argument_values import Work, is_given, is_given_connection, source_of, spells_out, values_of
from llmctx.identity.await_graph import all_waiting, is_part_of, is_waited_for_by, runs_here
from llmctx.identity.background_work import await_light, is_in_the_dark
from llmctx.identity.handed_requests import is_handed_request
from llmctx.identity.registry.base import Entry
from llmctx.identity.scope import Scope, scope_in
from llmctx.identity.task_creators import TASKS, is_created_in, is_in, is_output_read_in, tasks_beside
from llmctx.identity.task_numbers import is_made_later
from llmctx.identity.work_frames import (
    callback_here,
    frames_beneath_loop,
    frames_in,
    frames_of,
    is_in_a_loop,
    is_in_own_loop,
    is_of_a_library,
    queues_at_hand,
    spawns,
    spawns_elsewhere,
    suspended_frames,
    takes_from_a_queue,
)


def works_for(scope: Scope, thread_id: str | None, used: Entry | None, *, is_final: bool = True) -> bool | None:
    """Return whether what runs here works for `scope`, on a thread that others use. False: it may be a worker, who has
    only inherited it. None: cannot be told, or not yet: unless the answer `is_final` it will be asked for again.

    `used` is what the registry knows of the thread, if others have used it since `scope` was opened.
    """
    is_dark = is_in_the_dark()  # first: if something waits for it by now, that is found below
    if is_handed_request(scope):
        return True
    own = is_part_of(scope) if scope.is_open else False
    if not own and (own is None or is_dark):
        if not is_final:
            own = None
        elif await_light():
            own = (is_part_of(scope) if scope.is_open else False) or own  # it may still be about to be awaited
    return own if own or thread_id is None else _weighed(scope, thread_id, used, own, is_final)


@guard_harmless("long_work_failed", otherwise=lambda scope, thread_id, used, own, is_final: None)
def _weighed(scope: Scope, thread_id: str, used: Entry | None, own: bool | None, is_final: bool) -> bool | None:
    roots = _roots(scope)
    if not roots or not all(is_given(root, thread_id) for root in roots):
        takes = any(map(takes_from_a_queue, frames_of(())))
        if roots and all(_serves_flow(root, scope, takes) for root in roots):
            return True
        if own is False and used is not None and not _shows_worker(scope, roots, thread_id):
            return None
        return False if takes and own is None and is_final else own
    if any(map(takes_from_a_queue, _frames_around(roots[0]))):
        return False if is_final else own
    if any(map(takes_from_a_queue, _frames_at_work(all_waiting(roots[0])))):
        return None
    may_be_spawned = _is_spawned_by_worker(scope, roots, thread_id)
    if may_be_spawned is not False:
        return None if may_be_spawned is None else own
    used_in = used.task if used is not None and used.quiet_until < scope.serial else 0
    is_created = is_created_in(scope, roots, thread_id, used_in)
    if used is None and is_created is None:
        return not may_be_of_others(scope)
    return is_created


def _roots(scope: Scope) -> list[Work]:
    """Return, of what runs here and all that waits for it, the tasks in `scope` that no other such task waits for; a
    job or thread that no task waits for.
    """
    runs = callback_here() or runs_here()
    if isinstance(runs, _IN_THREADS) and not any(isinstance(one, asyncio.Task) for one in all_waiting(runs)):
        return [runs]
    tasks = [one for one in all_waiting(runs) if is_in(one, scope) and (one is runs or not _is_portal(one))]
    return [task for task in tasks if not any(one is not task and one in tasks for one in all_waiting(task))]


def _serves_flow(root: Work, scope: Scope, takes: bool) -> bool:
    """Return whether `root` is a websocket's own worker; or takes no jobs, and was given the request, or fills what its
    flow reads.
    """
    return is_given_connection(root, scope, is_socket=True) or (
        not takes and (is_given_connection(root, scope) or is_output_read_in(scope, root))
    )


def _shows_worker(scope: Scope, roots: list[Work], thread_id: str) -> bool:
    """Return whether what runs here, or waits for it, takes jobs or is in a loop, or has been spawned by a worker."""
    frames = list(frames_of(all_waiting(runs_here())))
    return (
        not roots
        or any(map(takes_from_a_queue, frames))
        or (any(map(is_in_own_loop, frames)) and not any(spells_out(root, thread_id) for root in roots))
        or _is_spawned_by_worker(scope, roots, thread_id) is True
    )


def _is_portal(work: object) -> bool:
    """Return whether `work` waits for tasks of many: code of anyio's alone, in the thread of a portal."""
    frames = list(suspended_frames(work)) if isinstance(work, asyncio.Task) else []
    return bool(frames) and all(
        str(frame.f_globals.get("__name__")).startswith(("anyio.", "asyncio.")) for frame in frames
    )


_IN_THREADS: Final = (concurrent.futures.Future, threading.Thread)


def _frames_at_work(tasks: Iterable[object]) -> Iterator[FrameType]:
    """Yield the frames of what runs here and of the tasks that wait for it, without those that read its output from a
    queue.
    """
    yield from frames_of(())
    for task in tasks:
        frames = list(suspended_frames(task)) if isinstance(task, asyncio.Task) else []
        if not any(frame.f_globals.get("__name__") in _QUEUES for frame in frames):
            yield from frames


def _frames_around(root: object) -> Iterator[FrameType]:
    """Yield the frames of threads in which the loop of `root` runs, or which block until `root` is done; of a job those
    of its own.
    """
    if isinstance(root, _IN_THREADS):
        yield from frames_of(())
    if threading.current_thread() is not threading.main_thread():
        yield from frames_beneath_loop()
    for one in all_waiting(root):
        if isinstance(one, threading.Thread):
            yield from frames_in(one)


_QUEUES: Final = ("asyncio.queues", "anyio.streams.memory")


@guard_harmless("long_work_failed", otherwise=lambda scope: True)
def may_be_of_others(scope: Scope) -> bool:
    """Return whether a task runs here that was created when the request of `scope` was over, and nothing waits for; or
    a job that a worker may have handed on since.
    """
    return scope.may_be_of_others or any(
        isinstance(root, asyncio.Task) and is_made_later(root, scope) for root in _roots(scope)
    )


# -- who may have spawned it -------------------------------------------------------------------------------------------


def _is_spawned_by_worker(scope: Scope, given: list[Work], thread_id: str) -> bool | None:
    """Return whether a worker that has inherited `scope` as well spawns tasks. None: one may."""
    outputs = {id(value) for root in given for value in values_of(source_of(root))}
    tasks = tasks_beside(given[0], scope)
    if len(tasks) > TASKS:
        return None
    # other tasks of the same code, and of that which reads what these write, do for others what is done here
    alike = {_code_of(root) for root in given}
    found = []
    for task in tasks:
        if _code_of(task) not in alike and _has_inherited(task, scope):
            frames = [frame for frame in suspended_frames(task) if not is_of_a_library(frame)]
            if any(_reads_output(frame, outputs) for frame in frames):
                alike.add(_code_of(task))
            found.append((task, frames))
    may_be: bool | None = False
    for task, frames in found:
        takes = any(map(takes_from_a_queue, frames))
        if _code_of(task) not in alike and (takes or any(spawns(frame) and is_in_a_loop(frame) for frame in frames)):
            if any(isinstance(one, asyncio.Task) and is_given(one, thread_id) for one in all_waiting(task)):
                may_be = None if takes else may_be  # it works on this thread itself
            elif any(map(spawns, frames)):
                return True
            else:
                may_be = None
    return None if may_be is None or any(_may_spawn(thread, scope) for thread in threading.enumerate()) else False


def _code_of(work: Work) -> object:
    """Return the code of a task's coroutine; something else for other work."""
    return getattr(work.get_coro(), "cr_code", None) if isinstance(work, asyncio.Task) else work


def _reads_output(frame: FrameType, outputs: set[int]) -> bool:
    """Return whether the code of `frame` takes from queues that were all given to the work in question to fill."""
    queues = list(queues_at_hand(frame)) if takes_from_a_queue(frame) else []
    return bool(queues) and all(id(one) in outputs for one in queues)


def _has_inherited(task: asyncio.Task[Any], scope: Scope) -> bool:
    """Return whether a task has the scope, and is no part of the flow that opened it, nor a websocket's own worker."""
    owner = scope.anchor.owner
    return (
        is_in(task, scope)
        and not (owner is not None and is_waited_for_by(task, owner))
        and not is_given_connection(task, scope, is_socket=True)
    )


def _may_spawn(thread: threading.Thread, scope: Scope) -> bool:
    """Return whether a thread takes its work from a queue, and has inherited `scope` or spawns elsewhere."""
    frames = [] if thread is threading.current_thread() else list(frames_in(thread))
    if not any(map(takes_from_a_queue, frames)):
        return False
    context = getattr(getattr(thread, "_target", None), "__self__", None)
    its = scope_in(context) if isinstance(context, Context) else None
    return (its is not None and its.anchor is scope.anchor) or any(map(spawns_elsewhere, frames))
