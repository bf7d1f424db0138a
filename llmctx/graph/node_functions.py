"""Functions that run in a scope, for `wrap_node`.

`functools.wraps` is disguise enough: LangGraph reads signatures, hints and closures through `__wrapped__`. A function
meets its config in langchain-core's variable, whether it asks for one or not; there it is replaced as well.
"""

from __future__ import annotations

import contextlib
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

from llmctx.core.guard import harmless, without_ids
from llmctx.graph.node_identity import MARK, NO_STATE, Plan, unwrapped
from llmctx.graph.node_runnables import asteps, steps
from llmctx.identity.scope import FAILED_SCOPE, Entry, Scope, leave


def _as_it_is(original: Any, plan: Plan) -> Any:
    return original


@unwrapped(otherwise=_as_it_is)
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
            stay = _arrive(plan, args, kwargs)
            try:
                return await fn(*args, **kwargs)
            finally:
                _depart(stay)

    else:

        def run(*args: Any, **kwargs: Any) -> Any:
            stay = _arrive(plan, args, kwargs)
            try:
                return fn(*args, **kwargs)
            finally:
                _depart(stay)

    run.__annotations__ = {}
    functools.update_wrapper(run, fn)
    if inspect.isfunction(fn) and hasattr(fn, "__wrapped__"):
        run.__wrapped__ = fn.__wrapped__  # LangGraph looks for subgraphs one step deep
    run.__name__ = getattr(original, "__name__", type(original).__name__)
    setattr(run, MARK, replace(plan, inside=fn, outside=weakref.ref(run)))
    return run


class _Stay:
    """One call of a wrapped function, in its scope."""

    __slots__ = ("config_token", "scope", "token")

    def __init__(self) -> None:
        self.scope: Scope | None = None
        self.token: Entry = None
        self.config_token: Token[RunnableConfig | None] | None = None


def _resolve_in_failed_scope(plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Stay:
    stay = _Stay()
    stay.scope, stay.token, _ = plan.enter_failed(None, kwargs.get("config"))
    return stay


@without_ids("node_scope_failed", otherwise=_resolve_in_failed_scope)
def _arrive(plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Stay:
    """Enter the scope of a call that begins."""
    stay, config = _Stay(), _given(args, kwargs)
    try:
        stay.scope, stay.token, sent = plan.enter(args[0] if args else NO_STATE, config) or plan.enter_failed(
            None, config
        )
        if sent is not config:
            stay.config_token = var_child_runnable_config.set(sent)
            if "config" in kwargs:
                kwargs["config"] = sent
    except BaseException:
        _depart(stay)
        raise
    return stay


def _restore(stay: _Stay | None) -> None:
    if stay is not None:
        leave(stay.scope, stay.token)
        if stay.config_token is not None:
            with contextlib.suppress(ValueError, RuntimeError):  # it has been restored before something failed
                var_child_runnable_config.reset(stay.config_token)


@harmless("node_scope_failed", otherwise=_restore)
def _depart(stay: _Stay | None) -> None:
    if stay is not None:
        if stay.config_token is not None:
            var_child_runnable_config.reset(stay.config_token)
        leave(stay.scope, stay.token)


def _starting(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Any], Any]:
    """`fn` as something that begins with nothing but a config; with its own, if that is None."""
    return lambda config: fn(*args, **({**kwargs, "config": config} if config and "config" in kwargs else kwargs))


# Where these fail, the node is not to go by what else is known of it: `Plan.enter` knows their answer.


@without_ids("node_scope_failed", otherwise=lambda args: FAILED_SCOPE)
def _state(args: tuple[Any, ...]) -> Any:
    return args[0] if args else NO_STATE


@without_ids(
    "node_scope_failed",
    otherwise=lambda args, kwargs: FAILED_SCOPE,
)
def _config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _given(args, kwargs)


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunnableConfig | None:
    """The config that a call was given, or else the one around it."""
    given: Any = kwargs.get("config") or (args[1] if len(args) > 1 else None)
    return given if isinstance(given, dict) else var_child_runnable_config.get()  # type: ignore[return-value]
