"""Tasks that are started eagerly: their first step runs inside of the call that makes them, before any waits for them.

From Python 3.12 (`asyncio.eager_task_factory`) LangGraph starts nodes so, and an application may start all of its tasks
so. The task that makes one is on the stack below it meanwhile; the code that made it shows whether it will wait for it.
"""

from __future__ import annotations

import asyncio
from types import CodeType, FrameType
from typing import Any, Final

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


def will_be_awaited(task: asyncio.Task[Any]) -> bool | None:
    """Return whether the code that starts `task` here and now is certain to wait for it; None if none does so."""
    frame = _maker_of(task)
    if frame is None:
        return None
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if not module.startswith(("asyncio.", "llmctx.")):
            return module.partition(".")[0] in _LIBRARIES
        if frame.f_code.co_name in _AWAITING or module == _GROUPS:
            return True
        frame = frame.f_back
    return False


def is_being_made(task: asyncio.Task[Any]) -> bool:
    """Return whether `task` runs its first step inside of the call that makes it."""
    return _maker_of(task) is not None


def starter_of(task: asyncio.Task[Any]) -> asyncio.Task[Any] | None:
    """Return the task in whose step `task` is started here and now; None if that is no task, or none does so."""
    frame = _maker_of(task)
    if frame is None:
        return None
    running = {id(found): one for one in asyncio.all_tasks() if (found := _running_frame(one)) is not None}
    while frame is not None and id(frame) not in running:
        frame = frame.f_back
    return None if frame is None else running[id(frame)]


def _maker_of(task: asyncio.Task[Any]) -> FrameType | None:
    """Return the frame that makes `task`, if it runs its first step in there."""
    first = _running_frame(task)
    maker = None if first is None else first.f_back
    return None if maker is None or maker.f_code not in _MAKERS else maker


def _running_frame(task: asyncio.Task[Any]) -> FrameType | None:
    """Return the outermost frame of `task` if it is on a stack; None if it is suspended, or shows none."""
    made: Any = task.get_coro()
    if getattr(made, "cr_running", False):
        frame: FrameType | None = made.cr_frame
        return frame
    return None
