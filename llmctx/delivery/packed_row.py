"""Packed records as rows of a batch: checked once, and cleaned only where that is needed.

A reader believes nothing. But what llmctx packed was clean, and to see that it still is takes a fraction of the time in
which it would be taken apart and cleaned again. Whatever is not exactly as `pack_record` writes a clean record of this
version goes the long way, through `unpack_record` and `clean`, to which this is equal in all that it returns.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import orjson

from llmctx.core.record import COLUMNS, IDS, SPECS, CallRecord, ColumnKind, of_kind
from llmctx.delivery.batcher import ROW_OVERHEAD, weigh
from llmctx.delivery.destination import Row
from llmctx.delivery.journal.frames import ID_BYTES, unpack_record
from llmctx.storage.sanitize import ATTRIBUTES_LIMIT, clean, is_int4, is_plain, is_price

_NUL: Final = b"\\u0000"
"""JSON has no other word for it. Lone surrogates, NaN and infinity are no JSON."""
_JSON_TYPES: Final = {
    ColumnKind.COUNT: int, ColumnKind.NUMBER: float, ColumnKind.FLAG: bool, ColumnKind.JSON: dict,
}  # fmt: skip
_LIMITED: Final = (ColumnKind.TEXT, ColumnKind.SNAPSHOT, ColumnKind.ID)
_RULES: Final[dict[str, tuple[Any, int | None]]] = {
    spec.name: (_JSON_TYPES.get(spec.kind, str), spec.limit if spec.kind in _LIMITED else None) for spec in SPECS
}
"""Of a column: the type of its values in JSON, and how long they may be."""
_COUNTS: Final = of_kind(ColumnKind.COUNT)
_TIMES: Final = of_kind(ColumnKind.TIME)
_UUIDS: Final = of_kind(ColumnKind.UUID)
_MONEY: Final = of_kind(ColumnKind.MONEY)
_OTHER_JSON: Final = tuple(name for name in of_kind(ColumnKind.JSON) if name != "attributes")


def read_row(payload: bytes) -> Row:
    """Return the row of what `pack_record` packed, as a database takes it. Raise ValueError for what is no record."""
    try:
        row = _clean_row(payload)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        row = None
    return weigh(clean(unpack_record(payload))) if row is None else row


def _clean_row(payload: bytes) -> Row | None:
    """Return the row of a record that needs no cleaning. Return None, or raise, for any other."""
    if _NUL in payload:
        return None
    packed = orjson.loads(memoryview(payload)[ID_BYTES:])
    # with the names that the class has: to compare others with them takes longer than all else
    columns = {name: value for name in COLUMNS if (value := packed.get(name)) is not None}
    if not _is_clean(columns) or not _read(columns):
        return None
    record = CallRecord(**columns)
    if record.call_id.bytes != payload[:ID_BYTES] or not record.model:
        return None
    attributes = record.attributes
    json = orjson.dumps(attributes).decode() if attributes else None
    if json is not None and len(json) > ATTRIBUTES_LIMIT:
        return None
    return Row(record, json, ROW_OVERHEAD + len(payload))


def _is_clean(columns: dict[str, Any]) -> bool:
    """Return whether values are those of a clean record, as far as JSON has words for them."""
    for name, value in columns.items():
        kind, limit = _RULES[name]
        if type(value) is not kind or (limit is not None and len(value) > limit):
            return False
    for name in IDS:  # one that was cut is noted
        if name in columns and columns[name][-17:-16] == "~":
            return False
    for name in _COUNTS:
        if name in columns and not is_int4(columns[name]):
            return False
    for name in _OTHER_JSON:
        if name in columns:
            return False
    return is_plain(columns.get("attributes"))


def _read(columns: dict[str, Any]) -> bool:
    """Read values for which JSON has no words, in place. Return False for one that needs cleaning."""
    for name in _TIMES:
        if name in columns:
            columns[name] = at = datetime.fromisoformat(columns[name])
            if at.tzinfo is not UTC:
                return False
    for name in _UUIDS:
        if name in columns:
            columns[name] = _uuid(columns[name])
    for name in _MONEY:
        if name in columns:
            columns[name] = price = Decimal(columns[name])
            if not is_price(price):
                return False
    return True


def _uuid(text: str) -> UUID:
    digits = text.replace("-", "")
    if len(digits) != 2 * ID_BYTES:
        raise ValueError("not as ids are written")
    return UUID(int=int(digits, 16))
