"""What the frames of tasks and threads show of their work: whether it is taken from a queue, in a loop, or spawns more.

Names and bytecode are read, nothing is called. It costs tens of microseconds, and is asked only where sources differ.
"""

from __future__ import annotations

import asyncio
import dis
import gc
import sys
import threading
from collections.abc import Iterable, Iterator
from contextvars import Context
from functools import lru_cache
from itertools import pairwise
from opcode import opmap
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final

_LIBRARIES: Final = frozenset(
    {
        "anyio",
        "asyncio",
        "concurrent",
        "contextlib",
        "functools",
        "langchain",
        "langchain_core",
        "langgraph",
        "llmctx",
        "threading",
    }
)
_TAKES: Final = frozenset(
    {"blpop", "brpop", "bzpopmin", "consume", "dequeue", "get", "get_message", "get_nowait", "listen", "lpop", "poll"}
    | {"popleft", "receive", "receive_nowait", "recv", "rpop", "wait_for", "xread", "xreadgroup"}
)
_PUTS: Final = frozenset({"put", "put_nowait", "send", "send_nowait"})
_NAMES: Final = ("queue", "inbox", "mailbox", "jobs")
_QUEUES: Final = (("get", "put"), ("receive", "clone"), ("notify", "wait"), ("blpop",), ("get_message",))
"""Methods by which queues are known, of whatever library."""
_GET_AITER: Final = opmap["GET_AITER"]


def frames_of(objects: Iterable[Any]) -> Iterator[FrameType]:
    """Yield the frames of the code that runs here, up to its loop, and of the suspended tasks among `objects`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _runs_loop(frame):
        yield frame
        frame = frame.f_back
    for one in objects:
        if isinstance(one, asyncio.Task):
            yield from suspended_frames(one)


def _runs_loop(frame: FrameType) -> bool:
    return frame.f_code.co_name == "_run_once" and frame.f_globals.get("__name__") == "asyncio.base_events"


def frames_beneath_loop() -> Iterator[FrameType]:
    """Yield the frames of this thread that run the loop which runs here; none without one."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _runs_loop(frame):
        frame = frame.f_back
    while frame is not None:
        yield frame
        frame = frame.f_back


def frames_in(thread: threading.Thread) -> Iterator[FrameType]:
    """Yield the frames of another thread, the innermost first."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        yield frame
        frame = frame.f_back


def suspended_frames(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """Yield the frames of a suspended task, the outermost first."""
    step: Any = task.get_coro()
    while step is not None:
        frame = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None) or getattr(step, "ag_frame", None)
        if frame is not None:
            yield frame
        elif not isinstance(step, _STEPS):  # what `async for` awaits does not say of which generator it is
            step = next((part for part in gc.get_referents(step) if isinstance(part, _STEPS)), None)
            continue
        step = getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None) or getattr(step, "ag_await", None)


_STEPS: Final = (CoroutineType, GeneratorType, AsyncGeneratorType)


def takes_from_a_queue(frame: FrameType) -> bool:
    """Return whether the code of `frame`, the application's, names a queue and what takes from one."""
    if is_of_a_library(frame):
        return False
    code = frame.f_code
    if _TAKES.isdisjoint(code.co_names) and (
        _GET_AITER not in code.co_code[::2] or not _PUTS.isdisjoint(code.co_names)
    ):
        return False
    names = (*code.co_names, *code.co_varnames, *code.co_freevars)
    return any(word in name.lower() for name in names for word in _NAMES) or any(True for _ in queues_at_hand(frame))


def queues_at_hand(frame: FrameType) -> Iterator[object]:
    """Yield the queues that the code of `frame` names, or has in what it names."""
    return filter(_is_queue, _at_hand(frame))


def _at_hand(frame: FrameType) -> Iterator[object]:
    """Yield what the code of a frame names: variables, and what their objects have."""
    known = dict(frame.f_locals)
    known.update((name, frame.f_globals[name]) for name in frame.f_code.co_names if name in frame.f_globals)
    for value in known.values():
        yield value
        yield getattr(value, "__self__", None)  # a method in a variable
        yield from instance_fields(value).values()


def instance_fields(value: object) -> dict[str, Any]:
    """Return what `value` itself has as fields; none where its `__dict__` is anything but a dict."""
    its = getattr(value, "__dict__", None)
    return its if type(its) is dict else {}


def _is_queue(value: object) -> bool:
    own = instance_fields(value)
    return any(all(hasattr(type(value), name) or name in own for name in names) for names in _QUEUES)


_SPAWNS: Final = frozenset(
    {"abatch", "abatch_as_completed", "as_completed", "astream_events", "astream_log", "batch", "call_soon"}
    | {"call_soon_threadsafe", "create_task", "ensure_future", "gather", "run_coroutine_threadsafe", "run_in_executor"}
    | {"spawn", "start_soon", "submit", "to_thread"}
)
_ELSEWHERE: Final = frozenset({"call_soon_threadsafe", "run_coroutine_threadsafe"})


def spawns(frame: FrameType) -> bool:
    """Return whether the code of `frame` names what starts tasks, jobs or threads."""
    return not _SPAWNS.isdisjoint(frame.f_code.co_names)


def spawns_elsewhere(frame: FrameType) -> bool:
    """Return whether the code of `frame` names what starts tasks in the loop of another thread."""
    return not is_of_a_library(frame) and not _ELSEWHERE.isdisjoint(frame.f_code.co_names)


def is_of_a_library(frame: FrameType) -> bool:
    """Return whether the code of `frame` is that of a library which serves no jobs of its own."""
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _LIBRARIES


def is_in_a_loop(frame: FrameType) -> bool:
    """Return whether the code of `frame` is within a loop that has no end of its own: `while`, `async for`."""
    return any(start <= frame.f_lasti <= end for start, end in _loops(frame.f_code))


def is_in_own_loop(frame: FrameType) -> bool:
    """Return whether the code of `frame`, the application's, is within such a loop."""
    return not is_of_a_library(frame) and is_in_a_loop(frame)


def stored_in_loop(frame: FrameType) -> Iterator[str]:
    """Yield the local variables to which the loop assigns, without an end of its own, that `frame` is within."""
    loops = [(start, end) for start, end in _loops(frame.f_code) if start <= frame.f_lasti <= end]
    for step in dis.get_instructions(frame.f_code) if loops else ():
        if step.opname.startswith("STORE_FAST") and any(start <= step.offset <= end for start, end in loops):
            yield from step.argval if isinstance(step.argval, tuple) else (step.argval,)


@lru_cache(maxsize=1024)
def _loops(code: CodeType) -> tuple[tuple[int, int], ...]:
    """Return the offsets of the first and the last instruction of each loop but those over something at hand."""
    steps = list(dis.get_instructions(code))
    by_offset = {step.offset: step.opname for step in steps}
    return tuple(
        (int(step.argval), step.offset)
        for before, step in pairwise(steps)
        if "JUMP_BACKWARD" in step.opname
        and "NO_INTERRUPT" not in step.opname  # of an `await`
        and before.opname != "CLEANUP_THROW"  # of one as well, in Python 3.12
        and by_offset.get(int(step.argval)) != "FOR_ITER"
    )


def context_of(work: asyncio.Task[Any] | asyncio.Handle) -> Context | None:
    """Return the context in which a task or a callback of a loop runs."""
    if isinstance(work, asyncio.Task) and sys.version_info >= (3, 12):
        return work.get_context()
    found = getattr(work, "_context", None)
    return found or next((part for part in gc.get_referents(work) if type(part) is Context), None)


def loop_of(work: asyncio.Task[Any] | asyncio.Handle) -> Any:
    """Return the loop of a task or a callback."""
    return work.get_loop() if isinstance(work, asyncio.Task) else getattr(work, "_loop", None)


_RUN_CALLBACK: Final = asyncio.Handle._run.__code__


def callback_here() -> asyncio.Handle | None:
    """Return the callback of a loop that runs here, outside of any task."""
    if asyncio._get_running_loop() is None or asyncio.current_task() is not None:
        return None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not _RUN_CALLBACK:
        frame = frame.f_back
    return None if frame is None else frame.f_locals.get("self")


def parts_of_callback(handle: asyncio.Handle) -> tuple[Any, ...]:
    """Return the function of a callback, and its arguments."""
    return getattr(handle, "_callback", None), *(getattr(handle, "_args", None) or ())
