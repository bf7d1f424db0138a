"""The hook in langchain-core by which a started call log hears every LLM call of its process."""

from __future__ import annotations

import time
from typing import Any, Final

from langchain_core.tracers.context import register_configure_hook

from llmctx.capture.handler import CallLogHandler
from llmctx.capture.recorder import Recorder
from llmctx.core.guard import HARMLESS, contain
from llmctx.identity.present_scope import may_be_elsewhere, present_scope
from llmctx.identity.scope import FAILED_SCOPE, current_scope


class _Hook:
    """Stands where langchain-core wants a context variable, and answers with the handler for the scope at hand.

    A plain ContextVar with the handler as its default would be found everywhere too, but could not carry the scope in
    which a run begins: this answers with a handler that holds it, and that travels with the callbacks wherever
    `config` is handed. Only `get` is ever called. There is no way to unregister: a slot is reused when its call log
    has been closed.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.recorder: Recorder | None = None
        self.plain: CallLogHandler | None = None
        self.failed: CallLogHandler | None = None
        """Says that whose scope it was could not be found out."""
        self.deaf_from = 0.0
        """Monotonic seconds. LangChain asks twice, and must not get None the second time only."""

    def get(self, default: Any = None) -> CallLogHandler | None:
        """Return the handler for the scope at hand. LangChain asks twice before each run: `guard` is spelled out."""
        try:
            recorder, scope = self.recorder, current_scope()
            if recorder is None:
                if self.plain is not None and time.monotonic() > self.deaf_from:
                    self.plain = None
                return self.plain
            if may_be_elsewhere() or (scope is not None and scope.history is not None):
                scope = present_scope()
            if scope is None or scope.closed_at is not None:
                return self.plain
            anchor = scope.anchor
            if anchor.closed_at is not None or anchor.kind == "node":
                return self.plain
            handlers = anchor.handlers
            if handlers is None:
                handlers = anchor.handlers = {}
            handler = handlers.get(self.number)
            if handler is None or handler._recorder is not recorder:
                handler = handlers[self.number] = CallLogHandler(recorder=recorder, scope=anchor)
            return handler
        except BaseException as problem:  # noqa: BLE001  this is the guard
            contain("handler_failed", HARMLESS, problem, "_Hook.get")
            return self.failed if self.recorder is not None else self.plain


_hooks: Final[list[_Hook]] = []
_ASKING_S: Final = 5.0  # longer than LangChain takes to ask twice


def install(recorder: Recorder, handler: CallLogHandler) -> None:
    """Let `recorder` hear every LLM call of this process, in whatever thread, task or loop."""
    known = [hook for hook in _hooks if hook.recorder is recorder] or [hook for hook in _hooks if hook.recorder is None]
    hook = known[0] if known else None
    if hook is None:
        hook = _Hook(len(_hooks))
        register_configure_hook(hook, inheritable=True)  # type: ignore[arg-type]  # only `get` is called on it
        _hooks.append(hook)  # afterwards: one that LangChain does not know of would be used again, and never hear
    hook.plain = handler
    hook.failed = CallLogHandler(recorder=recorder, scope=FAILED_SCOPE)
    hook.recorder = recorder


def uninstall(recorder: Recorder) -> None:
    """Undo `install`."""
    for hook in _hooks:
        if hook.recorder is recorder:
            hook.deaf_from = time.monotonic() + _ASKING_S
            hook.recorder = None


def hears_everything(recorder: Recorder) -> bool:
    """Return whether `recorder` is registered globally."""
    return any(hook.recorder is recorder for hook in _hooks)
