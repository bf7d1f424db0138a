"""llmctx broken from the inside: any function of it may fail, now and then, with anything."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import llmctx

_FAILURES: Final = (ValueError, KeyError, OSError, MemoryError, RecursionError, RuntimeError, AttributeError)
_LEFT_ALONE: Final = ("cli", "demo", "doctor", "testing", "pytest_plugin", "migrate", "queries", "__main__")


def _functions() -> list[tuple[Any, str]]:
    """Everything that can be called in what a recording process has loaded: where it stands, and its name."""
    found: list[tuple[Any, str]] = []
    for one in pkgutil.walk_packages(llmctx.__path__, "llmctx."):
        if one.name.split(".")[1] in _LEFT_ALONE:
            continue
        module = importlib.import_module(one.name)
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == one.name:
                found.append((module, name))
            elif inspect.isclass(value) and value.__module__ == one.name and not issubclass(value, BaseException):
                found += [(value, method) for method, it in vars(value).items() if inspect.isfunction(it)]
    return sorted(found, key=lambda place: f"{place[0].__name__}.{place[1]}")


@contextlib.contextmanager
def broken(rng: random.Random, count: int = 5) -> Iterator[list[str]]:
    """`count` functions fail every other time they are called."""
    places = rng.sample([place for place in _functions() if not place[1].startswith("__")], count)
    with contextlib.ExitStack() as healing:
        for place, name in places:
            original = vars(place)[name]
            healing.callback(setattr, place, name, original)
            setattr(place, name, _failing(original, rng.choice(_FAILURES), random.Random(rng.random())))
        yield [f"{place.__name__}.{name}" for place, name in places]


def _failing(original: Callable[..., Any], failure: type[Exception], rng: random.Random) -> Callable[..., Any]:
    @functools.wraps(original)
    def fail(*args: Any, **kwargs: Any) -> Any:
        if rng.random() < 0.5:
            raise failure("broken on purpose")
        return original(*args, **kwargs)

    return fail
