"""Reports of tokens that can be done without: LangChain makes one for each, and keeps what they are about anyway.

To report a token takes LangChain some 4 µs, whatever the handler does with it: more than all else of a stream. A row
needs the moment of the first content, and the usage that the chunks bring; and the chunks lie in a list of LangChain's
until the stream ends. So once a stream has brought content the reports of this one run end, if all of its handlers are
ours, and the list is read at the end (`Stream.read_chunks`).

That is known of LangChain's own methods and run managers as they stand. Where anything else is between a stream and
us, every token is reported, and looked at, as ever.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final
from weakref import ref

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManagerForLLMRun,
)
from langchain_core.callbacks.base import LLMManagerMixin
from langchain_core.language_models import BaseChatModel

from llmctx.core.patches import function_within

_NAME: Final = LLMManagerMixin.on_llm_new_token.__name__
_BETWEEN: Final = 5  # frames from the one that asks to the run manager's, at most
_REPORTERS: Final[dict[int, tuple[Any, FunctionType]]] = {
    id(function.__code__): (manager, function)
    for manager in (CallbackManagerForLLMRun, AsyncCallbackManagerForLLMRun)
    if (function := function_within(manager, _NAME)) is not None
}
"""By the id of its code: the method of a run manager that reports a token."""
_COLLECTING: Final = frozenset(
    id(function.__code__)
    for name in ("stream", "astream", "_generate_with_cache", "_agenerate_with_cache")
    if (function := function_within(BaseChatModel, name)) is not None and "chunks" in function.__code__.co_varnames
)
"""Ids of the code of methods that append to `chunks` what they report."""


def collected_chunks(ours: type[BaseCallbackHandler]) -> list[Any] | None:
    """Return the list of chunks of the stream whose token is being reported to a handler.

    It grows until the stream ends. If no handler but such of the class `ours` hears of the stream, nothing more of it
    is reported from here on. None where the chunks are not collected, or cannot be seen: then all is reported.
    """
    frame = sys._getframe(1)
    for _ in range(_BETWEEN):
        if id(frame.f_code) in _REPORTERS or frame.f_back is None:
            break
        frame = frame.f_back
    if frame.f_back is None or id(frame.f_back.f_code) not in _COLLECTING:
        return None
    reporter = _REPORTERS.get(id(frame.f_code))
    chunks = frame.f_back.f_locals.get("chunks")
    if reporter is None or type(chunks) is not list:
        return None
    _end_reports(frame.f_locals.get("self"), *reporter, ours)
    return chunks


def _end_reports(manager: Any, kind: Any, function: FunctionType, ours: type[BaseCallbackHandler]) -> None:
    if type(manager) is not kind or vars(kind).get(_NAME) is not function or _NAME in vars(manager):
        return  # a class of the application's, or of one that has put something in between
    if all(type(handler) is ours for handler in manager.handlers):
        make = _silent if kind is CallbackManagerForLLMRun else _silent_async
        setattr(manager, _NAME, make(manager, function))


def _silent(manager: Any, function: FunctionType) -> Callable[..., None]:
    handlers, count, alive = manager.handlers, len(manager.handlers), ref(manager)

    def on_llm_new_token(*args: Any, **kwargs: Any) -> None:
        if len(handlers) != count:  # another one wants to hear of it
            function(alive(), *args, **kwargs)

    return on_llm_new_token


def _silent_async(manager: Any, function: FunctionType) -> Callable[..., Any]:
    handlers, count, alive = manager.handlers, len(manager.handlers), ref(manager)

    async def on_llm_new_token(*args: Any, **kwargs: Any) -> None:
        if len(handlers) != count:
            await function(alive(), *args, **kwargs)

    return on_llm_new_token
