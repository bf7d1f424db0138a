"""SIGTERM: the call logs of a process hear of its end before the application's own handler does.

A server that has shut down may raise the signal again, for whoever listened before: uvicorn does. Then its default
action ends the process, without any `atexit`. So what has ended is brought into the journal at once, and from then on
no row waits for company. Only a handler that is there is stood in for: what a signal does is the application's choice.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from llmctx.core.guard import guard_harmless, handler_codes
from llmctx.core.native_signals import native_action, restore_native_action
from llmctx.core.process import ForkStage, in_forked_child, running_call_logs

_JOURNAL_S: Final = 1.0  # of the handler: the first rows of a process take a while
_is_ending = False


@in_forked_child(ForkStage.CALL_LOG)
def _begin_anew() -> None:
    global _is_ending
    _is_ending = False


def is_ending() -> bool:
    """Return whether the process has been told to end: no row should wait for company any more."""
    return _is_ending


class _Ending:
    """The application's handler, which is called once the call logs know. Looks like it in all else."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any]) -> None:
        self._handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> Any:
        self.leave()  # the handler may look whether it is still the one
        _hasten()
        return self._handler(number, frame)

    def __getattr__(self, name: str) -> Any:
        if name == "_handler":  # a copy in the making
            raise AttributeError(name)
        return getattr(self._handler, name)

    def __eq__(self, other: object) -> bool:
        return self is other or bool(self._handler == other)

    def __hash__(self) -> int:
        return hash(self._handler)

    @guard_harmless("lifecycle_failed")
    def leave(self) -> None:
        """Put the handler back, if no other one has been set since."""
        if signal.getsignal(signal.SIGTERM) is self:
            _exchange(self, self._handler)


handler_codes.add(_Ending.__call__.__code__)


@guard_harmless("lifecycle_failed")
def _hasten() -> None:
    global _is_ending
    if not _is_ending:
        _is_ending = True
        until = time.monotonic() + _JOURNAL_S
        running_call_logs.for_each(lambda call_log: call_log.hasten(max(0.0, until - time.monotonic())))


@guard_harmless("lifecycle_failed")
def listen_for_end() -> None:
    """Stand in for the application's handler. Where it has none, or in another thread, do nothing."""
    if _is_ending or not _is_main_thread():
        return
    handler = signal.getsignal(signal.SIGTERM)
    # an event loop's is not called for what it does; and it ends its process in order
    is_loops = getattr(handler, "__module__", "").partition(".")[0] in ("asyncio", "uvloop")
    if not callable(handler) or isinstance(handler, _Ending) or is_loops:
        return
    _exchange(handler, _Ending(handler))


def _exchange(handler: Any, other: Callable[[int, FrameType | None], Any]) -> None:
    """Put `other` in the place of a handler; what a library has put before Python's handlers stays there."""
    action = native_action(signal.SIGTERM)
    newest = signal.signal(signal.SIGTERM, other)
    if newest is handler:
        restore_native_action(signal.SIGTERM, action)
    else:  # the signal has just come, and its handler has set another one
        signal.signal(signal.SIGTERM, newest)


def stop_listening_for_end() -> None:
    """Put the application's handler of SIGTERM back where no call log is left that would hear of it."""
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, _Ending) and not any(running_call_logs) and _is_main_thread():
        handler.leave()


def _is_main_thread() -> bool:
    """Return whether Python lets this thread set handlers of signals."""
    return threading.get_ident() == threading.main_thread().ident
