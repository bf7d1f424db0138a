"""Functions that run in the scope in which they were handed on, in whatever thread or task: `carry`.

Where that scope fails they run in one that is lost: whoever has used the thread before is not who they work for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from llmctx.core.guard import without_ids
from llmctx.identity.scope import EMPTY, FAILED_SCOPE, Scope, current_scope, enter, failed_scope, leave, suspend

P = ParamSpec("P")
R = TypeVar("R")


def run_in_failed_scope(fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `fn` where nobody is believed: as a job that could not be given its scope."""
    token = enter(FAILED_SCOPE)
    try:
        return fn(*args, **kwargs)
    finally:
        suspend(token)


@without_ids("carry_failed", otherwise=lambda outer: failed_scope("job"))
def _job(outer: Scope | None) -> Scope:
    return Scope(EMPTY if outer is None else outer.identity, "job", outer)


async def _arun_in_failed_scope(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    token = enter(FAILED_SCOPE)
    try:
        return await fn(*args, **kwargs)
    finally:
        suspend(token)


def _of_nobody(fn: Callable[P, R]) -> Callable[P, R]:
    """`fn` without the scope that could not be carried, nor that of whoever has used its thread before."""
    import inspect  # late, as below: `import llmctx` stays quick

    run: Any = functools.partial(_arun_in_failed_scope if inspect.iscoroutinefunction(fn) else run_in_failed_scope, fn)
    return cast("Callable[P, R]", functools.update_wrapper(run, fn))


@without_ids("carry_failed", otherwise=_of_nobody)
def carry(fn: Callable[P, R]) -> Callable[P, R]:
    """Return `fn` bound to the scope in which `carry` was called, for executors, threads and tasks.

        executor.submit(carry(summarise), text)

    Each call runs in a scope of its own with the identity that the scope has by then, and leaves nothing behind in
    the thread. Works for functions and coroutine functions.
    """
    import inspect

    outer = current_scope()

    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            scope = _job(outer)
            token = enter(scope)
            try:
                return await fn(*args, **kwargs)
            finally:
                leave(scope, token)

        return cast("Callable[P, R]", run_async)

    @functools.wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        scope = _job(outer)
        token = enter(scope)
        try:
            return fn(*args, **kwargs)
        finally:
            leave(scope, token)

    return run
