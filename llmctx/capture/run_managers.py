"""Ways past LangChain's run managers, for what need not be reported to us.

A run manager reports what happens in one run to the run's handlers. That costs more than what a handler does with it:

- A token takes some 4 µs, whatever becomes of it. A row needs the moment of the first content, and the usage that the
  chunks bring; and these lie in a list of LangChain's until the stream ends. So once a stream has brought content no
  more of it is reported to us, and the list is read at the end (`Stream.read_chunks`).
- The end of a run that is awaited is reported from a task of its own, so that who cancels the run does not cancel a
  handler that waits for something. Ours waits for nothing: it is called at once, where no other handler listens.

Both are done to the manager of one run, not to its class, and only where LangChain's own methods stand there. Other
handlers hear of everything as ever; so do ours where another library has put something in between.

Where a handler of the application may raise (`raise_error`: a budget that is spent), those behind it hear no more of an
answer that has been paid for. Ours goes before it in the handlers of that run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import copy
from functools import partial
from types import FrameType, FunctionType
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel

from llmctx.core.guard import HARMLESS, contain
from llmctx.core.patches import function_within

if TYPE_CHECKING:
    from uuid import UUID

_NEW_TOKEN: Final = "on_llm_new_token"  # noqa: S105  the name of a method
_END: Final = "on_llm_end"
_BETWEEN: Final = 5  # frames from the one that asks to the run manager's, at most
_HOOKS: Final = 2  # frames, one of which is the method that has reported the start: a guard may stand between
_TO_START: Final = 6  # frames from `prepare_end` to the method that has made the manager of a run that is awaited
_stop = partial(contain, "handler_failed", HARMLESS)

_REPORTERS: Final[dict[int, tuple[Any, FunctionType]]] = {
    id(function.__code__): (manager, function)
    for manager in (CallbackManagerForLLMRun, AsyncCallbackManagerForLLMRun)
    if (function := function_within(manager, _NEW_TOKEN)) is not None
}
"""By the id of its code: the method of a run manager that reports a token."""
_COLLECTING: Final = frozenset(
    id(function.__code__)
    for name in ("stream", "astream", "_generate_with_cache", "_agenerate_with_cache")
    if (function := function_within(BaseChatModel, name)) is not None and "chunks" in function.__code__.co_varnames
)
"""Ids of the code of methods that append to `chunks` what they report."""
_SYNC_STARTS: Final = frozenset(
    id(function.__code__)
    for name in ("on_chat_model_start", "on_llm_start")
    if (function := function_within(CallbackManager, name)) is not None
)
"""Ids of the code of methods that report a start to the handlers of a run that is not awaited."""
_start: Final = function_within(AsyncCallbackManager, "on_chat_model_start")
_START: Final = None if _start is None or "managers" not in _start.__code__.co_varnames else id(_start.__code__)
"""The id of the code that makes managers, and then reports the start."""
_end: Final = vars(AsyncCallbackManagerForLLMRun).get(_END)
_is_langchains: Final = isinstance(_end, FunctionType) and _end.__globals__ is vars(
    sys.modules[AsyncCallbackManagerForLLMRun.__module__]
)


def collected_chunks(ours: type[BaseCallbackHandler]) -> list[Any] | None:
    """Return the list of chunks of the stream whose token is being reported to a handler.

    It grows until the stream ends. From here on no more of the stream is reported to handlers of the class `ours`. None
    where the chunks are not collected, or cannot be seen: then all is reported.
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
    kind, function = reporter
    manager = frame.f_locals.get("self")
    if _is_plain(manager, kind, _NEW_TOKEN, function):
        report = _report_to_others if kind is CallbackManagerForLLMRun else _report_to_others_async
        setattr(manager, _NEW_TOKEN, report(manager, function, ours))
    return chunks


def prepare_end(handler: BaseCallbackHandler, run_id: UUID, directly: bool) -> None:
    """Let `handler`, which is being told of the start of a run, hear of its end before others that may raise then.

    Of one that is awaited it hears at once, if it may be told `directly` and no handler of another class listens.
    """
    frame: FrameType | None = sys._getframe(_TO_START - 1)
    for _ in range(_HOOKS):
        if frame is not None and id(frame.f_code) in _SYNC_STARTS:
            _go_first(handler, frame.f_locals["self"].handlers)
            return
        frame = None if frame is None else frame.f_back
    frame = sys._getframe(_TO_START)
    if id(frame.f_code) != _START or not _is_langchains:
        return
    ours = type(handler)
    for manager in frame.f_locals.get("managers") or ():
        if manager.run_id == run_id:
            if any(type(one) is not ours for one in manager.handlers):
                _go_first(handler, manager.handlers)
            elif directly and _is_plain(manager, AsyncCallbackManagerForLLMRun, _END, _end):
                setattr(manager, _END, _direct_end(manager))
            return


def _go_first(handler: BaseCallbackHandler, handlers: Any) -> None:
    if type(handlers) is list and handlers[0] is not handler:
        at = next((at for at, one in enumerate(handlers) if one is handler), 0)
        if any(one.raise_error for one in handlers[:at] if type(one) is not type(handler)):
            del handlers[at]  # what goes through them just now is at this place, and goes on behind it
            handlers.insert(0, handler)


def _is_plain(manager: Any, kind: Any, name: str, method: object) -> bool:
    """Return whether `manager` is LangChain's own, as it came."""
    return type(manager) is kind and vars(kind).get(name) is method and name not in vars(manager)


# In all of these a further handler may have come meanwhile. They hold the manager weakly: it holds them.


def _without(manager: Any, ours: type[BaseCallbackHandler]) -> Any:
    """Return a manager of the same run for the other handlers; None if there are none."""
    others = [handler for handler in manager.handlers if type(handler) is not ours]
    if not others:
        return None
    rest = copy(manager)
    rest.handlers = others
    return rest


def _report_to_others(manager: Any, function: FunctionType, ours: type[BaseCallbackHandler]) -> Callable[..., None]:
    handlers, count, alive, rest = manager.handlers, len(manager.handlers), ref(manager), _without(manager, ours)

    def on_llm_new_token(*args: Any, **kwargs: Any) -> None:
        if len(handlers) != count:
            function(alive(), *args, **kwargs)
        elif rest is not None:
            function(rest, *args, **kwargs)

    return on_llm_new_token


def _report_to_others_async(
    manager: Any, function: FunctionType, ours: type[BaseCallbackHandler]
) -> Callable[..., Any]:
    handlers, count, alive, rest = manager.handlers, len(manager.handlers), ref(manager), _without(manager, ours)

    async def on_llm_new_token(*args: Any, **kwargs: Any) -> None:
        if len(handlers) != count:
            await function(alive(), *args, **kwargs)
        elif rest is not None:
            await function(rest, *args, **kwargs)

    return on_llm_new_token


def _direct_end(manager: Any) -> Callable[..., Any]:
    handlers, count, alive = manager.handlers, len(manager.handlers), ref(manager)
    told = {"run_id": manager.run_id, "parent_run_id": manager.parent_run_id, "tags": manager.tags}

    async def on_llm_end(response: Any, **kwargs: Any) -> None:
        try:
            if len(handlers) == count:
                for handler in handlers:
                    handler.on_llm_end(response, **told, **kwargs)
                return
        except BaseException as problem:  # noqa: BLE001  the application's own passes
            _stop(problem, "on_llm_end")
        await _end(alive(), response, **kwargs)  # type: ignore[misc]  # it is a function (`_is_langchains`)

    return on_llm_end
