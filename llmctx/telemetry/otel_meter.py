"""Metrics in OpenTelemetry, where the application has a MeterProvider: those of its conventions, and llmctx's own.

Those of the conventions are left to another instrumentation of LangChain, where one is switched on.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from llmctx.core.record import CallRecord
from llmctx.telemetry import names
from llmctx.telemetry.attributes import EndedCall, error_type, operation_of, provider_name
from llmctx.telemetry.instrumentations import SCOPE, active_instrumentation
from llmctx.telemetry.metrics import Labels, Measure, Meter

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram

_OF_CONVENTIONS: Final = {
    names.DURATION: ("s", "Duration of GenAI client operation", names.SECONDS),
    names.TOKEN_USAGE: ("{token}", "Number of input and output tokens used by GenAI clients", names.TOKENS),
    names.FIRST_CHUNK: ("s", "Time to receive the first chunk", names.SECONDS),
}


def meter_provider() -> Any:
    """Return the application's MeterProvider; None as long as it has set none, or OpenTelemetry is not loaded."""
    metrics = sys.modules.get("opentelemetry.metrics")
    if metrics is None:
        return None
    get = metrics.get_meter_provider
    # it is asked for each call, and as long as none is set OpenTelemetry looks for a variable that is not there
    if getattr(get, "__globals__", {}).get("_METER_PROVIDER", get) is None and not _is_named():
        return None
    provider = get()
    return None if type(provider).__module__.startswith(("opentelemetry.metrics", "builtins")) else provider


@cache
def _is_named() -> bool:
    """Return whether the environment names a MeterProvider, which OpenTelemetry makes when it is asked for one."""
    return "OTEL_PYTHON_METER_PROVIDER" in os.environ


class OtelMeter(Meter):
    """Keeps metrics in a MeterProvider."""

    def __init__(self, provider: Any) -> None:
        super().__init__()
        from llmctx import __version__

        self._meter = provider.get_meter(SCOPE, __version__)
        self._labels = Labels()
        self._made: dict[str, Any] = {}
        self._own = {name: self._histogram(name, *about) for name, about in _OF_CONVENTIONS.items()}

    def _histogram(self, name: str, unit: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        made: Histogram = self._meter.create_histogram(
            name, unit=unit, description=text, explicit_bucket_boundaries_advisory=buckets
        )
        return made

    def add(self, measure: Measure, labels: tuple[str, ...], value: float) -> None:
        instrument = self._made.get(measure.name) or self._make(measure)
        attributes = dict(zip(measure.labels, labels, strict=True))
        if measure.kind == "histogram":
            instrument.record(value, attributes)
        else:
            instrument.add(value, attributes)

    def set(self, measure: Measure, labels: tuple[str, ...], value: float) -> None:
        instrument = self._made.get(measure.name) or self._make(measure)
        instrument.set(value, dict(zip(measure.labels, labels, strict=True)))

    def _make(self, measure: Measure) -> Any:
        name, unit, text = measure.otel_name, measure.unit, measure.text
        if measure.kind == "histogram":
            made: Any = self._histogram(name, unit, text, names.SECONDS)
        elif measure.kind == "counter":
            made = self._meter.create_counter(name, unit=unit, description=text)
        elif measure.worst:
            made = self._meter.create_gauge(name, unit=unit, description=text)
        else:
            made = self._meter.create_up_down_counter(name, unit=unit, description=text)
        return self._made.setdefault(measure.name, made)

    def add_call(self, call: EndedCall, record: CallRecord) -> None:
        if active_instrumentation() is not None:
            return
        about = {
            names.OPERATION: operation_of(call),
            names.PROVIDER: self._labels.bound("provider", provider_name(record)),
            names.REQUEST_MODEL: self._labels.bound("model", record.model),
            names.RESPONSE_MODEL: self._labels.bound("model", record.response_model),
        }
        about = {name: value for name, value in about.items() if value}
        if record.latency_ms is not None:
            problem = error_type(record)
            failed = {} if problem is None else {names.ERROR_TYPE: self._labels.bound("code", problem)}
            self._own[names.DURATION].record(record.latency_ms / 1000, {**about, **failed})
        for kind, count in (("input", record.prompt_tokens), ("output", record.completion_tokens)):
            if count is not None:
                self._own[names.TOKEN_USAGE].record(count, {**about, names.TOKEN_TYPE: kind})
        if record.streamed and record.ttft_ms is not None:
            self._own[names.FIRST_CHUNK].record(record.ttft_ms / 1000, about)
