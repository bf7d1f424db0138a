"""Packed rows: what is read the short way is what unpacking and cleaning make of it, whatever the payload says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import orjson
import pytest

from llmctx.core.record import CLEANED, COLUMNS, CallRecord
from llmctx.delivery.batch_row import row_of
from llmctx.delivery.journal import pack_record, unpack_record
from llmctx.delivery.packed_row import read_row
from llmctx.storage.sanitize import ATTRIBUTES_LIMIT, clean

_DEEP: Any = []
for _ in range(70):  # deeper than rows may be; orjson before 3.12 writes past its buffer at twice that
    _DEEP = [_DEEP]
VALUES: list[Any] = [
    *(None, "", "x", "a\0b", "\\u0000", "é" * 2000, "x" * 70_000, "y" * 1007 + "~0123456789abcdef", "\U0001f600"),
    *(True, False, 0, -1, 7, 2**31, -(2**31), 2**63, 2**64 - 1, 0.0, -0.0, 1.5, 1e300, 1e-300),
    *([], {}, [1], {"a": 1}, {"a": "b\0"}, {"a\0": 1}, {"n": 2**64 - 1}, {"big": "x" * (ATTRIBUTES_LIMIT + 1)}),
    *({"deep": _DEEP}, {CLEANED: ["model"]}, {CLEANED: 5}, {"tags": ["é", 1.5, None, True, {"k": []}]}),
    *("2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456+00:00"),
    *("2026-01-01T02:00:00+02:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"),
    *("0" * 32, "{" + "1" * 32 + "}", "urn:uuid:" + "2" * 32, "1_" * 16, "-" * 9 + "3" * 32, "+" + "4" * 31, "5" * 31),
    *("1.5", "-1", "NaN", "Infinity", "1e9", "999999999.999999999", "1_0", "0.000194"),
]  # fmt: skip


def record() -> CallRecord:
    return CallRecord(
        call_id=uuid4(), created_at=datetime.now(UTC), finished_at=datetime.now(UTC), model="m", session_id="s",
        user_id="u", temperature=0.5, prompt_tokens=5, success=True, prompt_snapshot='["é"]', run_id=uuid4(),
        cost_usd=Decimal("0.000194"), attributes={"tags": ["seq:step:1"]},
    )  # fmt: skip


def outcome(payload: bytes, read: Any) -> Any:
    """The record's values with their types, and its JSON; or that it is refused."""
    try:
        row = read(payload)
    except ValueError:
        return "refused"
    return [
        (repr(value), type(value)) for value in (getattr(row.record, name) for name in COLUMNS)
    ], row.attributes_json


def long_way(payload: bytes) -> Any:
    return row_of(clean(unpack_record(payload)))


def test_record_that_was_clean_is_read_as_it_was() -> None:
    one = clean(record())
    row = read_row(pack_record(one))
    assert row.record == one
    assert row.attributes_json == '{"tags":["seq:step:1"]}'
    assert row.size >= row_of(one).size - 64


@pytest.mark.parametrize("name", COLUMNS)
def test_any_value_in_a_column_is_read_as_the_long_way_reads_it(name: str) -> None:
    one = record()
    for value in VALUES:
        payload = one.call_id.bytes + orjson.dumps({**orjson.loads(pack_record(one)[16:]), name: value})
        assert outcome(payload, read_row) == outcome(payload, long_way), value


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"call_id": None},
        [],
        5,
        {"created_at": "2026-01-01T00:00:00+00:00"},
        dict.fromkeys(COLUMNS),
        {name: {} for name in COLUMNS},
    ],
)
def test_what_is_no_record_is_refused(columns: object) -> None:
    with pytest.raises(ValueError, match="record"):
        read_row(uuid4().bytes + orjson.dumps(columns))


def test_record_of_another_call_or_version() -> None:
    one = clean(record())
    with pytest.raises(ValueError, match="another call"):
        read_row(uuid4().bytes + pack_record(one)[16:])
    older = {name: value for name, value in orjson.loads(pack_record(one)[16:]).items() if value is not None}
    assert read_row(one.call_id.bytes + orjson.dumps({**older, "of_a_version_to_come": 1})).record == one
    assert read_row(pack_record(replace(one, attributes={}))).attributes_json is None
