"""The graph of tasks that wait for one another: what runs here is part of a request's flow, or is not.

To be deleted once asyncio and concurrent.futures say it themselves (`asyncio.capture_call_graph`, from Python
3.14, does so for tasks alone).

A task that was created inside a request inherits its context, whether it serves the request (`gather`, a task group,
a streaming body) or is a worker that the request happened to start. The context cannot tell the two apart. Who waits
for whom can: nothing waits for a worker, or not the request.

asyncio keeps this in the callbacks of its futures. It is followed there, never changed; where it cannot be followed
the answer is "cannot be told". Asked only when sources differ, so it costs the usual call nothing.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import sys
import threading
from collections.abc import Iterator
from contextvars import Context
from pathlib import Path
from types import FrameType
from typing import Any, Final

from llmctx.identity.blocked_threads import RUN_JOB, Job, blocked_on, job_of
from llmctx.identity.eager_start import starter_of, will_be_awaited
from llmctx.identity.held_scopes import is_held_here
from llmctx.identity.present_scope import is_answered_here
from llmctx.identity.scope import Scope, with_parents

_STEPS: Final = 500
_HERE: Final = f"{Path(__file__).parents[1]}{os.sep}"


def is_part_of(scope: Scope) -> bool | None:
    """Return whether what runs here and now is part of the flow that opened `scope`. None: cannot be told."""
    around = next((one for one in with_parents(scope) if one.owner is not None), None)
    if around is None:
        return None
    try:
        return is_answered_here(around) or is_held_here(around) or _is_part_of(around.owner)
    except Exception:  # noqa: BLE001  these are other libraries' objects: what cannot be read cannot be told
        return None


def is_waited_for_by(task: asyncio.Future[Any], owner: object) -> bool:
    """Return whether `owner`, a task or the number of the thread that runs the loop, waits for `task`, directly or
    through others.
    """
    main = _MAIN if owner == threading.get_ident() else owner
    return any(found is owner or found is main for found in _waiting(task))


def _is_part_of(owner: object) -> bool | None:
    here = threading.get_ident()
    if asyncio._get_running_loop() is None:
        if owner == here:
            return True
        if type(threading.current_thread()).__module__.startswith("anyio."):
            return True  # starlette's sync endpoints, dependencies, bodies: one short job for a waiting task
    work = runs_here()
    if work is None:
        return None
    in_the_dark = False
    for found in _waiting(work, in_threads=True):
        if found is owner or (isinstance(found, threading.Thread) and found.ident == owner):
            return True
        if found is _MAIN and owner == here:  # the loop's main task: the thread that runs the loop waits for it
            return True
        in_the_dark = in_the_dark or found is _MAIN or found is _A_THREAD
    return None if in_the_dark else False


def runs_here() -> Job | threading.Thread | None:
    """Return the task or job that runs, or the thread that runs neither; None for a callback of a loop."""
    return work_here() or (threading.current_thread() if asyncio._get_running_loop() is None else None)


def work_here() -> Job | None:
    """Return the task that runs, or the future of the job that this thread of a pool runs; None if there is neither."""
    if asyncio._get_running_loop() is not None:
        return asyncio.current_task()
    return job_of(sys._getframe(1))


def waiting_work(work: Job) -> Iterator[asyncio.Task[Any] | concurrent.futures.Future[Any]]:
    """Yield the tasks and jobs among `work` and all that waits for it, directly or through others."""
    return (found for found in _waiting(work) if isinstance(found, (asyncio.Task, concurrent.futures.Future)))


def all_waiting(work: object, without: object = None) -> Iterator[object]:
    """Yield `work`, and all that waits for it, also in other threads; not `without`, nor what waits by way of it."""
    return _waiting(work, in_threads=True, without=without)


def is_unawaited(work: object) -> bool:
    """Return whether nothing waits for a pool's job or a thread, or not yet, though a loop's future may stand for it
    already. Of a task: whether it is being started eagerly, or its loop runs in such a job, or for one.
    """
    if isinstance(work, asyncio.Task):
        is_awaited = will_be_awaited(work)
        if is_awaited is not None:
            return not is_awaited
        return any(isinstance(one, concurrent.futures.Future) and is_unawaited(one) for one in _waiting(work))
    if isinstance(work, asyncio.Future):
        return all(_only_cancels(callback) for callback, _ in _callbacks(work))
    if work is None or work is threading.main_thread():
        return False
    if isinstance(work, threading.Thread):
        waiting = list(blocked_on(work))
        return not waiting or any(map(is_unawaited, waiting))
    told = [list(_targets_of(callback)) for callback, _ in _callbacks(work)]
    return all(told) and all(
        isinstance(one, asyncio.Future) and is_unawaited(one) for targets in told for one in targets
    )


def context_that_waits(names: tuple[str, ...]) -> tuple[bool, Context | None]:
    """Return whether a task or a job of a pool was made just for the method that runs here, which has one of those
    `names` (`wait_for(jobs.get(), 5)`, `to_thread(jobs.get)`), and the context of the task that waits for it.
    """
    work: object = None
    if asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
        code = None if task is None else getattr(task.get_coro(), "cr_code", None)
        work = task if code is not None and code.co_name in names else None
    else:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith(_HERE):
            frame = frame.f_back
        if frame is not None and frame.f_code is RUN_JOB:
            work = getattr(frame.f_locals.get("self"), "future", None)
        elif frame is not None and type(threading.current_thread()).__module__.startswith("anyio."):
            work = frame.f_locals.get("future")
    found = [work]
    for one in found:  # grows meanwhile
        for callback, context in _callbacks(one):
            if getattr(callback, "__name__", "").endswith("wakeup"):
                return True, context
            if len(found) < _STEPS:
                found += [waiting for waiting in _targets_of(callback) if all(waiting is not known for known in found)]
    return work is not None, None


def awaiting_task() -> asyncio.Task[Any] | None:
    """Return the task that waits for the one that runs, directly or by a `gather`; None if there is none."""
    task = asyncio.current_task()
    if task is None:
        return None
    return next((found for found in _waiting(task) if isinstance(found, asyncio.Task) and found is not task), None)


_MAIN: Final = object()
_A_THREAD: Final = object()


def _waiting(work: object, *, in_threads: bool = False, without: object = None) -> Iterator[object]:
    """Yield `work`, and all that waits for it: futures, tasks, threads, `_MAIN`, `_A_THREAD` (one may block on it).
    `in_threads` asks which do. `without` is left out, and what waits for it alone.
    """
    found: list[object] = [work]
    seen = {id(work)}
    for one in found:  # grows meanwhile
        if one is without:
            continue
        yield one
        if len(found) > _STEPS:
            continue
        for waiting in _waiters_of(one, in_threads):
            if id(waiting) not in seen:
                seen.add(id(waiting))
                found.append(waiting)


def _waiters_of(one: object, in_threads: bool) -> Iterator[object]:
    """Yield what waits for `one`, if it is a future."""
    if isinstance(one, asyncio.Future):
        for callback, _ in getattr(one, "_callbacks", None) or ():
            yield from _targets_of(callback)
        if isinstance(one, asyncio.Task) and will_be_awaited(one) and (starter := starter_of(one)) is not None:
            yield starter
    elif isinstance(one, concurrent.futures.Future):
        told = [list(_targets_of(callback)) for callback, _ in _callbacks(one)]
        for waiting in told:
            yield from waiting
        if not all(told) or not told or getattr(one, "_waiters", None):
            yield from (list(blocked_on(one)) if in_threads else ()) or (_A_THREAD,)
    elif isinstance(one, threading.Thread):
        yield from list(blocked_on(one)) or (_A_THREAD,)


def _callbacks(one: object) -> list[tuple[Any, Context | None]]:
    """Return the callbacks of a future, each with its context."""
    if isinstance(one, asyncio.Future):
        return [(callback, context) for callback, context in getattr(one, "_callbacks", None) or ()]
    if isinstance(one, concurrent.futures.Future):
        return [(call, None) for call in list(getattr(one, "_done_callbacks", ())) if not _only_cancels(call)]
    return []


def _only_cancels(callback: Any) -> bool:
    """Return whether this is a chained future that tells its source of being cancelled; it does not wait for it."""
    return getattr(callback, "__name__", "") == "_call_check_cancel"


def _targets_of(callback: Any) -> Iterator[object]:
    """Yield the futures and tasks that `callback` wakes up."""
    name = getattr(callback, "__name__", "")
    if name == "_call_check_cancel":  # `_only_cancels`
        return
    if name == "_run_until_complete_cb":
        yield _MAIN
        if (beneath := job_beneath_loop()) is not None:
            yield beneath
    parts: list[Any] = [getattr(callback, "__self__", None)]
    if type(callback) is functools.partial:  # wait_for
        parts += callback.args
    for cell in getattr(callback, "__closure__", None) or ():  # gather, wait, shield, anyio's task groups
        try:
            parts.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    if getattr(callback, "__module__", None) == "asyncio.tasks":  # as_completed: a queue of what is done
        parts += [getattr(parts[0], "_done", None)]
        for queue in parts:
            if isinstance(queue, asyncio.Queue):
                yield from list(getattr(queue, "_getters", ()))
    for part in parts:
        if isinstance(part, _FUTURES):
            yield part
        elif type(part).__module__.startswith(("asyncio.", "anyio.")):
            host = getattr(part, "_parent_task", None) or getattr(
                getattr(part, "cancel_scope", None), "_host_task", None
            )
            if isinstance(host, asyncio.Future):
                yield host


def job_beneath_loop() -> Job | None:
    """Return the job of a pool's thread in which the loop runs that runs here."""
    frame: FrameType | None = sys._getframe(1)
    return job_of(frame) if asyncio._get_running_loop() is not None else None


_FUTURES: Final = (asyncio.Future, concurrent.futures.Future)
