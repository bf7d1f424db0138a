"""A real OTLP exporter sends the spans: a receiver gets one for each row, with its id and its parent."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.telemetry import names
from tests.kit.otlp import receiving
from tests.kit.support import Talker

CALLS = 200


def test_a_receiver_gets_a_span_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the SDK's batches; of requests, only their own spans."""
    provider = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    sink = MemorySink()
    tracer = provider.get_tracer("app")
    with receiving() as received:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=received.address)))
        with CallLog(sink=sink, otel_spans="on") as call_log:
            for number in range(CALLS // 10):
                with tracer.start_as_current_span("request"), bind(user_id=f"u{number}", session_id=f"s{number}"):
                    for _ in range(10):
                        Talker().invoke("hello")
            assert call_log.flush(60) == 0
        provider.shutdown()
    got = received.of_llmctx()
    assert len(got) == len(sink.records) == CALLS
    for row in sink.records:
        said = got[str(row.span_id)]
        assert (said[names.CALL_ID], said[names.SESSION]) == (str(row.call_id), row.session_id)
        assert said[names.USER] != row.user_id
    assert sum(scope == "app" for scope, _, _ in received.spans) == CALLS // 10
