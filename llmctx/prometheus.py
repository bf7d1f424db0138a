"""Prometheus: `app.mount("/metrics", metrics_app(call_log))`, or `CallLog(prometheus=registry)` beside your own.

Needs `pip install "llmctx[prometheus]"`. With several workers set `PROMETHEUS_MULTIPROC_DIR`, as prometheus-client asks
for: whichever worker is scraped answers for all. `ASSETS` has alert rules, and dashboards for Grafana.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, make_asgi_app
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from llmctx.calllog import CallLog
from llmctx.core.errors import ConfigError
from llmctx.telemetry.prometheus_meter import is_multiprocess

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["ASSETS", "metrics_app"]

ASSETS: Final = Path(__file__).parent / "telemetry/assets"
"""The directory of `prometheus/alerts.yml` and `grafana/llmctx-….json`."""


def metrics_app(call_log: CallLog, *, registry: CollectorRegistry | None = None) -> ASGIApp:
    """Return an ASGI application that answers with the metrics of `call_log`.

    Args:
        call_log: may be started before or afterwards.
        registry: where else the metrics are to be, such as `prometheus_client.REGISTRY`, whose others are then served
            as well; by default a registry of their own.
    """
    if not isinstance(call_log, CallLog):
        raise ConfigError(f"metrics_app() takes a CallLog, not {type(call_log).__name__}.")
    registry = CollectorRegistry() if registry is None else registry
    call_log.observer.add_registry(registry)
    served = registry
    if is_multiprocess():
        served = CollectorRegistry()
        _Workers(served)  # type: ignore[no-untyped-call]  # it has no types
    app: ASGIApp = make_asgi_app(served)
    return app


class _Workers(MultiProcessCollector):
    """Adds up what the workers have counted; the gauges of those that were killed are forgotten first."""

    def collect(self) -> Any:
        for file in Path(self._path).glob("gauge_live*_*.db"):
            pid = file.stem.rpartition("_")[2]
            if pid.isdecimal():
                try:
                    os.kill(int(pid), 0)
                except ProcessLookupError:
                    mark_process_dead(pid, self._path)  # type: ignore[no-untyped-call]  # as above
                except (OSError, OverflowError):  # it lives, and is another user's
                    continue
        return super().collect()  # type: ignore[no-untyped-call]  # as above
