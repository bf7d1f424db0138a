"""A provider on the wire that answers what a test says: bodies of JSON, and streams with pauses between events."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Wire:
    """`url`, and what is answered to each request: a body, or a stream's events, where a number is a pause."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.body: Any = None
        self.events: Sequence[Any] = ()
        self.status = 200
        self.headers: dict[str, str] = {}


@contextmanager
def wired() -> Iterator[Wire]:
    class Provider(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
            is_stream = bool(sent.get("stream")) or "stream" in self.path
            self.send_response(wire.status)
            self.send_header("content-type", "text/event-stream" if is_stream else "application/json")
            for name, value in wire.headers.items():
                self.send_header(name, value)
            body = b"" if is_stream else json.dumps(wire.body).encode()
            if not is_stream:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            for event in wire.events if is_stream else ():
                if isinstance(event, float):
                    time.sleep(event)
                    continue
                name = f"event: {event['type']}\n" if isinstance(event, dict) and "type" in event else ""
                data = event if isinstance(event, str) else json.dumps(event)
                self.wfile.write(f"{name}data: {data}\n\n".encode())
                self.wfile.flush()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.daemon_threads = True
    wire = Wire(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield wire
    finally:
        server.shutdown()
        server.server_close()
