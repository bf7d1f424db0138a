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
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config

from llmctx.core.guard import guard_harmless, guard_without_ids
from llmctx.graph.node_identity import MARK, NO_STATE, Plan, guard_wrapping
from llmctx.graph.node_runnables import asteps, steps
from llmctx.identity.scope import FAILED_SCOPE, Inside, Scope, enter, leave


def _as_it_is(original: Any, plan: Plan) -> Any:
    return original


@guard_wrapping(otherwise=_as_it_is)
def in_scope(original: Any, plan: Plan) -> Any:
    """Return `original` so that it runs in a scope: a function of the same kind, name and signature."""
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
            with in_node(plan, args, kwargs) or NOWHERE:
                return await fn(*args, **kwargs)

    else:

        def run(*args: Any, **kwargs: Any) -> Any:
            with in_node(plan, args, kwargs) or NOWHERE:
                return fn(*args, **kwargs)

    run.__annotations__ = {}
    functools.update_wrapper(run, fn)
    if inspect.isfunction(fn) and hasattr(fn, "__wrapped__"):
        run.__wrapped__ = fn.__wrapped__  # LangGraph looks for subgraphs one step deep
    run.__name__ = getattr(original, "__name__", type(original).__name__)
    setattr(run, MARK, replace(plan, inside=fn, outside=weakref.ref(run)))
    return run


NOWHERE: Final = contextlib.nullcontext()
"""Where not even the scope of a failure could be made: no stack was left."""


class _InNode(Inside):
    """One call of a wrapped function: in its scope, with `config` in langchain-core's variable unless that is None."""

    __slots__ = ("_config", "_config_token")

    def __init__(self, scope: Scope, config: RunnableConfig | None = None) -> None:
        self.scope = scope
        self._config = config
        self._config_token: Token[RunnableConfig | None] | None = None

    def __enter__(self) -> None:
        self.token = enter(self.scope)
        if self._config is not None:
            self._set_config(self._config)

    def __exit__(self, *_: object) -> None:
        if self._config_token is not None:
            self._restore_config()
        leave(self.scope, self.token)

    @guard_without_ids("node_scope_failed")
    def _set_config(self, config: RunnableConfig) -> None:
        self._config_token = var_child_runnable_config.set(config)

    def _try_to_restore(self) -> None:
        if self._config_token is not None:
            with contextlib.suppress(ValueError, RuntimeError):  # it has been restored before something failed
                var_child_runnable_config.reset(self._config_token)

    @guard_harmless("node_scope_failed", otherwise=_try_to_restore)
    def _restore_config(self) -> None:
        if self._config_token is not None:
            var_child_runnable_config.reset(self._config_token)


def _in_failed_scope(plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _InNode:
    return _InNode(plan.open_failed(None, kwargs.get("config"))[0])


@guard_without_ids("node_scope_failed", otherwise=_in_failed_scope)
def in_node(plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _InNode:
    """Open the scope of a call that begins."""
    config = _given(args, kwargs)
    scope, sent = plan.open(args[0] if args else NO_STATE, config) or plan.open_failed(None, config)
    if sent is config:
        return _InNode(scope)
    if "config" in kwargs:
        kwargs["config"] = sent
    return _InNode(scope, sent)


def _starting(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Any], Any]:
    """Return `fn` as something that begins with nothing but a config; with its own, if that is None."""
    return lambda config: fn(*args, **({**kwargs, "config": config} if config and "config" in kwargs else kwargs))


# Where these fail, the node is not to go by what else is known of it: `Plan.open` knows their answer.


@guard_without_ids("node_scope_failed", otherwise=lambda args: FAILED_SCOPE)
def _state(args: tuple[Any, ...]) -> Any:
    return args[0] if args else NO_STATE


@guard_without_ids(
    "node_scope_failed",
    otherwise=lambda args, kwargs: FAILED_SCOPE,
)
def _config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _given(args, kwargs)


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunnableConfig | None:
    """Return the config that a call was given, or else the one around it."""
    given: Any = kwargs.get("config") or (args[1] if len(args) > 1 else None)
    return given if isinstance(given, dict) else var_child_runnable_config.get()  # type: ignore[return-value]
