"""Functions that run in a scope, for `wrap_node`.

`functools.wraps` is disguise enough: LangGraph reads signatures, hints and closures through `__wrapped__`. A function
meets its config in langchain-core's variable, whether it asks for one or not; there it is replaced as well.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from contextlib import aclosing
from contextvars import Token
from dataclasses import replace
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config

from llmctx.context import Scope, leave
from llmctx.graph.plan import MARK, NO_STATE, Plan
from llmctx.graph.runnables import asteps, steps


def in_scope(original: Any, plan: Plan) -> Any:
    """`original` so that it runs in a scope: a function of the same kind, name and signature."""
    fn: Any = original
    if not inspect.isroutine(fn) and not isinstance(fn, functools.partial):
        fn = fn.__call__  # of a callable object, the method has the hints, and tells the kind
    run: Any
    if inspect.isasyncgenfunction(fn):

        async def run(*args: Any, **kwargs: Any) -> Any:
            start = _starting(fn, args, kwargs)
            async with aclosing(asteps(start, plan, _state(args), _config(args, kwargs))) as chunks:
                async for chunk in chunks:
                    yield chunk

    elif inspect.isgeneratorfunction(fn):

        def run(*args: Any, **kwargs: Any) -> Any:
            start = _starting(fn, args, kwargs)
            yield from steps(start, plan, _state(args), _config(args, kwargs))

    elif inspect.iscoroutinefunction(fn):

        async def run(*args: Any, **kwargs: Any) -> Any:
            with _Call(plan, args, kwargs):
                return await fn(*args, **kwargs)

    else:

        def run(*args: Any, **kwargs: Any) -> Any:
            with _Call(plan, args, kwargs):
                return fn(*args, **kwargs)

    run.__annotations__ = {}
    functools.update_wrapper(run, fn)
    if inspect.isfunction(fn) and hasattr(fn, "__wrapped__"):
        run.__wrapped__ = fn.__wrapped__  # LangGraph looks for subgraphs one step deep
    run.__name__ = getattr(original, "__name__", type(original).__name__)
    setattr(run, MARK, replace(plan, inside=fn, outside=weakref.ref(run)))
    return run


class _Call:
    """One call of a wrapped function, in its scope."""

    __slots__ = ("_args", "_config_token", "_entered", "_kwargs", "_plan")

    def __init__(self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._plan = plan
        self._args = args
        self._kwargs = kwargs
        self._entered: tuple[Scope, Token[Scope | None]] | None = None
        self._config_token: Token[RunnableConfig | None] | None = None

    def __enter__(self) -> None:
        config = _config(self._args, self._kwargs)
        entered = self._plan.enter(_state(self._args), config)
        if entered is None:
            return
        scope, token, sent = entered
        self._entered = scope, token
        if sent is not config:
            if "config" in self._kwargs:
                self._kwargs["config"] = sent
            self._config_token = var_child_runnable_config.set(sent)

    def __exit__(self, *_: object) -> None:
        if self._config_token is not None:
            var_child_runnable_config.reset(self._config_token)
        if self._entered is not None:
            leave(*self._entered)


def _starting(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Any], Any]:
    """`fn` as something that begins with nothing but a config."""
    return lambda config: fn(*args, **({**kwargs, "config": config} if "config" in kwargs else kwargs))


def _state(args: tuple[Any, ...]) -> Any:
    return args[0] if args else NO_STATE


def _config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunnableConfig | None:
    """The config that a call was given, or else the one around it."""
    given: Any = kwargs.get("config") or (args[1] if len(args) > 1 else None)
    return given if isinstance(given, dict) else var_child_runnable_config.get()  # type: ignore[return-value]
