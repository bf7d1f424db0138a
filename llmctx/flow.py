"""Whether what runs here is part of somebody's flow: his task, or something that his task waits for.

A task that was created inside a request inherits its context, whether it serves the request (`gather`, a task group,
a streaming body) or is a worker that the request happened to start. The context cannot tell the two apart. Who waits
for whom can: a worker is waited for by nobody, or not by the request.

asyncio keeps this in the callbacks of its futures. It is followed there, never changed; where it cannot be followed
the answer is "cannot be told". Asked only when witnesses differ, so it costs the usual call nothing.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from llmctx.context import Scope

_STEPS: Final = 500


def belongs_to(scope: Scope) -> bool | None:
    """Whether what runs here and now is part of the flow that opened `scope`. None: cannot be told."""
    around: Scope | None = scope
    while around is not None and around.owner is None:
        around = around.parent
    if around is None:
        return None
    try:
        return _is_part_of(around.owner)
    except Exception:  # noqa: BLE001  these are other people's objects: what cannot be read cannot be told
        return None


def is_waited_for_by(task: asyncio.Future[Any], owner: object) -> bool:
    """Whether `owner` waits for `task`, directly or through others."""
    return any(found is owner for found in _waiting(task))


def _is_part_of(owner: object) -> bool | None:
    here = threading.get_ident()
    if asyncio._get_running_loop() is None:
        return True if owner == here else _serves_a_task()
    task = asyncio.current_task()
    if task is None:
        return None
    for found in _waiting(task):
        if found is owner:
            return True
        if found is _MAIN:  # the loop's main task: whoever runs the loop waits for it
            return True if owner == here else None
        if found is _OTHER_THREAD:
            return None
    return False


def _serves_a_task() -> bool | None:
    """A thread of anyio's (starlette's sync endpoints, dependencies, bodies) runs one short job for a waiting task."""
    return True if type(threading.current_thread()).__module__.startswith("anyio.") else None


def awaiting_task() -> asyncio.Task[Any] | None:
    """The task that waits for the one that runs, directly or by a `gather`; None if there is none."""
    task = asyncio.current_task()
    if task is None:
        return None
    return next((found for found in _waiting(task) if isinstance(found, asyncio.Task) and found is not task), None)


def frames_of(task: asyncio.Task[Any]) -> list[FrameType]:
    """The frames of a suspended task, innermost first, as far as its chain of awaits can be followed."""
    found: list[FrameType] = []
    step: Any = task.get_coro()
    while step is not None:
        frame = getattr(step, "cr_frame", None)
        if frame is None:
            break
        found.append(frame)
        step = step.cr_await
    found.reverse()
    return found


_MAIN: Final = object()
_OTHER_THREAD: Final = object()


def _waiting(task: asyncio.Future[Any]) -> Iterator[object]:
    """`task`, and everything that waits for it: futures, tasks, `_MAIN`, `_OTHER_THREAD`."""
    found: list[object] = [task]
    seen = {id(task)}
    for one in found:  # grows meanwhile
        yield one
        if not isinstance(one, asyncio.Future) or len(found) > _STEPS:
            continue
        for callback, *_ in getattr(one, "_callbacks", None) or ():
            for waiting in _behind(callback):
                if id(waiting) not in seen:
                    seen.add(id(waiting))
                    found.append(waiting)


def _behind(callback: Any) -> Iterator[object]:
    """Who is told by `callback` that a future is done."""
    parts: list[Any] = [getattr(callback, "__self__", None)]
    if isinstance(callback, functools.partial):  # wait_for
        parts += callback.args
    for cell in getattr(callback, "__closure__", None) or ():  # gather, wait, shield, anyio's task groups
        try:
            parts.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    if getattr(callback, "__name__", "") == "_run_until_complete_cb":
        yield _MAIN
    for part in parts:
        if isinstance(part, asyncio.Future):
            yield part
        elif isinstance(part, concurrent.futures.Future):
            yield _OTHER_THREAD
        elif type(part).__module__.startswith(("asyncio.", "anyio.")):
            host = getattr(part, "_parent_task", None) or getattr(
                getattr(part, "cancel_scope", None), "_host_task", None
            )
            if isinstance(host, asyncio.Future):
                yield host
