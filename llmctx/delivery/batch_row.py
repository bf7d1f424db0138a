"""A record as a row of a batch: with its attributes as a database stores them, and about how much memory it holds."""

from __future__ import annotations

from typing import Final

from llmctx.core.record import SNAPSHOTS, CallRecord
from llmctx.delivery.destination import Row
from llmctx.storage.sanitize import storable_json

ROW_OVERHEAD: Final = 1024
"""Bytes that a record holds beside its texts."""


def row_of(record: CallRecord, packed: bytes | None = None) -> Row:
    """Return `record` as a row of a batch; `packed` is what `pack_record` made of it."""
    size = ROW_OVERHEAD if packed is None else ROW_OVERHEAD + len(packed)
    for name in (*SNAPSHOTS, "error_message"):
        text = getattr(record, name)
        if text is not None:
            size += len(text) * (1 if text.isascii() else 3)
    json = storable_json(record.attributes)
    return Row(record, json, size + len(json or ""), packed)
