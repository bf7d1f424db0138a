"""The metrics of `llmctx ship`, served on a port of its own: what it has stored, and how far the broker is behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llmctx.telemetry.metrics import LEDGER, Measure

SHIPPER: Final = {
    "written": LEDGER["written"],
    "refused": LEDGER["quarantined"],
    "frames": Measure("llmctx_broker_frames_total", "counter", "Frames that this shipper has acknowledged."),
    "again": Measure("llmctx_broker_frames_again_total", "counter", "Frames that another shipper had had before."),
    "held": Measure("llmctx_broker_frames_held", "gauge", "Frames that this shipper has and has not acknowledged."),
    "waiting": Measure("llmctx_broker_frames_waiting", "gauge", "Frames that no shipper has.", worst=True),
    "in_hand": Measure("llmctx_broker_frames_in_hand", "gauge", "Frames that a shipper has.", worst=True),
    "set_aside": Measure("llmctx_broker_set_aside", "gauge", "Messages that are set aside.", worst=True),
    "oldest_s": Measure("llmctx_broker_oldest_seconds", "gauge", "Age of the oldest frame.", worst=True),
    "bytes": Measure("llmctx_broker_bytes", "gauge", "Bytes of frames that are not acknowledged.", worst=True),
}
"""Figure of a shipper -> its metric. The last five are of the broker, and the same of every shipper."""


@dataclass(frozen=True, slots=True)
class _Figures(Collector):
    figures: Callable[[], Mapping[str, float]]

    def collect(self) -> Iterator[Metric]:
        for name, value in self.figures().items():
            measure = SHIPPER[name]
            kind = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
            yield kind(measure.name, measure.text, value=value)


def serve(port: int, figures: Callable[[], Mapping[str, float]]) -> Callable[[], None]:
    """Serve `figures` at every address of this host, from a thread; return what ends that. Raise OSError."""
    registry = CollectorRegistry()
    registry.register(_Figures(figures))
    server, thread = start_http_server(port, registry=registry)

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end
