"""Work that a scope began and that goes on after it, for hours: whether it is known to be that scope's still.

A job that outlives its request has inherited the request's scope. So has a worker that the request happened to start
and that serves all; and so does what such a worker starts for others. A scope that has closed long ago is believed of
a task or thread only if

- it, or one that waits for it, was seen at work in the scope early: while it was open, or soon after (`note_early`);
- none of these was ever seen at work for another user (`mark_as_worker`);
- none of these takes its work from a queue, as far as their frames show.

Everything else cannot be told from a worker. Tasks and threads are held weakly, and no more than a few for each scope.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextvars import Context
from opcode import opmap
from types import FrameType
from typing import Any, Final
from weakref import ReferenceType, WeakSet, ref

from llmctx.core.guard import harmless
from llmctx.identity.await_graph import is_unawaited, is_unobserved, waiting_work, work_here
from llmctx.identity.present_scope import is_answered_here
from llmctx.identity.scope import Scope, scope_in

_BUDGET: Final = 64
_OF_ITS_FLOW: Final = 16
_IN_THE_DARK: Final = 4
"""What the search for those who wait may cost a scope in all, and what one costs that finds the scope's own flow, or
nothing.
"""
_GLANCES: Final = 20

_workers: Final[WeakSet[Any]] = WeakSet()


class EarlyWork:
    """The tasks and threads that were seen at work in one scope."""

    __slots__ = ("budget", "seen")

    def __init__(self) -> None:
        self.seen: set[ReferenceType[Any]] = set()
        self.budget = _BUDGET

    def search(self, anchor: Scope) -> bool:
        """Note what runs here and what waits for it, unless that is the scope's owner. Return `note_early`'s answer."""
        runs = work_here()
        if isinstance(runs, asyncio.Task) and ref(runs) in self.seen:
            return False
        found: list[Any] = []
        for one in _chain(runs):
            if one is anchor.owner:
                self.budget -= _OF_ITS_FLOW
                return False
            found.append(one)
        is_dark = is_unawaited(runs)
        self.budget -= _IN_THE_DARK if is_dark else 1
        self.seen.update(ref(one) for one in found if one is runs or _works_in(one, anchor))
        return is_dark


@harmless("long_work_failed", otherwise=lambda scope: False)
def note_early(scope: Scope) -> bool:
    """Note that what runs here, another than the owner of `scope`, works for it: a call starts.

    True if it cannot be seen yet who waits for that: to be done again when the call ends.
    """
    anchor = scope.anchor
    work = anchor.early_work
    if work is None:
        work = anchor.early_work = EarlyWork()
    return work.budget > 0 and anchor.kind != "node" and work.search(anchor)


@harmless("long_work_failed")
def mark_as_worker(scope: Scope) -> None:
    """Note that what runs here, in a `scope` that it has inherited, works for another user."""
    runs = work_here()
    found = list(_chain(runs))
    if all(one is not scope.owner for one in found):
        _workers.update(one for one in found if one is runs or _works_in(one, scope.anchor))


def is_in_the_dark() -> bool:
    """Return whether it cannot be seen yet who waits for what runs here."""
    return is_unawaited(work_here())


def await_light() -> None:
    """Give the loop that has submitted the job of this pool's thread a moment to await it. Models take longer."""
    runs = work_here()
    for _ in range(_GLANCES):
        if not is_unobserved(runs):
            break
        time.sleep(0.001)


@harmless("long_work_failed", otherwise=lambda scope: False)
def is_lasting(scope: Scope) -> bool:
    """Return whether what runs here is known to be work that `scope`, which has closed long ago, began."""
    if is_answered_here(scope):
        return True
    work = scope.anchor.early_work
    if work is None:
        return False
    found = list(_chain(work_here()))
    return (
        any(ref(one) in work.seen for one in found)
        and all(one not in _workers for one in found)
        and not any(_takes_from_a_queue(frame) for frame in _frames(found))
    )


def _chain(work: Any) -> Iterable[Any]:
    """Return the tasks and jobs among `work` and all that waits for it; the thread, where there is neither."""
    if work is not None:
        return waiting_work(work)
    return (threading.current_thread(),) if asyncio._get_running_loop() is None else ()


def _works_in(one: Any, anchor: Scope) -> bool:
    """Return whether `one` has inherited a scope of `anchor`'s. The host of a task group may wait for work of many."""
    if not isinstance(one, asyncio.Task):
        return isinstance(one, threading.Thread)
    if sys.version_info >= (3, 12):
        context: Context | None = one.get_context()
    else:
        context = next((part for part in gc.get_referents(one) if type(part) is Context), None)
    scope = None if context is None else scope_in(context)
    return scope is not None and scope.anchor is anchor


# -- what frames show -------------------------------------------------------------------------------------------------

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
_NAMES: Final = ("queue", "inbox", "mailbox", "jobs")
_QUEUES: Final = (("get", "put"), ("receive", "clone"), ("notify", "wait"), ("blpop",), ("get_message",))
"""Methods by which queues are known, of whatever library."""
_GET_AITER: Final = opmap["GET_AITER"]


def _frames(found: list[Any]) -> Iterator[FrameType]:
    """Yield the frames of the code that runs here, up to its loop, and of the suspended tasks that wait for it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "_run_once" and frame.f_globals.get("__name__") == "asyncio.base_events":
            break
        yield frame
        frame = frame.f_back
    for task in found:
        step: Any = task.get_coro() if isinstance(task, asyncio.Task) else None
        while step is not None:
            suspended = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None)
            if suspended is not None:
                yield suspended
            step = getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None)


def _takes_from_a_queue(frame: FrameType) -> bool:
    if str(frame.f_globals.get("__name__")).partition(".")[0] in _LIBRARIES:
        return False
    code = frame.f_code
    if _TAKES.isdisjoint(code.co_names) and _GET_AITER not in code.co_code[::2]:
        return False
    names = (*code.co_names, *code.co_varnames, *code.co_freevars)
    return any(word in name.lower() for name in names for word in _NAMES) or any(map(_is_queue, _at_hand(frame)))


def _at_hand(frame: FrameType) -> Iterator[object]:
    """Yield what the code of a frame names: variables, and what their objects have."""
    known = dict(frame.f_locals)
    known.update((name, frame.f_globals[name]) for name in frame.f_code.co_names if name in frame.f_globals)
    for value in known.values():
        yield value
        yield getattr(value, "__self__", None)  # a method in a variable
        its = getattr(value, "__dict__", None)
        if type(its) is dict:
            yield from its.values()


def _is_queue(value: object) -> bool:
    its = getattr(value, "__dict__", None)
    own = its if type(its) is dict else {}
    return any(all(hasattr(type(value), name) or name in own for name in names) for names in _QUEUES)
