"""Which work blocks its thread until other work is done: `result()`, `wait()` or `join()` in a sync part of a request.

Such a wait leaves no callback behind, which `await_graph.py` could follow, but it stands in the frames of the thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures._base
import concurrent.futures.thread
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

Job = asyncio.Future[Any] | concurrent.futures.Future[Any]

RUN_JOB: Final = concurrent.futures.thread._WorkItem.run.__code__
_FUTURE: Final = concurrent.futures.Future
_WAITS: Final = frozenset(
    {
        _FUTURE.result.__code__,
        _FUTURE.exception.__code__,
        concurrent.futures._base.wait.__code__,
        concurrent.futures._base.as_completed.__code__,
        threading.Thread.join.__code__,
    }
)
_NEAR: Final = 8
_SEVERAL: Final = 200
"""Frames of a blocked thread that are looked at, and items in each of their containers."""


def item_here() -> object:
    """Return the item that this thread of a pool works on: a job's function and arguments; None in other threads."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not RUN_JOB:
        frame = frame.f_back
    return None if frame is None else frame.f_locals.get("self")


def job_of(frame: FrameType | None) -> Job | None:
    """Return the future of the pool's job that `frame`, or one around it, belongs to."""
    while frame is not None:
        future = None
        if frame.f_code is RUN_JOB:
            future = getattr(frame.f_locals.get("self"), "future", None)
        elif frame.f_code.co_name == "run" and str(frame.f_globals.get("__name__")).startswith("anyio."):
            future = frame.f_locals.get("future")
        if isinstance(future, (asyncio.Future, concurrent.futures.Future)):
            return future
        frame = frame.f_back
    return None


def blocked_on(done: object) -> Iterator[object]:
    """Yield the work that blocks until `done`, a job or a thread, has ended: tasks, jobs of pools, threads.

    A job is waited for as well by what joins its thread, if that is the thread that runs here.
    """
    here, thread = threading.get_ident(), threading.current_thread()
    for number, frame in sys._current_frames().items():
        if number != here and any(one is done or one is thread for one in _waited_for_in(frame)):
            yield _work_at(frame) or next((one for one in threading.enumerate() if one.ident == number), None)


def _waited_for_in(blocked: FrameType) -> Iterator[object]:
    """Yield what a thread waits for, if it does, and what its code has at hand beside that: it waits for one by one."""
    frames = [blocked]
    while (around := frames[-1].f_back) is not None and len(frames) < _NEAR:
        frames.append(around)
    if all(frame.f_code not in _WAITS for frame in frames):
        return
    for frame in frames:
        for value in list(frame.f_locals.values()):
            if isinstance(value, (set, frozenset, list, tuple)):
                yield from list(value)[:_SEVERAL]
            elif isinstance(value, dict):
                yield from list(value.values())[:_SEVERAL]
                yield from list(value)[:_SEVERAL]
            else:
                yield value


def _work_at(frame: FrameType) -> object:
    """Return the task or the job that a blocked thread runs; None for one that runs neither."""
    around: FrameType | None = frame
    while around is not None:
        if around.f_code.co_name == "_run_once" and isinstance(around.f_locals.get("self"), asyncio.AbstractEventLoop):
            return asyncio.current_task(around.f_locals["self"])
        around = around.f_back
    return job_of(frame)
