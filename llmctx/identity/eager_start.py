"""Tasks that are started eagerly: their first step runs inside of the call that makes them, before any waits for them.

From Python 3.12 (`asyncio.eager_task_factory`) LangGraph starts nodes so, and an application may start all of its tasks
so. The task that makes one is on the stack below it meanwhile; the code that made it shows whether it will wait for it.
"""

from __future__ import annotations

import asyncio
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

_MAKERS: Final[tuple[CodeType, ...]] = tuple(
    made.__code__
    for made in (getattr(asyncio, "eager_task_factory", None), asyncio.BaseEventLoop.create_task)
    if made is not None
)
"""What a task's first step is called by, if it is started eagerly: the second, if that is asked for by an argument."""

_AWAITING: Final = frozenset({"gather", "wait_for", "as_completed", "_wrap_awaitables"})
_GROUPS: Final = "asyncio.taskgroups"
_LIBRARIES: Final = frozenset({"anyio", "langchain_core", "langgraph"})
"""They wait for each task that they start."""


class EagerStart(NamedTuple):
    """A task whose first step runs."""

    starter: asyncio.Task[Any] | None
    """The task in whose step it was made; None if that was no task."""
    is_awaited: bool
    """Whether it is certain that the starter will wait for it."""


def eager_start(task: asyncio.Task[Any]) -> EagerStart | None:
    """Return how `task`, which runs here, is being started; None if it is not in the first step of an eager start."""
    first = _running_frame(task)
    maker = None if first is None else first.f_back
    if maker is None or maker.f_code not in _MAKERS:
        return None
    below = {id(_running_frame(other)): other for other in asyncio.all_tasks() if other is not task}
    below.pop(id(None), None)
    is_awaited, is_asked = False, True
    frame: FrameType | None = maker
    while frame is not None and id(frame) not in below:
        if is_asked:
            module = str(frame.f_globals.get("__name__"))
            is_asked = module.startswith(("asyncio.", "llmctx."))
            is_awaited = (
                frame.f_code.co_name in _AWAITING or module == _GROUPS
                if is_asked
                else module.partition(".")[0] in _LIBRARIES
            )
            is_asked = is_asked and not is_awaited
        frame = frame.f_back
    return EagerStart(None if frame is None else below[id(frame)], is_awaited)


def _running_frame(task: asyncio.Task[Any]) -> FrameType | None:
    """Return the outermost frame of `task` if it is on a stack; None if it is suspended, or shows none."""
    made: Any = task.get_coro()
    if getattr(made, "cr_running", False):
        frame: FrameType | None = made.cr_frame
        return frame
    return None
