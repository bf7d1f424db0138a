"""Functions that run in the scope in which they were handed on, in whatever thread or task: `carry`.

Where that scope fails they run in a failed one: they do not work for the last user of the thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar, cast

from llmctx.core.guard import guard_without_ids
from llmctx.identity.present_scope import present_scope
from llmctx.identity.scope import EMPTY, FAILED_SCOPE, Inside, Scope, failed_scope

P = ParamSpec("P")
R = TypeVar("R")


def run_in_failed_scope(fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `fn`, and await its coroutine, where no source is believed: as a job that could not be given its scope."""
    with Inside(FAILED_SCOPE):
        made = fn(*args, **kwargs)
    return cast("R", _awaited(made)) if isinstance(made, CoroutineType) else made


async def _awaited(made: Coroutine[Any, Any, R]) -> R:
    with Inside(FAILED_SCOPE):
        return await made


@guard_without_ids("carry_failed", otherwise=lambda outer: failed_scope("job"))
def job_scope(outer: Scope | None) -> Scope:
    """Return a scope for a job that works for `outer`."""
    return Scope(EMPTY if outer is None else outer.identity, "job", outer)


def each_in(open_scope: Callable[[], Scope], fn: Callable[P, R]) -> Callable[P, R]:
    """Return `fn` so that each call opens a scope of its own. `open_scope` never raises."""
    import inspect  # late: `import llmctx` stays quick

    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            with Inside(open_scope()):
                return await fn(*args, **kwargs)

        return cast("Callable[P, R]", run_async)

    @functools.wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with Inside(open_scope()):
            return fn(*args, **kwargs)

    return run


@guard_without_ids("carry_failed", otherwise=lambda fn: functools.partial(run_in_failed_scope, fn))  # it may fail again
def _of_nobody(fn: Callable[P, R]) -> Callable[P, R]:
    """Return `fn` without the scope that could not be carried, nor that of the last user of its thread."""
    return each_in(functools.partial(failed_scope, "job"), fn)


@guard_without_ids("carry_failed", otherwise=_of_nobody)
def carry(fn: Callable[P, R]) -> Callable[P, R]:
    """Return `fn` bound to the scope in which `carry` was called, for executors, threads and tasks.

        executor.submit(carry(summarise), text)

    Each call runs in a scope of its own with the identity that the scope has by then, and leaves nothing behind in
    the thread. Works for functions and coroutine functions.
    """
    return each_in(functools.partial(job_scope, present_scope()), fn)
