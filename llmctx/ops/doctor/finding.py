"""What a check says, and where: `Finding`."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

_PLACES: Final = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. Where `ok` is false, what follows from it and what mends it."""

    name: str
    ok: bool
    cause: str
    consequence: str = ""
    fix: str = ""
    where: str | None = None


def place(file: str, line: int) -> str:
    """`shop/main.py:12`, relative to here where it is below here."""
    relative = os.path.relpath(file)
    return f"{file if relative.startswith('..') else relative}:{line}"


def places(found: Iterable[str]) -> str | None:
    """Some of many places, and how many more there are."""
    every = list(dict.fromkeys(found))
    if not every:
        return None
    more = f" and {len(every) - _PLACES} more" if len(every) > _PLACES else ""
    return ", ".join(every[:_PLACES]) + more


def names(found: Iterable[str]) -> str:
    """`places`, for names."""
    return places(found) or ""


def plain_function(thing: Any) -> Any:
    """The function in a partial, a bound method, a decorated or a callable object; whatever else it is, itself."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    if not inspect.isroutine(thing) and not inspect.isclass(thing) and callable(thing):
        thing = thing.__call__
    thing = getattr(thing, "__func__", thing)
    try:
        return inspect.unwrap(thing)
    except ValueError:  # somebody's wrappers go round in circles
        return thing


def source_of(thing: Any) -> str | None:
    """File and line of a function or class; None where there is no telling."""
    try:
        plain = plain_function(thing)
        file = inspect.getsourcefile(plain)
        line = inspect.getsourcelines(plain)[1]
    except (TypeError, OSError):
        return None
    return None if file is None else place(file, line)
