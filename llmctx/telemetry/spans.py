"""Spans of llmctx's own, made in the pipeline's thread from finished rows: `LLMCTX_OTEL_SPANS=on`.

Each has the start and the end of its call, and the span around the call as its parent. Where another instrumentation of
LangChain makes spans of the same calls there are none: two spans for one call would double every figure made of them.
"""

from __future__ import annotations

import sys
import weakref
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.guard import guard_harmless
from llmctx.core.record import CallRecord, Status
from llmctx.core.tracing import Span
from llmctx.settings import Settings
from llmctx.telemetry import names
from llmctx.telemetry.attributes import EndedCall, operation_of, span_attributes, user_shown
from llmctx.telemetry.content import message_attributes
from llmctx.telemetry.instrumentations import SCOPE, active_instrumentation, run_of, scope_name

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_watched: Final[weakref.WeakKeyDictionary[Any, _Watch]] = weakref.WeakKeyDictionary()
"""Provider of spans -> what looks out for other instrumentations there."""


class SpanEmitter:
    """Make the spans of one call log. Used by the pipeline's thread alone."""

    def __init__(self, settings: Settings) -> None:
        self._content = settings.otel_content
        self._shown = user_shown(settings)
        self._provider: Any = None
        self._tracer: Tracer | None = None
        self._watch: _Watch | None = None
        self.is_refused = False

    @guard_harmless("otel_failed")
    def emit(self, call: EndedCall, record: CallRecord) -> None:
        """Make the span of a call; its id becomes the row's."""
        tracer = self._find_tracer()
        if tracer is None or self._refuses():
            return
        from opentelemetry import trace

        context = _context(call.span)
        operation = operation_of(call)
        attributes = span_attributes(record, call, self._shown(record.user_id))
        if self._content in ("span", "both"):
            attributes |= message_attributes(record)
        started = _nanoseconds(record.created_at)
        span = tracer.start_span(
            f"{operation} {record.model}",
            context=context,
            kind=trace.SpanKind.CLIENT,
            attributes=attributes,
            start_time=started,
        )
        if record.status == Status.ERROR:
            span.set_status(trace.StatusCode.ERROR, record.error_code)
        own = span.get_span_context()
        if self._content in ("event", "both"):
            inside = trace.set_span_in_context(span, context)
            _emit_events(record, attributes, inside, adds_messages=self._content == "event")
        span.end(started if record.finished_at is None else _nanoseconds(record.finished_at))
        if own.is_valid and own.trace_flags & 1:
            call.span = Span(own.trace_id, own.span_id)
            record.span_id = call.span.span_id
            record.trace_id = record.trace_id or call.span.trace_id

    def _find_tracer(self) -> Tracer | None:
        """Return the tracer of the application's provider; None as long as it has set none."""
        try:
            from opentelemetry import trace
        except ImportError:
            diagnostics.count("otel_missing", 'LLMCTX_OTEL_SPANS is on, and needs one more package: "llmctx[otel]"')
            return None
        provider = trace.get_tracer_provider()
        if provider is not self._provider:
            self._provider = provider
            self._tracer = None if type(provider).__module__.startswith("opentelemetry.trace") else _tracer_of(provider)
            self._watch = None if self._tracer is None else _watch(provider)
        return self._tracer

    def _refuses(self) -> bool:
        if not self.is_refused:
            other = (self._watch.seen if self._watch is not None else None) or active_instrumentation()
            if other is not None:
                self.is_refused = True
                diagnostics.count(
                    "otel_refused",
                    "LLMCTX_OTEL_SPANS is on, but %s makes spans of the same calls: llmctx makes none. Add "
                    "LlmctxSpanProcessor for their users, or switch the other one off.",
                    other,
                )
        return self.is_refused


class _Watch:
    """A processor of spans that changes none: it notes who else makes spans of LangChain's model calls."""

    seen: str | None = None

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Note the instrumentation that starts `span`, if LangChain has just told it of a call."""
        if self.seen is None:
            self._look(span)

    @guard_harmless("otel_failed")
    def _look(self, span: Any) -> None:
        name = scope_name(span)
        if name != SCOPE and run_of(sys._getframe(2)) is not None:
            self.seen = name or "another instrumentation"

    def _on_ending(self, span: Any) -> None:
        """Do nothing, as the other methods that the SDK calls."""

    def on_end(self, span: Any) -> None:
        """Do nothing."""

    def shutdown(self) -> None:
        """Do nothing."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return True: nothing waits here."""
        return True


def _watch(provider: Any) -> _Watch | None:
    """Return what looks out for other instrumentations in the spans of `provider`, which is added to it once."""
    known = _watched.get(provider)
    if known is None and hasattr(provider, "add_span_processor"):
        known = _watched[provider] = _Watch()
        provider.add_span_processor(known)
    return known


def _tracer_of(provider: Any) -> Tracer:
    from llmctx import __version__

    tracer: Tracer = provider.get_tracer(SCOPE, __version__)
    return tracer


def _context(around: Span | None) -> Any:
    """Return the context of a span whose parent is `around`; without one it begins a trace."""
    from opentelemetry import trace
    from opentelemetry.context import Context

    if around is None:
        return Context()
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if around.sampled else trace.TraceFlags.DEFAULT)
    parent = trace.SpanContext(around.trace, around.span, is_remote=False, trace_flags=flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())


def _nanoseconds(moment: datetime) -> int:
    """Return nanoseconds since 1970, to the microsecond: a float has not that many digits."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


@guard_harmless("otel_failed")
def _emit_events(record: CallRecord, attributes: Any, context: Any, *, adds_messages: bool) -> None:
    """Tell what was said as log records, which go other ways than spans in many set-ups. Before 1.35 there are none."""
    from opentelemetry._logs import LogRecord, get_logger

    logger = get_logger(SCOPE)
    details = {**attributes, **message_attributes(record)} if adds_messages else attributes  # which has them
    logger.emit(LogRecord(event_name=names.DETAILS, attributes=details, context=context))
    if record.status == Status.ERROR and record.error_message:
        problem = {names.EXCEPTION_TYPE: record.error_code or "", names.EXCEPTION_MESSAGE: record.error_message}
        logger.emit(LogRecord(event_name=names.EXCEPTION, attributes=problem, context=context))
