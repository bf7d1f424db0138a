"""The span of OpenTelemetry that the code runs in, where the application has loaded it: a link from rows to traces.

OpenTelemetry is never imported here. The span is the one around a call: instrumentations of LangChain attach none of
their own for it. It travels to other processes as W3C's `traceparent`.
"""

from __future__ import annotations

import sys
from typing import NamedTuple


class Span(NamedTuple):
    """The ids of a span, as numbers, and whether its trace is recorded."""

    trace: int
    span: int
    sampled: bool = True

    @property
    def trace_id(self) -> str:
        """Return 32 hex digits."""
        return f"{self.trace:032x}"

    @property
    def span_id(self) -> str:
        """Return 16 hex digits."""
        return f"{self.span:016x}"

    @property
    def traceparent(self) -> str:
        """Return it as W3C's header of that name."""
        return f"00-{self.trace_id}-{self.span_id}-{self.sampled:02x}"


def current_span() -> Span | None:
    """Return the span that the caller runs in; None outside of any, and where OpenTelemetry is not loaded."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return Span(context.trace_id, context.span_id, bool(context.trace_flags & 1))


def span_of(traceparent: object) -> Span | None:
    """Return the span that a `traceparent` names; None for what is none."""
    parts = traceparent.split("-") if isinstance(traceparent, str) else []
    if [len(part) for part in parts[:4]] != [2, 32, 16, 2] or not traceparent.isascii():  # type: ignore[attr-defined]  # a text: it was split
        return None
    try:
        trace, span, flags = (int(part, 16) for part in parts[1:4])
    except ValueError:
        return None
    return Span(trace, span, bool(flags & 1)) if trace and span else None
