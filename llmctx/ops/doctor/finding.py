"""The result of a check, `Finding`, and how places in source code are named in it."""

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
    """The result of one check; where `ok` is false, with its consequence and fix."""

    name: str
    ok: bool
    cause: str
    consequence: str = ""
    fix: str = ""
    where: str | None = None
    unknown: bool = False
    """Nothing is known to be wrong, and it could not be looked at."""


def source_location(file: str, line: int) -> str:
    """Return `shop/main.py:12`, relative to the working directory where the file is below it."""
    relative = os.path.relpath(file)
    return f"{file if relative.startswith('..') else relative}:{line}"


def list_places(locations: Iterable[str]) -> str | None:
    """Join the first few places, and say how many more there are."""
    every = list(dict.fromkeys(locations))
    if not every:
        return None
    more = f" and {len(every) - _PLACES} more" if len(every) > _PLACES else ""
    return ", ".join(every[:_PLACES]) + more


def list_names(values: Iterable[str]) -> str:
    """Join the first few names, as `list_places` does."""
    return list_places(values) or ""


def plain_function(thing: Any) -> Any:
    """Return the function in a partial, bound method, decorated or callable object; anything else as it is."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    if not inspect.isroutine(thing) and not inspect.isclass(thing) and callable(thing):
        thing = thing.__call__
    thing = getattr(thing, "__func__", thing)
    try:
        return inspect.unwrap(thing)
    except ValueError:  # its `__wrapped__` goes round in circles
        return thing


def source_of(thing: Any) -> str | None:
    """Return file and line of a function or class; None where they are unknown."""
    try:
        plain = plain_function(thing)
        file = inspect.getsourcefile(plain)
        line = inspect.getsourcelines(plain)[1]
    except (TypeError, OSError):
        return None
    return None if file is None else source_location(file, line)
