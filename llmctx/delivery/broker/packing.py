"""Rows into frames that the broker takes: a row that is too large for a message has its texts cut, and is not lost.

Chunks of a row in several messages would have to meet in one shipper, and a row that stays behind would need a
connection to the database that an application with a broker does not have. With the settings' defaults no row comes
near the limit: it takes texts of several hundred kilobytes, after compression.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import orjson

from llmctx.capture.payload.snapshot import snapshot
from llmctx.core.diagnostics import diagnostics
from llmctx.core.record import SNAPSHOTS, CallRecord, without_snapshots
from llmctx.delivery.broker.frame import LARGEST, encode, split
from llmctx.delivery.destination import Row
from llmctx.delivery.journal import pack_record
from llmctx.delivery.journal.frames import ID_BYTES
from llmctx.storage.sanitize import shorten

_SHARES: Final = (2, 8, 32)
_LEAST: Final = 1024


class RowTooLarge(ValueError):
    """Raised for a row that no message holds, even without its texts."""


def pack(rows: Sequence[Row], limit: int) -> Iterator[tuple[tuple[bytes, ...], bytes]]:
    """Yield frames of `rows`, in order: their call ids, and at most `limit` bytes. Raise `RowTooLarge`."""
    payloads = [pack_record(row.record) if row.packed is None else row.packed for row in rows]
    at = 0
    for count in split(map(len, payloads)):
        yield from _fitting(rows[at : at + count], payloads[at : at + count], limit)
        at += count


def _fitting(rows: Sequence[Row], payloads: Sequence[bytes], limit: int) -> Iterator[tuple[tuple[bytes, ...], bytes]]:
    data = _encode(payloads)
    if len(rows) > 1 and (data is None or len(data) > limit):
        half = len(rows) // 2
        yield from _fitting(rows[:half], payloads[:half], limit)
        yield from _fitting(rows[half:], payloads[half:], limit)
    else:
        if data is None or len(data) > limit:
            data = _cut(rows[0].record, limit)
        # not of the records, which would have to be fetched into the processor's cache for that alone
        yield tuple([payload[:ID_BYTES] for payload in payloads]), data


def _encode(payloads: Sequence[bytes]) -> bytes | None:
    """Return a frame; None if no reader would take it."""
    if sum(map(len, payloads)) > LARGEST // 2:
        return None
    return encode(payloads)


def _cut(record: CallRecord, limit: int) -> bytes:
    """Return a frame of `record` with so much of its texts as there is room for."""
    diagnostics.count("snapshots_cut", "a row is larger than the broker takes (%d bytes): its texts are cut", limit)
    for share in _SHARES:
        short = replace(record)
        for name in (*SNAPSHOTS, "error_message"):
            text = getattr(short, name)
            if text is not None:
                setattr(short, name, _shortened(text, max(_LEAST, limit // share)))
        if len(data := _encode([pack_record(short)]) or b"") and len(data) <= limit:
            return data
    bare = replace(record, error_message=None)
    without_snapshots(bare, "it was larger than the broker takes")
    data = _encode([pack_record(bare)]) or b""
    if not data or len(data) > limit:
        raise RowTooLarge(f"a row of more than {limit} bytes without its texts")
    return data


def _shortened(text: str, limit: int) -> str:
    """Return `text` in at most `limit` bytes or so; what is JSON stays JSON."""
    if len(text) <= limit // 4:
        return text
    try:
        return snapshot(orjson.loads(text), limit)
    except orjson.JSONDecodeError:
        return shorten(text, limit // 4)
