"""Runnables that run in a scope: a shallow copy, whose class is a subclass of the same name.

No foreign object is put around anything. `isinstance`, attributes, names, and what a class overrides (LangGraph asks,
to know whether a node may have a timeout) are those of the original.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any, Final, TypeVar

from langchain_core.runnables import Runnable, RunnableConfig

from llmctx.graph.node_identity import MARK, NO_STATE, Plan, guard_wrapping
from llmctx.identity.scope import FAILED_SCOPE, StepInside, enter, leave

T = TypeVar("T")


def _as_it_is(runnable: Any, plan: Plan) -> Any:
    return runnable


@guard_wrapping(otherwise=_as_it_is)
def instrument(runnable: Any, plan: Plan) -> Any:
    """Return a shallow copy of `runnable` that runs in a scope."""
    twin = copy.copy(runnable)
    object.__setattr__(twin, "__class__", subclass(type(runnable), _scoped))  # pydantic has a __setattr__ of its own
    object.__setattr__(twin, MARK, plan)
    return twin


def subclass(base: type, fill: Callable[[Any, dict[str, Any]], None]) -> type:
    """Return the subclass of `base` that has its name and the methods of `fill`; made once for each class."""
    if MARK in vars(base):
        return base
    existing: list[type] = base.__subclasses__()
    for known in existing:
        if MARK in vars(known):
            return known

    def body(namespace: dict[str, Any]) -> None:
        namespace.update(__module__=base.__module__, __qualname__=base.__qualname__, __doc__=base.__doc__)
        fill(base, namespace)

    made: type = types.new_class(base.__name__, (base,), None, body)
    type.__setattr__(made, MARK, None)  # only now: in the body, pydantic would look at it
    return made


def _scoped(base: Any, body: dict[str, Any]) -> None:
    """Return the ways in which `base` runs, each in a scope. What it inherits from Runnable calls one of these."""
    for name, wrapped in _METHODS.items():
        inherited = getattr(base, name)
        if inherited is not getattr(Runnable, name):
            body[name] = wrapped(inherited)


def _invoke(inherited: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(inherited)
    def invoke(self: Any, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        scope, config = self.__llmctx__.open(input, config) or (FAILED_SCOPE, config)
        token = enter(scope)  # `with Inside(scope)`, spelled out: each node comes by here
        try:
            return inherited(self, input, config, **kwargs)
        finally:
            leave(scope, token)

    return invoke


def _ainvoke(inherited: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(inherited)
    async def ainvoke(self: Any, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        scope, config = self.__llmctx__.open(input, config) or (FAILED_SCOPE, config)
        token = enter(scope)  # as above
        try:
            return await inherited(self, input, config, **kwargs)
        finally:
            leave(scope, token)

    return ainvoke


def _stream(inherited: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(inherited)
    def stream(self: Any, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        state = NO_STATE if inherited.__name__ == "transform" else input
        return steps(lambda config: inherited(self, input, config, **kwargs), self.__llmctx__, state, config)

    return stream


def _astream(inherited: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(inherited)
    def astream(self: Any, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        state = NO_STATE if inherited.__name__ == "atransform" else input
        return asteps(lambda config: inherited(self, input, config, **kwargs), self.__llmctx__, state, config)

    return astream


_METHODS: Final = {
    "invoke": _invoke,
    "ainvoke": _ainvoke,
    "stream": _stream,
    "astream": _astream,
    "transform": _stream,
    "atransform": _astream,
}


def steps(start: Callable[[Any], Iterator[T]], plan: Plan, state: Any, config: RunnableConfig | None) -> Iterator[T]:
    """Iterate in a scope that is current only while a step runs: what runs between two steps is not the node's."""
    scope, config = plan.open(state, config) or (FAILED_SCOPE, config)
    iterator: Any = None
    try:
        while True:
            with StepInside(scope):
                try:
                    iterator = start(config) if iterator is None else iterator
                    step = next(iterator)
                except StopIteration:
                    return
            yield step
    finally:
        try:
            if hasattr(iterator, "close"):
                iterator.close()
        finally:
            scope.close()


async def asteps(
    start: Callable[[Any], AsyncIterator[T]], plan: Plan, state: Any, config: RunnableConfig | None
) -> AsyncGenerator[T, None]:
    """Do as `steps`, asynchronously. Closing it from another task is safe: no token outlives the step that made it."""
    scope, config = plan.open(state, config) or (FAILED_SCOPE, config)
    iterator: Any = None
    try:
        while True:
            with StepInside(scope):
                try:
                    iterator = start(config) if iterator is None else iterator
                    step = await anext(iterator)
                except StopAsyncIteration:
                    return
            yield step
    finally:
        try:
            if hasattr(iterator, "aclose"):
                await iterator.aclose()
        finally:
            scope.close()
