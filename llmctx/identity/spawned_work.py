"""Whether work that nothing waits for was spawned by a request itself, or is a worker's, on a thread that others use.

Both have inherited the request's scope. What a request spawns (a task for each message of a websocket, that of
`astream_events`, work after the response) is given its thread when it is created: it stands among the arguments of its
coroutine. A worker takes it from a queue later on; or a worker has spawned it.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Iterable, Iterator
from contextvars import Context
from types import CellType, CoroutineType, FrameType, FunctionType, MethodType
from typing import Any, Final
from uuid import UUID

from llmctx.core.guard import guard_harmless
from llmctx.identity.await_graph import all_waiting, is_part_of, is_waited_for_by, runs_here
from llmctx.identity.background_work import await_light, is_in_the_dark
from llmctx.identity.candidates import effective_scope
from llmctx.identity.config_carrier import Carrier
from llmctx.identity.scope import Scope, scope_in
from llmctx.identity.work_frames import (
    callback_here,
    context_of,
    frames_beneath_loop,
    frames_in,
    frames_of,
    is_in_a_loop,
    is_of_a_library,
    loop_of,
    parts_of_callback,
    spawns,
    spawns_elsewhere,
    suspended_frames,
    takes_from_a_queue,
)

_DEPTH: Final = 4
_VALUES: Final = 300
"""How deep arguments are searched, and how many values are looked at."""
_TASKS: Final = 1000
"""Tasks of a loop up to which it is asked which of them may be a worker."""


def works_for(scope: Scope, thread_id: str | None, *, is_final: bool = True) -> bool | None:
    """Return whether what runs here works for `scope`, on a thread that others use. False: it may be a worker, who has
    only inherited it. None: cannot be told, or not yet: unless the answer `is_final` it will be asked for again.
    """
    own = is_part_of(scope) if scope.is_open else False
    if not own and (own is None or is_in_the_dark()):
        if not is_final:
            own = None
        elif await_light():
            own = (is_part_of(scope) if scope.is_open else False) or own  # it may still be about to be awaited
    return own if own or thread_id is None else _weighed(scope, thread_id, own, is_final)


@guard_harmless("long_work_failed", otherwise=lambda scope, thread_id, own, is_final: own)
def _weighed(scope: Scope, thread_id: str, own: bool | None, is_final: bool) -> bool | None:
    roots = _roots(scope)
    if not roots or not all(_is_given(root, thread_id) for root in roots):
        is_workers = own is None and is_final and any(map(takes_from_a_queue, frames_of(())))
        return False if is_workers else own
    if any(map(takes_from_a_queue, _frames_around(roots[0]))):
        return False if is_final else own
    if any(map(takes_from_a_queue, _frames_at_work(all_waiting(roots[0])))):
        return None
    may_be_spawned = _is_spawned_by_worker(scope, roots, thread_id)
    return None if may_be_spawned is None else own if may_be_spawned else True


def _roots(scope: Scope) -> list[_Root]:
    """Return, of what runs here and all that waits for it, the tasks in `scope` that no other such task waits for."""
    runs = callback_here() or runs_here()
    tasks = [one for one in all_waiting(runs) if isinstance(one, _ROOTS) and _is_in(one, scope)]
    return [task for task in tasks if not any(one is not task and _is_in(one, scope) for one in all_waiting(task))]


_Root = asyncio.Task[Any] | asyncio.Handle
_ROOTS: Final = (asyncio.Task, asyncio.Handle)


def _is_in(one: object, scope: Scope) -> bool:
    context = context_of(one) if isinstance(one, _ROOTS) else None
    its = None if context is None else effective_scope(scope_in(context))
    return its is not None and its.anchor is scope.anchor


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
    """Yield the frames of threads in which the loop of `root` runs, or which block until `root` is done."""
    if threading.current_thread() is not threading.main_thread():
        yield from frames_beneath_loop()
    for one in all_waiting(root):
        if isinstance(one, threading.Thread):
            yield from frames_in(one)


_QUEUES: Final = ("asyncio.queues", "anyio.streams.memory")


# -- what a task was given ---------------------------------------------------------------------------------------------


def _is_given(root: _Root, thread_id: str) -> bool:
    """Return whether a task was created with the thread among its arguments, or those of what it was made of."""
    made_of: Any = root.get_coro() if isinstance(root, asyncio.Task) else parts_of_callback(root)
    frame = getattr(made_of, "cr_frame", None)
    # what goes on in a loop may meet in a container that it shares what came into that later
    loops = frame is not None and is_in_a_loop(frame) and not is_of_a_library(frame)
    return any(_names(value, thread_id) for value in _values(made_of, 1 if loops else _DEPTH))


def _names(value: object, thread_id: str) -> bool:
    if type(value) is dict:  # a config
        inner = value.get("configurable")
        return type(inner) is dict and _names(inner.get("thread_id"), thread_id)
    return type(value) in _IDS and str(value) == thread_id


_IDS: Final = (str, Carrier, int, UUID)


def _values(given: object, depth: int) -> Iterator[object]:
    """Yield what `given` consists of: arguments of coroutines and partials, what functions enclose, items, fields."""
    found: list[tuple[object, int]] = [(given, depth)]
    for value, left in found:  # grows meanwhile
        yield value
        if left and len(found) < _VALUES:
            found += [(part, left - 1) for part in _parts(value)]


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, CoroutineType):
        frame = value.cr_frame
        if frame is not None:
            code, known = frame.f_code, frame.f_locals
            count = code.co_argcount + code.co_kwonlyargcount + (code.co_flags >> 2 & 1) + (code.co_flags >> 3 & 1)
            names = (*code.co_varnames[:count], *code.co_freevars)
            yield from (known[name] for name in names if name in known and name not in ("self", "cls"))
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, MethodType):
        yield value.__func__
    elif isinstance(value, FunctionType):
        yield from (cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell))
        yield from value.__defaults__ or ()
    elif isinstance(value, dict):
        yield from list(value.values())
    elif isinstance(value, (list, tuple)):
        yield from value[:_VALUES]
    elif hasattr(type(value), "model_fields") or hasattr(type(value), "__dataclass_fields__"):
        yield from list(vars(value).values()) if hasattr(value, "__dict__") else ()


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


# -- who may have spawned it -------------------------------------------------------------------------------------------


def _is_spawned_by_worker(scope: Scope, given: list[_Root], thread_id: str) -> bool | None:
    """Return whether a worker that has inherited `scope` as well spawns tasks. None: one may."""
    may_be: bool | None = False
    codes = {getattr(root.get_coro(), "cr_code", None) for root in given if isinstance(root, asyncio.Task)}
    tasks = asyncio.all_tasks(loop_of(given[0]))
    if len(tasks) > _TASKS:
        return None
    for task in tasks:
        if getattr(task.get_coro(), "cr_code", None) in codes or not _has_inherited(task, scope):
            continue
        frames = [frame for frame in suspended_frames(task) if not is_of_a_library(frame)]
        takes = any(map(takes_from_a_queue, frames))
        if takes or any(spawns(frame) and is_in_a_loop(frame) for frame in frames):
            if any(isinstance(one, asyncio.Task) and _is_given(one, thread_id) for one in all_waiting(task)):
                may_be = None if takes else may_be  # it works on this thread itself
            elif any(map(spawns, frames)):
                return True
            else:
                may_be = None
    return None if may_be is None or any(_may_spawn(thread, scope) for thread in threading.enumerate()) else False


def _has_inherited(task: asyncio.Task[Any], scope: Scope) -> bool:
    """Return whether a task has the scope, and is no part of the flow that opened it."""
    owner = scope.anchor.owner
    return _is_in(task, scope) and not (owner is not None and is_waited_for_by(task, owner))


def _may_spawn(thread: threading.Thread, scope: Scope) -> bool:
    """Return whether a thread takes its work from a queue, and has inherited `scope` or spawns elsewhere."""
    frames = [] if thread is threading.current_thread() else list(frames_in(thread))
    if not any(map(takes_from_a_queue, frames)):
        return False
    context = getattr(getattr(thread, "_target", None), "__self__", None)
    its = scope_in(context) if isinstance(context, Context) else None
    return (its is not None and its.anchor is scope.anchor) or any(map(spawns_elsewhere, frames))
