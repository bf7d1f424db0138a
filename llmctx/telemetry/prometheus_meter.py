"""Metrics in prometheus-client: those of one registry, which several call logs of a process share.

With `PROMETHEUS_MULTIPROC_DIR` the workers of a server keep them in files, and whichever is scraped adds them up.
So all of them are plain metrics: what is asked at the time of a scrape has no place there.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llmctx.telemetry.metrics import MEASURES, Measure, Meter
from llmctx.telemetry.names import SECONDS

_meters: Final[weakref.WeakKeyDictionary[CollectorRegistry, PrometheusMeter]] = weakref.WeakKeyDictionary()


def is_multiprocess() -> bool:
    """Return whether the workers of this process's server keep their metrics in files."""
    return shared_folder() is not None


def shared_folder() -> Path | None:
    """Return where they keep them; None where each keeps its own."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR", os.environ.get("prometheus_multiproc_dir"))  # noqa: SIM112
    return None if folder is None else Path(folder)


def meter_of(registry: CollectorRegistry) -> PrometheusMeter:
    """Return what keeps llmctx's metrics in `registry`; made at first need."""
    if (known := _meters.get(registry)) is None:
        known = _meters[registry] = PrometheusMeter(registry)
    return known


class PrometheusMeter(Meter):
    """Keeps metrics in a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self.is_of_process = not is_multiprocess()
        self.before_reading: list[Callable[[], object]] = []
        """Called when the registry is read, before its metrics are: brings the ledger up to date."""
        registry.register(_Reading(self.before_reading))  # first: in this order they are read
        self._made = {measure.name: _made(measure, registry) for measure in MEASURES}

    def add(self, measure: Measure, labels: tuple[str, ...], value: float) -> None:
        metric = self._made[measure.name]
        child = metric.labels(*labels) if labels else metric
        if measure.kind == "histogram":
            child.observe(value)
        else:
            child.inc(value)

    def set(self, measure: Measure, labels: tuple[str, ...], value: float) -> None:
        metric = self._made[measure.name]
        (metric.labels(*labels) if labels else metric).set(value)


class _Reading(Collector):
    """A collector without metrics of its own, which is told that the others are about to be read."""

    def __init__(self, tell: list[Callable[[], object]]) -> None:
        self._tell = tell

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        for tell in list(self._tell):
            tell()
        return []


def _made(measure: Measure, registry: CollectorRegistry) -> Any:
    if measure.kind == "histogram":
        return Histogram(measure.name, measure.text, measure.labels, registry=registry, buckets=SECONDS)
    if measure.kind == "counter":
        return Counter(measure.name.removesuffix("_total"), measure.text, measure.labels, registry=registry)
    mode: Any = "livemax" if measure.worst else "livesum"
    return Gauge(measure.name, measure.text, measure.labels, registry=registry, multiprocess_mode=mode)
