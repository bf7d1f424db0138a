"""The values that a task, a callback, a job of a pool or a thread was given when it was made: its arguments, and what
these consist of.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import threading
from collections.abc import Iterator
from types import CellType, CoroutineType, FunctionType, MethodType
from typing import Any, Final
from uuid import UUID

from llmctx.identity.blocked_threads import item_here
from llmctx.identity.config_carrier import Carrier
from llmctx.identity.present_scope import SCOPE_KEY
from llmctx.identity.scope import Scope
from llmctx.identity.work_frames import (
    frames_of,
    instance_fields,
    is_in_own_loop,
    is_of_a_library,
    parts_of_callback,
    takes_from_a_queue,
)

Work = asyncio.Task[Any] | asyncio.Handle | concurrent.futures.Future[Any] | threading.Thread

_DEPTH: Final = 4
_VALUES: Final = 300
"""How deep arguments are searched, and how many values are looked at."""
_OBJECTS: Final = 2
"""How deep objects of any class are searched among them."""


def is_given(work: Work, thread_id: str) -> bool:
    """Return whether `work` was made with the thread among its arguments, or those of what it was made of; or spells it
    out.
    """
    made_of = source_of(work)
    frame = getattr(made_of, "cr_frame", None)
    # what goes on in a loop may meet in a container that it shares what came into that later
    if frame is not None and is_in_own_loop(frame):
        return any(names_thread(value, thread_id) for value in values_of(made_of, 1))
    values = [*values_of(made_of), *_fields_of_self(made_of)]
    if not any(takes_from_a_queue(one) or is_in_own_loop(one) for one in frames_of((work,))):
        for _ in range(_OBJECTS):  # a worker may note in an object what it works on
            values += [field for value in values[:_VALUES] for field in instance_fields(value).values()]
    return any(names_thread(value, thread_id) for value in values) or spells_out(work, thread_id)


def spells_out(work: Work, thread_id: str) -> bool:
    """Return whether the code of a task itself has the thread, as a literal or the value of a global."""
    frame = getattr(source_of(work), "cr_frame", None)
    if frame is None:
        return False
    values = (*frame.f_code.co_consts, *(frame.f_globals.get(name) for name in frame.f_code.co_names))
    return any(names_thread(value, thread_id) for value in values)


def source_of(work: Work) -> object:
    """Return what `work` was made of: the coroutine of a task; a function and its arguments. Of jobs: that which runs
    here.
    """
    if isinstance(work, asyncio.Task):
        return work.get_coro()
    if isinstance(work, asyncio.Handle):
        return parts_of_callback(work)
    if isinstance(work, threading.Thread):
        return tuple(getattr(work, name, None) for name in ("_target", "_args", "_kwargs"))
    item = item_here()
    return tuple(getattr(item, name, None) for name in ("fn", "args", "kwargs"))


def name_of(work: Work) -> str | None:
    """Return the name of the function that `work` runs."""
    made_of: Any = source_of(work)
    if isinstance(work, asyncio.Task):
        code = getattr(made_of, "cr_code", None)
        return None if code is None else str(code.co_name)
    called = next((part for part in values_of(made_of, 2) if isinstance(part, (FunctionType, MethodType))), None)
    return getattr(called, "__name__", None)


def is_given_connection(work: Work, scope: Scope, *, is_socket: bool = False) -> bool:
    """Return whether `work`, or the object whose method it is, was given the connection of the request that `scope` is
    part of. `is_socket`: which is a websocket, and open.
    """
    if not scope.of_request or (is_socket and not (scope.is_socket and scope.is_open)):
        return False
    values = list(values_of(source_of(work), 3))
    values += [field for value in values for field in _fields_of_self(value)]
    return any(request_of(value) == scope.of_request for value in values)


def _fields_of_self(method: object) -> list[object]:
    """Return the fields of the object whose method, or the coroutine of one, `method` is."""
    if isinstance(method, CoroutineType):
        itself = None if method.cr_frame is None else method.cr_frame.f_locals.get("self")
    else:
        itself = method.__self__ if isinstance(method, MethodType) else None
    return list(instance_fields(itself).values())


def request_of(value: object) -> int:
    """Return the number of the request whose connection `value` is; 0 if it is none."""
    connection = value if type(value) is dict else instance_fields(value).get("scope")
    scope = connection.get(SCOPE_KEY) if type(connection) is dict else None
    return scope.of_request if isinstance(scope, Scope) else 0


def names_thread(value: object, thread_id: str) -> bool:
    """Return whether `value` is the thread's id, or a config with it."""
    if type(value) is dict:  # a config
        inner = value.get("configurable")
        return type(inner) is dict and names_thread(inner.get("thread_id"), thread_id)
    return type(value) in _IDS and str(value) == thread_id


_IDS: Final = (str, Carrier, int, UUID)


def values_of(given: object, depth: int = _DEPTH) -> Iterator[object]:
    """Yield what `given` consists of: arguments of coroutines and partials, what functions enclose, items, fields."""
    found: list[tuple[object, int]] = [(given, depth)]
    for value, left in found:  # grows meanwhile
        yield value
        if left and len(found) < _VALUES:
            found += [(part, left - 1) for part in _parts(value)]


def fields_of(value: object) -> Iterator[object]:
    """Yield the values of a dict, the items of a list or tuple, the fields of a model or dataclass."""
    if isinstance(value, dict):
        yield from list(value.values())
    elif isinstance(value, (list, tuple)):
        yield from value[:_VALUES]
    elif hasattr(type(value), "model_fields") or hasattr(type(value), "__dataclass_fields__"):
        yield from list(instance_fields(value).values())


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, CoroutineType):
        frame = value.cr_frame
        if frame is not None:
            code, known = frame.f_code, frame.f_locals
            count = code.co_argcount + code.co_kwonlyargcount + (code.co_flags >> 2 & 1) + (code.co_flags >> 3 & 1)
            names = (*code.co_varnames[:count], *code.co_freevars)
            yield from (known[name] for name in names if name in known and name not in ("self", "cls"))
            if is_of_a_library(frame):
                yield getattr(known.get("self"), "_coro", None)  # anyio's tasks hold what they run
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, MethodType):
        yield value.__func__
    elif isinstance(value, FunctionType):
        yield from (cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell))
        yield from value.__defaults__ or ()
    else:
        yield from fields_of(value)


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
