"""A ClickHouse to try `clickhouse.py` with, from PyPI alone (`pip install chdb`): the real engine behind its HTTP port.

    python server.py 8123 /tmp/clickhouse

One query at a time, no users, no replication: for trying, and for nothing else.
"""

from __future__ import annotations

import gzip
import re
import sys
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import lz4.frame
import zstandard
from chdb import session

UNPACK: Final[dict[str, Callable[[bytes], bytes]]] = {
    "": bytes, "gzip": gzip.decompress, "lz4": lz4.frame.decompress, "zstd": zstandard.ZstdDecompressor().decompress,
}  # fmt: skip
LOCK: Final = threading.Lock()
FORMAT: Final = re.compile(r"\s+FORMAT\s+(\w+)\s*\Z", re.IGNORECASE)
INSERT: Final = re.compile(rb"\s*INSERT\s+INTO\s+(\S+)\s*\(([^)]*)\)\s*FORMAT\s+Native", re.IGNORECASE)


class Handler(BaseHTTPRequestHandler):
    """Queries stand in the URL, in the body, or in both: then the body has the rows of an INSERT."""

    protocol_version = "HTTP/1.1"
    engine: session.Session

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(UNPACK[self.headers.get("Content-Encoding", "")](body))

    def _answer(self, body: bytes) -> None:
        query = dict(parse_qsl(urlsplit(self.path).query)).get("query", "")
        if self.path == "/ping":
            self._send(200, b"Ok.\n")
            return
        try:
            with LOCK:
                answer = self._insert(query, body) if INSERT.match(query.encode() + body) else self._ask(query, body)
        except Exception as problem:  # noqa: BLE001  it is the client's
            code = re.search(r"Code: (\d+)", str(problem))
            self._send(500, str(problem).encode(), code[1] if code else "0")
        else:
            self._send(200, answer)

    def _ask(self, query: str, body: bytes) -> bytes:
        text = f"{query}{body.decode()}".strip().rstrip(";")
        found = FORMAT.search(text)
        return bytes(self.engine.query(text[: found.start()] if found else text, found[1] if found else "TSV").bytes())

    def _insert(self, query: str, body: bytes) -> bytes:
        head, _, rows = (query.encode() + b"\n" + body if query else body).partition(b"\n")
        found = INSERT.match(head + b"\n")
        assert found is not None, head
        with tempfile.NamedTemporaryFile() as file:  # the engine takes no rows with a query
            file.write(rows)
            file.flush()
            columns = found[2].decode()
            self.engine.query(
                f"INSERT INTO {found[1].decode()} ({columns}) SELECT {columns} FROM file('{file.name}', Native)"
            )
        return b""

    def _send(self, status: int, body: bytes, code: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-ClickHouse-Exception-Code", code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request."""


if __name__ == "__main__":
    Handler.engine = session.Session(sys.argv[2])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
