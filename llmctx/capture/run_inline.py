"""Inline, but not at the price of other handlers' events. To be deleted when langchain#39633 is fixed in all versions
that we support.

`AsyncCallbackManager.on_llm_start` tells the handlers that are not inline nothing as soon as one is: they lose the
starts of completion models, and stumble over the rest (langchain#39633). To it alone ours are not inline; where it then
hands the event on they are, and run first.

To tell it apart takes a look at the caller's frame, and LangChain asks three times at each event. So nothing is looked
at before a completion model is at work in this process: ahead of each run LangChain asks the hooks it knows, and one of
them is here, and sees who asks.
"""

from __future__ import annotations

from functools import partial
from sys import _getframe
from types import CodeType, FrameType
from typing import Any, Final

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler
from langchain_core.language_models import BaseLLM
from langchain_core.tracers.context import register_configure_hook

from llmctx.core.guard import HARMLESS, contain, guard_harmless
from llmctx.core.patches import function_within

_on_llm_start: Final = function_within(AsyncCallbackManager, "on_llm_start")
_ON_LLM_START: Final = None if _on_llm_start is None else _on_llm_start.__code__
_STARTS_COMPLETIONS: Final = (
    frozenset()
    if _ON_LLM_START is None
    else frozenset({id(_ON_LLM_START), *(id(part) for part in _ON_LLM_START.co_consts if isinstance(part, CodeType))})
)
"""By id: to hash code takes as long as all else that is asked of us."""
_BEGIN_COMPLETIONS: Final = frozenset(
    id(function.__code__)
    for name in ("agenerate", "astream")
    if (function := function_within(BaseLLM, name)) is not None
)
_ASKER: Final = 3  # frames above `get`: LangChain's _configure, configure, and what called that

_ours: Final[list[type[BaseCallbackHandler]]] = []
_unaware: Final[list[bool]] = [True]
_stop = partial(contain, "handler_failed", HARMLESS)


class _Watch:
    """Stands where langchain-core wants a context variable: only `get` is ever called, and it never has an answer."""

    def get(self, default: Any = None) -> None:
        try:
            if _unaware and id(_getframe(_ASKER).f_code) in _BEGIN_COMPLETIONS:
                adapt_run_inline()
        except ValueError:  # the stack is not that deep
            return
        except BaseException as problem:  # noqa: BLE001  `guard` would stand between, and at each run
            _stop(problem, "_Watch.get")


_hook: Final = _Watch()


def protect_other_handlers(handlers: type[BaseCallbackHandler]) -> None:
    """Keep handlers of that class, whose `run_inline` is True, from costing others their events."""
    if not _ours:
        _ours.append(handlers)
        register_configure_hook(_hook, inheritable=False)  # type: ignore[arg-type]  # only `get` is called on it


def adapt_run_inline() -> None:
    """Answer `run_inline` by what asks for it from here on: a completion model is at work."""
    if _unaware:
        for handlers in _ours:
            handlers.run_inline = property(_is_inline)  # type: ignore[assignment]  # LangChain only ever reads it
        _unaware.clear()


def _is_inline(handler: BaseCallbackHandler) -> bool:
    return id(_getframe(1).f_code) not in _STARTS_COMPLETIONS or _alone_or_among_inline(_getframe(1))


@guard_harmless("handler_failed", otherwise=lambda frame: True)
def _alone_or_among_inline(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code is not _ON_LLM_START:
        frame = frame.f_back
    manager = None if frame is None else frame.f_locals.get("self")
    others = [other for other in getattr(manager, "handlers", ()) if not isinstance(other, tuple(_ours))]
    return not others or any(other.run_inline for other in others)
