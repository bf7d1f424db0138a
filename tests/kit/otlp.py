"""An OTLP receiver: takes spans as the exporters of OpenTelemetry's SDK send them over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Received:
    """What has come."""

    def __init__(self) -> None:
        self.address = ""
        self.spans: list[tuple[str, str, dict[str, str]]] = []
        """The name of the instrumentation, the span's id, its attributes."""

    def of_llmctx(self) -> dict[str, dict[str, str]]:
        """Return llmctx's own spans, by id."""
        return {span_id: said for scope, span_id, said in list(self.spans) if scope == "llmctx"}


@contextmanager
def receiving() -> Iterator[Received]:
    """Receive until the block ends."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest()
            request.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        said = {one.key: one.value.string_value for one in span.attributes}
                        received.spans.append((scope.scope.name, span.span_id.hex(), said))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    received.address = f"http://127.0.0.1:{server.server_port}/v1/traces"
    yield received
    server.shutdown()
    server.server_close()
    thread.join(30)
