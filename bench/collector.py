"""Where the recorders of others send to: takes everything over HTTP, and counts the LLM calls in it when it is asked.

The first segment of a path says whose it is. Bodies are kept as they come: they are read outside of any round.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

_Body = tuple[dict[str, str], bytes]
_received: Final[defaultdict[str, list[_Body]]] = defaultdict(list)
_LLM_SPAN: Final = re.compile(r"InstantModel|\.chat$|^chat ", re.IGNORECASE)
_LANGSMITH_PART: Final = re.compile(rb'name="(?:post|patch)\.([0-9a-f-]{36})"')
_INFO: Final = json.dumps(
    {
        "version": "0.13.0",
        "instance_flags": {"zstd_compression_enabled": True},
        "batch_ingest_config": {
            "use_multipart_endpoint": True, "scale_up_qsize_trigger": 1000, "scale_up_nthreads_limit": 16,
            "scale_down_nempty_trigger": 4, "size_limit": 100, "size_limit_bytes": 20 * 1024 * 1024,
        },
    }
).encode()  # fmt: skip
"""LangSmith's client asks what its server can do."""


def count(name: str) -> int:
    """Return how many complete LLM calls have come from a recorder since it was asked last."""
    spans, begun, ended = 0, set[bytes](), set[bytes]()
    for headers, body in _received.pop(name, ()):
        kind, whole = headers.get("content-type", ""), _inflated(headers, body)
        if "x-protobuf" in kind:
            spans += sum(_LLM_SPAN.search(span) is not None for span in _span_names(whole))
        elif "multipart" in kind:
            parts = list(_LANGSMITH_PART.finditer(whole))
            for number, part in enumerate(parts):
                text = whole[part.end() : parts[number + 1].start() if number + 1 < len(parts) else None]
                if b'"run_type":"llm"' in text:
                    begun.add(part[1])
                if b'"end_time":"' in text:
                    ended.add(part[1])
    return spans + len(begun & ended)


def _inflated(headers: dict[str, str], body: bytes) -> bytes:
    encoding = headers.get("content-encoding", "")
    if encoding == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    return {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(encoding, bytes)(body)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a protobuf message: their number, and their bytes or integer."""

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    at = 0
    while at < len(message):
        key = varint()
        length = {1: 8, 5: 4}.get(key & 7)
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        length = varint() if length is None else length
        yield key >> 3, message[at : at + length]
        at += length


def _span_names(request: bytes) -> Iterator[str]:
    """Yield the names of the spans in an `ExportTraceServiceRequest`."""
    parts = [request]
    for wanted in (1, 2, 2):  # resource_spans, scope_spans, spans
        parts = [value for part in parts for number, value in _fields(part) if number == wanted]
    for span in parts:
        yield from (value.decode(errors="replace") for number, value in _fields(span) if number == 5)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            method, target, _ = line.decode().split(" ", 2)
            headers = await _headers(reader)
            if headers.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await _body(reader, headers)
            kind, answer = headers.get("content-type", "application/json"), b"{}"
            _, whose, *rest = target.split("/")
            if whose == "__count":
                answer = b"%d" % count(rest[0])
            elif target.partition("?")[0].endswith("/info"):
                answer = _INFO
            elif method != "GET":
                _received[whose].append((headers, body))
                answer = b"" if "x-protobuf" in kind else answer
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(answer)}\r\n\r\n"
            writer.write(head.encode() + answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _headers(reader: asyncio.StreamReader) -> dict[str, str]:
    headers = {}
    while line := (await reader.readline()).decode().strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return headers


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", 0)))
    parts = []
    while size := int((await reader.readline()).partition(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    await reader.readline()
    return b"".join(parts)


async def main() -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
