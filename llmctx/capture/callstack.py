"""The place of a call in LangChain's code: the method by which it was made, and whether that still runs.

LangChain's callbacks do not say; the frames of threads, and the chains of awaits of suspended tasks, do. They are
looked at, never changed.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from types import AsyncGeneratorType, CodeType, FrameType
from typing import Any, Final, NamedTuple
from uuid import UUID

from langchain_core.callbacks import manager as callbacks
from langchain_core.language_models import BaseChatModel

from llmctx.core.patches import function_within
from llmctx.identity.await_graph import awaiting_task

_OF_A_MODEL: Final = frozenset({"invoke", "ainvoke", "stream", "astream"})
STREAMED: Final = frozenset({"astream", "stream"})
_BEGINS: Final = frozenset({"agenerate", "generate"}) | STREAMED
_TELLING: Final = _BEGINS | _OF_A_MODEL
_DEEP: Final = 20
_CALLBACKS: Final = callbacks.__file__


class Origin(NamedTuple):
    """The origin of a call in the application's code."""

    method: str = ""
    """The method of a model that has begun it: agenerate, generate, astream, stream."""
    is_langchains: bool = False
    """Whether that method is LangChain's own."""
    config: dict[str, Any] | None = None
    """The config that the model's own `invoke`, `stream`, … was called with, merged with the one around it.

    What a call is told lacks it: LangChain keeps `configurable` out of the metadata, which a task or thread that was
    started in a node inherits from there.
    """


def origin(depth: int) -> Origin:
    """Return how the call was made of which LangChain tells the function `depth` frames above: callbacks do not say."""
    # Nearly always LangChain's own methods stand where they always do. Only what is looked at becomes an object.
    try:
        begun = sys._getframe(depth + 4)
        usual = _USUAL.get(id(begun.f_code))
        if usual is None:
            begun = sys._getframe(depth + 3)  # one frame fewer where nothing is awaited
            usual = _USUAL.get(id(begun.f_code))
        if usual is not None:
            method, straight, models_own = usual
            asked = begun if straight else begun.f_back.f_back  # type: ignore[union-attr]
            if id(asked.f_code) == models_own:  # type: ignore[union-attr]
                config = asked.f_locals.get("config")  # type: ignore[union-attr]
                return Origin(method, True, config if isinstance(config, dict) else None)
    except (ValueError, AttributeError):  # the stack is not that deep
        pass
    return _searched(sys._getframe(depth + 1))


_OWN: Final = {"agenerate": "ainvoke", "generate": "invoke", "astream": "astream", "stream": "stream"}
_CODES: Final = {
    name: function.__code__
    for name in {*_OWN, *_OWN.values()}
    if (function := function_within(BaseChatModel, name)) is not None
}
_USUAL: Final[dict[int, tuple[str, bool, int]]] = {
    id(_CODES[name]): (name, name == own, id(_CODES[own]))
    for name, own in _OWN.items()
    if name in _CODES and own in _CODES
}
"""By the id of the code of LangChain's method that begins a run: its name, whether it is the model's own or stands two
frames above that, and the id of the model's own. By id, for to hash code takes longer than the rest."""


def _searched(frame: FrameType | None) -> Origin:
    method, known = "", False
    own: FrameType | None = None
    for _ in range(_DEEP):
        if frame is None:
            break
        code = frame.f_code
        name = code.co_name
        if name in _TELLING:
            if not method and name in _BEGINS:
                method, known = name, "langchain_core" in code.co_filename
            if _is_models_own(code):
                own = frame
                break
        frame = frame.f_back
    if frame is None and asyncio._get_running_loop() is not None:  # a helper task of a completion model
        task = awaiting_task()
        frames = [] if task is None else frames_of(task)
        own = next((one for one in frames if _is_models_own(one.f_code)), None)
    config = None if own is None else own.f_locals.get("config")
    return Origin(method, known, config if isinstance(config, dict) else None)


def _is_models_own(code: CodeType) -> bool:
    return code.co_name in _OF_A_MODEL and "language_models" in code.co_filename


def is_helper(task: asyncio.Task[Any]) -> bool:
    """Return whether LangChain made `task` to call a handler."""
    return getattr(getattr(task.get_coro(), "cr_code", None), "co_filename", "") == _CALLBACKS


def frames_of(task: asyncio.Task[Any]) -> list[FrameType]:
    """Return the frames of a suspended task, innermost first, as far as its chain of awaits can be followed."""
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


def is_awaiting_a_model(task: asyncio.Task[Any]) -> bool:
    """Return whether a suspended task awaits an `agenerate`, as far as can be seen."""
    return any(frame.f_code.co_name == "agenerate" for frame in frames_of(task))


def is_on_stack(run_id: UUID | None, frame: FrameType | None = None) -> bool:
    """Return whether the code that runs, here or in `frame`, was called by the method that makes the run."""
    frame = frame or sys._getframe(1)
    while frame is not None:
        if _is_of_run(frame, run_id):
            return True
        frame = frame.f_back
    return False


def is_in_thread(run_id: UUID | None, thread: int) -> bool:
    """Return whether the thread of that number is inside of the run."""
    frame = sys._current_frames().get(thread)
    return frame is not None and is_on_stack(run_id, frame)


def _is_of_run(frame: FrameType, run_id: UUID | None) -> bool:
    """Return whether `frame` is that of the model's method that makes the run, as far as can be seen."""
    code = frame.f_code
    if code.co_name == "agenerate":
        managers = frame.f_locals.get("run_managers")
    elif code.co_name in STREAMED and "language_models" in code.co_filename:
        manager = frame.f_locals.get("run_manager")
        managers = None if manager is None else [manager]
    else:
        return False
    return managers is None or any(getattr(manager, "run_id", None) == run_id for manager in managers)


def is_awaited(task: asyncio.Task[Any], run_id: UUID | None) -> bool:
    """Return whether `task` may still be inside of the run, as far as its chain of awaits can be followed.

    Where the chain ends in the dark the answer is yes: a call is only ended when it is certain that nothing awaits it.
    """
    if task.done():
        return False
    step: Any = task.get_coro()
    while step is not None:
        if type(step).__name__.startswith("async_generator_"):  # one step of an async generator, which it hides
            step = next((one for one in gc.get_referents(step) if isinstance(one, AsyncGeneratorType)), step)
        frame = next(filter(None, (getattr(step, name, None) for name in _FRAMES)), None)
        if frame is None:
            # A future is the honest end of a chain; anything else hides what is inside of it.
            return type(step).__name__ != "FutureIter"
        if _is_of_run(frame, run_id):
            return True
        step = next(filter(None, (getattr(step, name, None) for name in _AWAITED)), None)
    return False


_FRAMES: Final = ("cr_frame", "ag_frame", "gi_frame")
_AWAITED: Final = ("cr_await", "ag_await", "gi_yieldfrom")
