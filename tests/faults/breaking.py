"""llmctx broken from the inside: any function of it may fail, now and then, with anything.

What is promised is what `lines.py` says: of functions that are guarded, what is inside of the guard fails; those that
stand around the application's own code are left alone, but all that they call is not.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final

import llmctx
from tests.faults.lines import GUARDED_BY_HAND, HOME, SURROUNDING

_FAILURES: Final = (ValueError, KeyError, OSError, MemoryError, RecursionError, RuntimeError, AttributeError)
_LEFT_ALONE: Final = ("cli", "demo", "doctor", "testing", "pytest_plugin", "migrate", "queries", "__main__")
Place = tuple[str, Callable[[], Any], Callable[[Any], None]]
"""A function's name, what it is, and how to put another one in its place."""


def _places() -> list[Place]:
    """Everything that can be called in what a recording process has loaded."""
    found: list[Place] = []
    for one in pkgutil.walk_packages(llmctx.__path__, "llmctx."):
        if one.name.split(".")[1] in _LEFT_ALONE:
            continue
        module = importlib.import_module(one.name)
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == one.name:
                found.append(_place(module, name, value))
            elif inspect.isclass(value) and value.__module__ == one.name and not issubclass(value, BaseException):
                found += [_place(value, name, it) for name, it in vars(value).items() if inspect.isfunction(it)]
    return sorted((place for place in found if _may_fail(place[0], place[1]())), key=lambda place: place[0])


def _place(owner: Any, name: str, function: FunctionType) -> Place:
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cell = cells.get("work")
    if cell is not None and function.__code__.co_qualname == "guard.<locals>.decorate.<locals>.run":
        return f"{owner.__name__}.{name}", lambda: cell.cell_contents, lambda it: setattr(cell, "cell_contents", it)
    return f"{owner.__name__}.{name}", lambda: vars(owner)[name], lambda it: setattr(owner, name, it)


def _may_fail(name: str, function: Any) -> bool:
    code: CodeType | None = getattr(function, "__code__", None)
    if code is None or code.co_qualname in GUARDED_BY_HAND or name.rpartition(".")[2].startswith("__"):
        return False
    file = code.co_filename
    return file.startswith(HOME) and code.co_qualname not in SURROUNDING.get(str(Path(file).relative_to(HOME)), ())


@contextlib.contextmanager
def broken(rng: random.Random, count: int = 5) -> Iterator[list[str]]:
    """`count` functions fail every other time they are called."""
    places = rng.sample(_places(), count)
    with contextlib.ExitStack() as healing:
        for _, get, put in places:
            original = get()
            healing.callback(put, original)
            put(_failing(original, rng.choice(_FAILURES), random.Random(rng.random())))
        yield [name for name, _, _ in places]


def _failing(original: Callable[..., Any], failure: type[Exception], rng: random.Random) -> Callable[..., Any]:
    @functools.wraps(original)
    def fail(*args: Any, **kwargs: Any) -> Any:
        if rng.random() < 0.5:
            raise failure("broken on purpose")
        return original(*args, **kwargs)

    return fail
