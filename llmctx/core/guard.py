"""The guard between llmctx and the application: whatever fails in here is counted and logged, and goes no further.

Everything of ours that the application, LangChain, LangGraph, asyncio or the standard library calls has a `guard`, or
is one of a few frames around the application's own code that do nothing but call what is guarded. BaseException is
stopped as well: extensions written in Rust panic with one, and code of ours has no reason to end the process.

What must pass is the application's own trouble that happened to strike while our code ran: Ctrl-C, a handler of a
signal that raises (time limits, shutdown), an exception that was thrown into this thread. See `is_from_outside`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import CodeType, TracebackType
from typing import Any, Final, TypeVar, cast

from llmctx.core.diagnostics import diagnostics

F = TypeVar("F", bound=Callable[..., Any])


HARMLESS: Final = "%s failed; the application is not affected"


def guard(cause: str, message: str, *, otherwise: Callable[..., Any] | None = None) -> Callable[[F], F]:
    """Let nothing that goes wrong in a function leave it. Costs 0.1 µs as long as nothing does.

    Args:
        cause: the name under which failures are counted (`Diagnostics.count`).
        message: the line in the log; `%s` in it is the name of the function.
        otherwise: asked, with the same arguments, for what is returned then; None without it.
    """

    def decorate(work: F) -> F:
        @functools.wraps(work)
        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return work(*args, **kwargs)
            except BaseException as problem:  # noqa: BLE001  this is the guard
                result = None
                try:
                    result = None if otherwise is None else otherwise(*args, **kwargs)
                except BaseException:  # noqa: BLE001  where a stack is full, there is no room for this either
                    diagnostics.unlogged += 1
                contain(cause, message, problem, work.__qualname__)
                return result

        return cast("F", run)

    return decorate


def guard_harmless(cause: str, *, otherwise: Callable[..., Any] | None = None) -> Callable[[F], F]:
    """Guard what may fail without a consequence for any row."""
    return guard(cause, HARMLESS, otherwise=otherwise)


def guard_without_ids(cause: str, *, otherwise: Callable[..., Any] | None = None) -> Callable[[F], F]:
    """Guard what finds out whose the code is that runs: where it fails, that code is recorded without ids."""
    return guard(cause, "%s failed: calls made there are recorded without ids", otherwise=otherwise)


def swallow(problem: BaseException, cause: str, message: str, *args: object) -> None:
    """Count `problem`, in an `except BaseException` within what is guarded. The application's own passes."""
    if is_from_outside(problem):
        raise problem
    diagnostics.count(cause, message, *args, exc=problem)


def contain(cause: str, message: str, problem: BaseException, name: str) -> None:
    """Count `problem`, by which the function `name` failed. Raise it if it is the application's."""
    passes = False
    try:
        passes = is_from_outside(problem)
        if not passes:
            diagnostics.count(cause, message % name if "%s" in message else message, exc=problem)
    except BaseException:  # noqa: BLE001  where a stack is full, there is no room for this either
        diagnostics.unlogged += 1
    if passes:
        raise problem


handler_codes: Final[set[CodeType]] = set()
"""Code of ours that calls a handler of a signal, which may have set another one before it raises."""

# The last instruction of code that raises, or into which a generator's `throw` has raised. Whatever comes from outside
# strikes between two instructions, at a call or a jump.
_RAISES: Final = frozenset({"RAISE_VARARGS", "RERAISE", "RETURN_GENERATOR", "YIELD_VALUE"})


def is_from_outside(problem: BaseException) -> bool:
    """Return whether `problem` is not a failure of what ran, but merely struck there, and so is the application's.

    It is if a signal handler has raised it, or if it is no Exception and no code has raised it at all: then Python
    itself did, for Ctrl-C or for another thread. Only a panic (Rust) looks like that as well. Never raises.
    """
    try:
        return _has_struck(problem)
    except BaseException:  # noqa: BLE001  it is asked where something has gone wrong already
        diagnostics.unlogged += 1
        return False


def _has_struck(problem: BaseException) -> bool:
    handlers = _signal_handlers()
    last: TracebackType | None = None
    step = problem.__traceback__
    while step is not None:
        if step.tb_frame.f_code in handlers:
            return True
        last, step = step, step.tb_next
    if isinstance(problem, Exception) or last is None or type(problem).__name__ == "PanicException":
        return False
    from opcode import opname  # late, as below: `import llmctx` stays quick

    return opname[last.tb_frame.f_code.co_code[last.tb_lasti]] not in _RAISES


def _signal_handlers() -> set[CodeType]:
    """Return the code of the application's handlers of signals. They run in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        return set()
    import signal

    found = set(handler_codes)
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        while isinstance(handler, functools.partial):  # asyncio's for Ctrl-C
            handler = handler.func
        for part in (handler, getattr(handler, "__func__", None), getattr(type(handler), "__call__", None)):  # noqa: B004
            code = getattr(part, "__code__", None)
            if isinstance(code, CodeType):
                found.add(code)
    return found
