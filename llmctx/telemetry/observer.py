"""The observer of one call log: it tells the tools around of each finished call, each batch, and the ledger.

Nothing here runs in a thread of the application, save when that reads metrics. Where nothing is asked for, it costs
the pipeline two look-ups a call.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from llmctx.core.arguments import check_methods
from llmctx.core.diagnostics import diagnostics
from llmctx.core.guard import guard_harmless
from llmctx.core.locks import ForkGate
from llmctx.core.record import CallRecord
from llmctx.settings import Settings
from llmctx.telemetry.attributes import EndedCall
from llmctx.telemetry.metrics import BUILD, INCIDENTS, LEDGER, WRITE, Labels, Meter, count_call

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from llmctx.telemetry.spans import SpanEmitter

on_record: Final[list[Callable[[CallRecord], object]]] = []
"""Called with each row of this process that is made: what enriches spans that come later than their calls."""


class Observer:
    """The observer of one call log.

    Args:
        settings: of the call log.
        ledger: returns the figures of `measures.LEDGER`.
    """

    def __init__(self, settings: Settings, ledger: Callable[[], Mapping[str, float]]) -> None:
        self._settings = settings
        self._ledger = ledger
        self._meters: dict[Meter, dict[str, float]] = {}
        """Each with the figures that it shows."""
        self._otel: tuple[Any, Meter | None] = (None, None)
        """The application's MeterProvider, and what keeps metrics in it."""
        self._labels = Labels()
        self._lock = threading.Lock()
        self._fork_gate = ForkGate()  # a child would wait for ever for a lock of a meter
        self._emitter: SpanEmitter | None = None
        self._wants_spans = settings.otel_spans == "on"

    # -- prometheus -----------------------------------------------------------------------------------------------

    def add_registry(self, registry: CollectorRegistry) -> None:
        """Keep metrics in a registry of prometheus-client as well."""
        from llmctx.telemetry.prometheus_meter import meter_of, shared_folder

        check_methods("registry", registry, "register", "collect")
        meter, folder = meter_of(registry), shared_folder()
        if folder is not None:
            self._labels = Labels(folder / "llmctx.labels")
        if meter not in self._meters:
            self._add(meter)
            meter.before_reading.append(self.refresh)

    def _add(self, meter: Meter) -> None:
        from llmctx import __version__

        meter.set(BUILD, (__version__, self._settings.durability, self._settings.content), 1)
        with self._lock:
            self._meters = {**self._meters, meter: {}}

    # -- from the pipeline ----------------------------------------------------------------------------------------

    @guard_harmless("telemetry_failed")
    def observe(self, call: EndedCall, record: CallRecord) -> None:
        """Tell of a call whose row has just been made. A row that has to be made again is not told of again."""
        if call.is_observed:
            return
        call.is_observed = True
        for tell in on_record:
            tell(record)
        if self._wants_spans:
            if self._emitter is None:
                from llmctx.telemetry.spans import SpanEmitter

                self._emitter = SpanEmitter(self._settings)
            self._emitter.emit(call, record)
        if "opentelemetry.metrics" in sys.modules and self._settings.otel_metrics == "on":
            self._find_provider()
        for meter in self._meters:
            count_call(meter, record, self._labels)
            meter.add_call(call, record)

    @guard_harmless("telemetry_failed")
    def observe_write(self, seconds: float) -> None:
        """Tell how long a batch took to be stored."""
        if self._meters:
            with self._fork_gate:
                for meter in self._meters:
                    meter.add(WRITE, (), seconds)

    def _find_provider(self) -> None:
        from llmctx.telemetry.otel_meter import OtelMeter, meter_provider

        provider = meter_provider()
        if provider is not self._otel[0]:
            with self._lock:
                self._meters = {meter: shown for meter, shown in self._meters.items() if meter is not self._otel[1]}
            made = None if provider is None else OtelMeter(provider)
            self._otel = provider, made
            if made is not None:
                self._add(made)

    @guard_harmless("telemetry_failed")
    def refresh(self) -> None:
        """Bring the figures of the ledger up to date."""
        if not self._meters:
            return
        with self._fork_gate, self._lock:
            figures, incidents = self._ledger(), diagnostics.by_cause()
            for meter, shown in self._meters.items():
                _show(meter, figures, shown)
                for cause, count in incidents.items():
                    if new := count - meter.incidents.get(cause, 0):
                        meter.incidents[cause] = count
                        meter.add(INCIDENTS, (cause,), max(new, 0))

    def after_fork_in_child(self) -> None:
        """Begin anew in a forked child, where another thread of the parent's may have held the lock."""
        self._lock, self._fork_gate = threading.Lock(), ForkGate()
        for meter, shown in self._meters.items():
            if not meter.is_of_process:
                shown.clear()
                meter.incidents.update(diagnostics.by_cause())


def _show(meter: Meter, figures: Mapping[str, float], shown: dict[str, float]) -> None:
    """Let `meter` say what `figures` say, by adding what has changed: it may say so of several call logs."""
    for name, measure in LEDGER.items():
        value = figures.get(name, 0.0)
        if measure.worst:
            meter.set(measure, (), value)
            continue
        change = value - shown.get(name, 0.0)
        if change < 0 and measure.kind == "counter":  # begun anew
            change = value
        if change:
            meter.add(measure, (), change)
        shown[name] = value
