"""A shipper's figures, as Prometheus reads them."""

from __future__ import annotations

import socket
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from llmctx.telemetry.shipper_metrics import SHIPPER, serve


def test_figures_are_served() -> None:
    """Each under the name that it is declared with."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    end = serve(port, lambda: {name: float(number) for number, name in enumerate(SHIPPER)})
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
    finally:
        end()
    read = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    assert read == {measure.name: float(number) for number, measure in enumerate(SHIPPER.values())}
