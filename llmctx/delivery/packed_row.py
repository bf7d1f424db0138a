"""Packed records as rows of a batch: checked once, and cleaned only where that is needed.

A reader believes nothing. But what llmctx packed was clean, and to see that it still is takes a fraction of the time in
which it would be taken apart and cleaned again. Whatever is not exactly as `pack_record` writes a clean record of this
version goes the long way, through `unpack_record` and `clean`, to which this is equal in all that it returns.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import orjson
from pydantic_core import CoreSchema, SchemaValidator, core_schema

from llmctx.core.columns import ColumnKind, ColumnSpec
from llmctx.core.record import SPECS, CallRecord, of_kind
from llmctx.delivery.batch_row import ROW_OVERHEAD, row_of
from llmctx.delivery.destination import Row
from llmctx.delivery.journal.frames import ID_BYTES, unpack_record
from llmctx.storage.sanitize import ATTRIBUTES_LIMIT, INT4, clean, is_plain, is_price

_IDS: Final = of_kind(ColumnKind.ID)
_TIMES: Final = of_kind(ColumnKind.TIME)
_MONEY: Final = of_kind(ColumnKind.MONEY)
_NUL: Final = b"\\u0000"
_CUT: Final = b"~"


def read_row(payload: bytes) -> Row:
    """Return the row of what `pack_record` packed, as a database takes it. Raise ValueError for what is no record."""
    try:
        row = _clean_row(payload)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        row = None
    return row_of(clean(unpack_record(payload))) if row is None else row


def _clean_row(payload: bytes) -> Row | None:
    """Return the row of a record that needs no cleaning. Return None, or raise, for any other."""
    if _NUL in payload:
        return None
    columns = _validate(payload[ID_BYTES:])
    for name in _TIMES:
        if (text := columns.get(name)) is not None:
            columns[name] = at = datetime.fromisoformat(text)
            if at.tzinfo is not UTC:
                return None
    for name in _MONEY:
        if (text := columns.get(name)) is not None:
            columns[name] = price = Decimal(text)
            if not is_price(price):
                return None
    if _CUT in payload and any((columns.get(name) or "")[-17:-16] == "~" for name in _IDS):
        return None  # an id that was cut is noted in the attributes
    record = CallRecord(**columns)
    if record.call_id.bytes != payload[:ID_BYTES] or not record.model:
        return None
    attributes = record.attributes
    if not attributes:
        return Row(record, None, ROW_OVERHEAD + len(payload))
    if not is_plain(attributes) or len(json := orjson.dumps(attributes)) > ATTRIBUTES_LIMIT:
        return None
    return Row(record, json.decode(), ROW_OVERHEAD + len(payload))


def _schema(spec: ColumnSpec) -> CoreSchema:
    """Return what a clean record has in a column, as JSON has it: what JSON has no words for is a text here."""
    match spec.kind:
        case ColumnKind.ID | ColumnKind.TEXT | ColumnKind.SNAPSHOT:
            return core_schema.str_schema(max_length=spec.limit, strict=True)
        case ColumnKind.COUNT:
            return core_schema.int_schema(ge=-INT4, le=INT4, strict=True)
        case ColumnKind.NUMBER:
            return core_schema.float_schema(allow_inf_nan=False, strict=True)
        case ColumnKind.FLAG:
            return core_schema.bool_schema(strict=True)
        case ColumnKind.UUID:
            return core_schema.uuid_schema()
        case ColumnKind.TIME | ColumnKind.MONEY:
            return core_schema.str_schema(strict=True)
        case ColumnKind.JSON:
            return core_schema.dict_schema(strict=True) if spec.name == "attributes" else core_schema.none_schema()


_validate: Final = SchemaValidator(
    core_schema.typed_dict_schema(
        {
            spec.name: core_schema.typed_dict_field(_schema(spec), required=True)
            if spec.required
            else core_schema.typed_dict_field(core_schema.nullable_schema(_schema(spec)), required=False)
            for spec in SPECS
        },
        extra_behavior="ignore",
    )
).validate_json
"""Parses and checks in one step, outside of Python. Raises ValueError."""
