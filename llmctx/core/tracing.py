"""The span of OpenTelemetry that the code runs in, where the application has loaded it: a link from rows to traces.

OpenTelemetry is never imported here. The span is the one around a call: instrumentations of LangChain attach none of
their own for it.
"""

from __future__ import annotations

import sys
from typing import NamedTuple


class Span(NamedTuple):
    """The ids of a span, as numbers."""

    trace: int
    span: int

    @property
    def trace_id(self) -> str:
        """Return 32 hex digits."""
        return f"{self.trace:032x}"

    @property
    def span_id(self) -> str:
        """Return 16 hex digits."""
        return f"{self.span:016x}"


def current_span() -> Span | None:
    """Return the span that the caller runs in; None outside of any, and where OpenTelemetry is not loaded."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    return Span(context.trace_id, context.span_id) if context.is_valid else None
