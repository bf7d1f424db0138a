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

from llmctx.core.columns import ColumnKind
from llmctx.core.record import SPECS, CallRecord, of_kind
from llmctx.delivery.batch_row import ROW_OVERHEAD, row_of
from llmctx.delivery.destination import Row
from llmctx.delivery.journal.frames import ID_BYTES, unpack_record
from llmctx.storage.sanitize import ATTRIBUTES_LIMIT, clean, is_int4, is_plain, is_price

_TEXTS: Final = tuple((spec.name, spec.limit) for spec in SPECS if spec.kind in (ColumnKind.TEXT, ColumnKind.SNAPSHOT))
_IDS: Final = tuple((spec.name, spec.limit) for spec in SPECS if spec.kind is ColumnKind.ID)
_COUNTS: Final = of_kind(ColumnKind.COUNT)
_TIMES: Final = of_kind(ColumnKind.TIME)
_UUIDS: Final = of_kind(ColumnKind.UUID)
_MONEY: Final = of_kind(ColumnKind.MONEY)
_TYPES: Final = tuple(
    (name, kind)
    for names, kind in (
        (_COUNTS, int), (of_kind(ColumnKind.NUMBER), float), (of_kind(ColumnKind.FLAG), bool),
        (_TIMES + _UUIDS + _MONEY, str), (("attributes",), dict),
    )
    for name in names
)  # fmt: skip
"""Columns that are no texts, with the type of their values in JSON."""
_OTHER_JSON: Final = tuple(name for name in of_kind(ColumnKind.JSON) if name != "attributes")


def read_row(payload: bytes) -> Row:
    """Return the row of what `pack_record` packed, as a database takes it. Raise ValueError for what is no record."""
    try:
        row = _clean_row(payload)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        row = None
    return row_of(clean(unpack_record(payload))) if row is None else row


def _clean_row(payload: bytes) -> Row | None:
    """Return the row of a record that needs no cleaning. Return None, or raise, for any other."""
    columns = _clean_columns(orjson.loads(memoryview(payload)[ID_BYTES:]))
    if columns is None or not _read(columns):
        return None
    record = CallRecord(**columns)
    if record.call_id.bytes != payload[:ID_BYTES] or not record.model:
        return None
    attributes = record.attributes
    json = orjson.dumps(attributes).decode() if attributes else None
    if json is not None and len(json) > ATTRIBUTES_LIMIT:
        return None
    return Row(record, json, ROW_OVERHEAD + len(payload))


def _clean_columns(packed: dict[str, Any]) -> dict[str, Any] | None:
    """Return the columns that are not NULL; None unless each is, as JSON has it, what a clean record has.

    They get the names that the class has: to compare others with them takes longer than all else. Lone surrogates, NaN
    and infinity are no JSON.
    """
    columns: dict[str, Any] = {}
    get = packed.get
    for name, limit in _TEXTS:
        if (text := get(name)) is not None:
            if type(text) is not str or len(text) > limit or "\0" in text:
                return None
            columns[name] = text
    for name, limit in _IDS:
        if (text := get(name)) is not None:
            # one that was cut is noted in the attributes
            if type(text) is not str or len(text) > limit or "\0" in text or text[-17:-16] == "~":
                return None
            columns[name] = text
    for name, kind in _TYPES:
        if (value := get(name)) is not None:
            if type(value) is not kind:
                return None
            columns[name] = value
    for name in _COUNTS:
        if name in columns and not is_int4(columns[name]):
            return None
    for name in _OTHER_JSON:
        if get(name) is not None:
            return None
    return columns if is_plain(columns.get("attributes")) else None


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
