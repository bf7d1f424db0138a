"""A real OTLP exporter sends the spans: a receiver gets one for each row, with its id and its parent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.telemetry import names
from tests.kit.support import Talker

CALLS = 200


class Receiver(BaseHTTPRequestHandler):
    """Takes what is sent by OTLP over HTTP."""

    spans: list[tuple[str, str, dict[str, str]]]

    def do_POST(self) -> None:
        request = ExportTraceServiceRequest()
        request.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    said = {one.key: one.value.string_value for one in span.attributes}
                    self.spans.append((scope.scope.name, span.span_id.hex(), said))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[type[Receiver]]:
    """An OTLP receiver."""

    class Own(Receiver):
        spans = []  # noqa: RUF012  each has its own

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Own.address = f"http://127.0.0.1:{server.server_port}/v1/traces"  # type: ignore[attr-defined]  # for the exporter
    yield Own
    server.shutdown()
    server.server_close()
    thread.join(30)


def test_a_receiver_gets_a_span_for_each_row(receiver: type[Receiver], monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the SDK's batches; of requests, only their own spans."""
    provider = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    exporter = OTLPSpanExporter(endpoint=receiver.address)  # type: ignore[attr-defined]  # see the fixture
    provider.add_span_processor(BatchSpanProcessor(exporter))
    sink = MemorySink()
    tracer = provider.get_tracer("app")
    with CallLog(sink=sink, otel_spans="on") as call_log:
        for number in range(CALLS // 10):
            with tracer.start_as_current_span("request"), bind(user_id=f"u{number}", session_id=f"s{number}"):
                for _ in range(10):
                    Talker().invoke("hello")
        assert call_log.flush(60) == 0
    provider.shutdown()
    got = {span_id: said for scope, span_id, said in receiver.spans if scope == "llmctx"}
    assert len(got) == len(sink.records) == CALLS
    for row in sink.records:
        said = got[str(row.span_id)]
        assert (said[names.CALL_ID], said[names.SESSION]) == (str(row.call_id), row.session_id)
        assert said[names.USER] != row.user_id
    assert sum(scope == "app" for scope, _, _ in receiver.spans) == CALLS // 10
