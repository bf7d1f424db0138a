"""OpenTelemetry: `LlmctxSpanProcessor` puts whose a call is on the spans of whichever instrumentation makes them.

    provider.add_span_processor(LlmctxSpanProcessor(call_log))

Needs `pip install "llmctx[otel]"`. Spans of llmctx's own, and its metrics, are settings: `LLMCTX_OTEL_SPANS`,
`LLMCTX_OTEL_METRICS`. Rows are linked with the spans around their calls without any of this.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID
from weakref import WeakValueDictionary

from llmctx.capture.open_calls import OpenCall
from llmctx.capture.recorder import active, on_start
from llmctx.core.guard import guard_harmless
from llmctx.core.record import CallRecord
from llmctx.core.steps import remove
from llmctx.delivery.agent_name import agent_name
from llmctx.identity.candidates import gather
from llmctx.identity.resolution import decide
from llmctx.settings import load
from llmctx.telemetry import names, observer
from llmctx.telemetry.attributes import Attributes, people_attributes, user_shown
from llmctx.telemetry.instrumentations import SCOPE, is_about_models, run_of, scope_name

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from llmctx.calllog import CallLog
else:
    try:
        from opentelemetry.sdk.trace import SpanProcessor
    except ImportError:  # processors of spans are the SDK's; without it this can still be imported
        SpanProcessor = object

__all__ = ["LlmctxSpanProcessor"]

_MOST: Final = 10_000


class LlmctxSpanProcessor(SpanProcessor):
    """Puts user, session, conversation, agent and call onto every span about a model or an agent, where it lacks them.

    Whose a span is follows from the same sources as a row does. The user is hashed unless `LLMCTX_OTEL_USER` says
    otherwise; `llmctx.call.id` is the row's. What an instrumentation has set itself is left as it is.

    Args:
        call_log: whose settings count; without one, those of the environment.
    """

    def __init__(self, call_log: CallLog | None = None) -> None:
        self._shown = user_shown(load() if call_log is None else call_log.settings)
        self._calls: WeakValueDictionary[object, OpenCall] = WeakValueDictionary()
        """Run -> its call, until there is a row of it."""
        self._awaited: OrderedDict[int, list[tuple[Any, frozenset[str]]]] = OrderedDict()
        """Run -> spans that were started before its call, and the attributes that we have put onto them."""
        self._recent: OrderedDict[int, _Row] = OrderedDict()
        """Run -> its row: some instrumentations make their spans later."""
        on_start.append(self._started)
        observer.on_record.append(self._remember)

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Put the attributes onto a span about a model: known by its scope, its attributes, or what starts it."""
        self._begin(span)

    def on_end(self, span: Any) -> None:
        """Do nothing: an ended span cannot be changed."""

    def shutdown(self) -> None:
        """Forget the calls that have ended."""
        remove(on_start, self._started)
        remove(observer.on_record, self._remember)
        self._recent.clear()
        self._awaited.clear()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return True: nothing waits here."""
        return True

    @guard_harmless("otel_failed")
    def _begin(self, span: Any) -> None:
        if not span.is_recording() or scope_name(span) == SCOPE:
            return
        run_id = run_of(sys._getframe(2))
        if run_id is None:
            if is_about_models(span):
                _put(span, self._of_here())
            return
        call = self._calls.get(run_id.int)
        if call is not None:
            _put(span, self._of_call(call))
        elif (row := self._recent.get(run_id.int)) is not None:
            _put(span, {**people_attributes(row, self._shown(row.user_id)), names.CALL_ID: str(row.call_id)})
        else:  # our handler comes after theirs
            self._awaited.setdefault(run_id.int, []).append((span, _put(span, self._of_here())))
            if len(self._awaited) > _MOST:
                self._awaited.popitem(last=False)

    @guard_harmless("otel_failed")
    def _started(self, call: OpenCall) -> None:
        self._calls[call.key] = call
        for span, ours in self._awaited.pop(call.key, ()) if self._awaited else ():  # type: ignore[call-overload]  # a number, or not there
            if span.is_recording():
                _put(span, self._of_call(call), ours)

    def _of_here(self) -> Attributes:
        """Return whose the code is that runs, as a call would be attributed that it made."""
        recorder = active[-1] if active else None
        if recorder is None:
            return {}
        identity = decide(gather(None), recorder.registry, late_s=recorder.late_s).identity
        return people_attributes(identity, self._shown(identity.user_id))

    def _of_call(self, call: OpenCall) -> Attributes:
        identity = call.attribution.identity
        agent = identity.agent_key or agent_name(call.metadata or {}, call.scope)
        attributes = people_attributes(identity, self._shown(identity.user_id), agent=agent)
        return {**attributes, names.CALL_ID: str(UUID(int=call.call_id.int))}

    def _remember(self, record: CallRecord) -> None:
        if record.run_id is not None:
            self._recent[record.run_id.int] = _Row(
                record.call_id, record.session_id, record.user_id, record.conversation_id, record.agent_key
            )
            if len(self._recent) > _MOST:
                self._recent.popitem(last=False)


class _Row(NamedTuple):
    """The part of a row that is kept."""

    call_id: UUID
    session_id: str | None
    user_id: str | None
    conversation_id: str | None
    agent_key: str | None


def _put(span: Any, attributes: Attributes, ours: frozenset[str] = frozenset()) -> frozenset[str]:
    """Set the attributes that the span lacks, and those that are `ours`. Return which were set."""
    present = span.attributes or {}
    new = {name: value for name, value in attributes.items() if name not in present or name in ours}
    for name, value in new.items():
        span.set_attribute(name, value)
    return frozenset(new)
