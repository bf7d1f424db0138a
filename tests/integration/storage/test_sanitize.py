"""Poison values against real databases: whatever stands in a call, it is one row, and the row says what was changed."""

from __future__ import annotations

import math
from collections import UserDict
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmctx.core.record import CACHE_WRITTEN, CACHE_WRITTEN_1H, CLEANED, COLUMNS, DEFAULT_TABLE, CallRecord
from llmctx.storage.sanitize import ATTRIBUTES_LIMIT, clean, shorten_id, storable_id, storable_json
from tests.kit.rows import PATIENCE, query, record, stored, writing


class Rude:
    """An object that answers nothing."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __bool__ = __int__ = __float__ = __str__  # type: ignore[assignment]


class Told(Rude):
    """One that hypothesis can show."""

    def __repr__(self) -> str:
        return "Told()"

    def __str__(self) -> str:
        raise RuntimeError("no")


class BadZone(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta:
        raise RuntimeError("no")


class Colour(Enum):
    RED = "red\x00"


class Name(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "somebody else"


def loop() -> dict[str, Any]:
    made: dict[str, Any] = {}
    made["me"] = [made, made, made]
    return made


def deep(levels: int = 20_000) -> Any:
    made: Any = "bottom"
    for _ in range(levels):
        made = [made]
    return made


TEXT = ["a\x00b", "\ud800", "half \udfff", "x" * 100_000, 42, 4.2, True, b"\x00", Rude(), ["a"], {"a": 1}, 10**5000,
        Colour.RED, Name("u")]  # fmt: skip
NUMBERS = [2**31, -(2**40), 10**400, math.nan, math.inf, "12", "many", 1.5, True, Rude(), [], "\x00"]
POISON: dict[str, list[Any]] = {
    "Text": TEXT,
    "Integer": NUMBERS,
    "Double": [math.nan, math.inf, -math.inf, "0.5", "hot", 10**400, Rude(), [], "\x00"],
    "Money": [Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal(10) ** 12, -1, "dear", math.nan, Rude()],
    "Boolean": ["yes", 1, 0, Rude(), []],
    "UtcTime": [
        datetime(2026, 1, 1), "yesterday", 1.5, Rude(), datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=14))), datetime(2026, 1, 1, tzinfo=BadZone()),
    ],
    "Uuid": ["not an id", "\x00", 7, Rude(), "0190a0a0-0000-7000-8000-000000000000"],
    "JSON": [
        loop(), {"nan": math.nan, "inf": [math.inf]}, {"nul\x00": "a\x00b"}, {"half": "\ud83d"}, {"big": 2**70},
        {"rude": Rude()}, {"deep": deep()}, {"long": "x" * 1_000_000}, {("a",): 1}, {"set": {1}, "b": b"\x00"},
        {"a\x00": 1, "a\ud800": 2}, ["a list"], "text", 7, Rude(), {1: 1, "1": 2}, {"e": Colour.RED},
        {"llmctx_cleaned": "mine"}, UserDict(a=1), {Rude(): 1}, {"wide": [[0] * 100 for _ in range(1000)]},
    ],
}  # fmt: skip
KINDS = {
    **dict.fromkeys(COLUMNS, "Text"),
    **dict.fromkeys((name for name in COLUMNS if name.endswith(("_tokens", "_ms", "_calls"))), "Integer"),
    **dict.fromkeys(("temperature", "top_p"), "Double"),
    **dict.fromkeys(("success", "streamed", "cached"), "Boolean"),
    **dict.fromkeys(("created_at", "finished_at"), "UtcTime"),
    **dict.fromkeys(("call_id", "run_id", "parent_run_id"), "Uuid"),
    "cost_usd": "Money",
    "attributes": "JSON",
}
IDS = ("session_id", "user_id", "trace_id", "conversation_id", "agent_key", "thread_id")


@pytest.mark.parametrize("column", COLUMNS)
async def test_one_poisoned_row_of_a_hundred(any_database: str, column: str) -> None:
    """With each value in turn: all hundred are stored, and the poisoned one names the column."""
    values = POISON[KINDS[column]]
    poisoned = []
    async with writing(any_database) as one:
        for number in range(100):
            row = record()
            if number < len(values):
                setattr(row, column, values[number])
                poisoned.append(row)
            assert one.submit(clean(row))
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert (one.written, one.quarantined, one.dropped) == (100, 0, 0)
    assert await stored(any_database) == 100
    assert all(row.attributes is None or type(row.attributes) is dict for row in poisoned)
    unchanged = [
        value
        for row, value in zip(poisoned, values, strict=True)
        if column not in (row.attributes or {}).get(CLEANED, [])
    ]
    # an Enum, a list of somebody's under our key, text as long as a snapshot may be
    harmless = {"attributes": 3, "prompt_snapshot": 1, "response_snapshot": 1, "reasoning_snapshot": 1}
    assert len(unchanged) <= harmless.get(column, 0), [str(type(value)) for value in unchanged]


async def test_what_is_cleaned_reads_as_it_should(database: str) -> None:
    """PostgreSQL has the text without what it cannot have, and the list of columns."""
    row = record(prompt_snapshot='"a\x00b"', prompt_tokens=2**40, temperature=math.nan, attributes={"k\x00": "\ud800"})
    async with writing(database) as one:
        one.submit(clean(row))
        assert await one.drain(PATIENCE) == 0
    ((prompt, tokens, heat, attributes),) = await query(
        database, f"SELECT prompt_snapshot, prompt_tokens, temperature, attributes FROM {DEFAULT_TABLE}"
    )
    assert (prompt, tokens, heat) == ('"a\ufffdb"', None, None)
    assert attributes["k\ufffd"] == "\ufffd"
    assert set(attributes[CLEANED]) == {"prompt_snapshot", "prompt_tokens", "temperature", "attributes"}


def test_a_clean_row_is_left_alone() -> None:
    """Not a value is touched, and nothing is said."""
    row = record(attributes={"a": [1, "b", None, 0.5, {"c": True}]}, temperature=0.5, prompt_tokens=7)
    before = [getattr(row, name) for name in COLUMNS]
    clean(row)
    assert all(getattr(row, name) is value for name, value in zip(COLUMNS, before, strict=True))


def test_a_text_that_talks_of_nul_is_left_alone() -> None:
    """A backslash and `u0000` are six characters, and no NUL."""
    assert orjson.loads(storable_json({"a": "\\u0000"}) or "") == {"a": "\\u0000"}


def test_a_time_without_a_zone_is_utc() -> None:
    """Wherever the process thinks that it is."""
    row = clean(record(finished_at=datetime(2026, 7, 1, 12)))
    assert row.finished_at == datetime(2026, 7, 1, 12, tzinfo=UTC)


dirty = st.text(st.one_of(st.sampled_from("\x00\ud800\udfff\ufffdab~"), st.characters()), max_size=12)


@given(dirty, dirty, st.integers(0, 3000))
def test_two_dirty_ids_never_become_one(first: str, second: str, padding: int) -> None:
    """Nor is a dirty one ever mistaken for a clean one; and cleaning twice is cleaning once."""
    one, two = first + "x" * padding, second + "x" * padding
    cleaned = storable_id(one), storable_id(two)
    assert (cleaned[0] == cleaned[1]) == (one == two)
    for made in cleaned:
        assert made is not None
        assert len(made) <= 1024
        assert storable_id(made) == made
        made.encode()
        assert "\x00" not in made


@given(st.text(min_size=9), st.text(min_size=9), st.integers(24, 64))
def test_ids_that_are_cut_stay_two(first: str, second: str, limit: int) -> None:
    """Whatever the width of somebody's column."""
    one, two = ("x" * limit + text for text in (first, second))
    assert (shorten_id(one, limit) == shorten_id(two, limit)) == (one == two)
    assert len(shorten_id(one, limit)) <= limit


anything = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), dirty, st.binary(max_size=4), st.decimals(),
        st.datetimes(), st.just(Told()), st.uuids(), st.complex_numbers(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.tuples(inner), st.dictionaries(st.one_of(dirty, st.integers()), inner)
    ),
    max_leaves=12,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(st.dictionaries(st.sampled_from(COLUMNS), anything, max_size=6))
def test_cleaning_never_raises_and_cleaning_twice_is_cleaning_once(fields: dict[str, Any]) -> None:
    """Anything anywhere becomes what the columns hold."""
    row = record()
    for name, value in fields.items():
        setattr(row, name, value)
    clean(row)
    check(row)
    before = [getattr(row, name) for name in COLUMNS]
    clean(row)
    assert [getattr(row, name) for name in COLUMNS] == before


def check(row: CallRecord) -> None:
    types = {"Text": str, "Integer": int, "Double": float, "Money": Decimal, "Boolean": bool, "UtcTime": datetime,
             "Uuid": UUID, "JSON": dict}  # fmt: skip
    for name in COLUMNS:
        value = getattr(row, name)
        assert value is None or type(value) is types[KINDS[name]], name
        if type(value) is str:
            value.encode()
            assert "\x00" not in value
    assert row.call_id is not None
    assert row.created_at is not None
    assert row.model
    text = storable_json(row.attributes)
    assert text is None or orjson.loads(text) == row.attributes


async def test_whatever_was_thought_of_is_stored(any_database: str) -> None:
    """A few hundred rows of anything anywhere, against the real thing."""
    rows: list[CallRecord] = []

    @settings(max_examples=200, database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(st.sampled_from(COLUMNS), anything, min_size=1, max_size=6))
    def collect(fields: dict[str, Any]) -> None:
        row = record()
        for name, value in fields.items():
            setattr(row, name, value)
        row.call_id = uuid4()
        rows.append(clean(row))

    collect()
    async with writing(any_database) as one:
        for row in rows:
            assert one.submit(row)
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert (one.written, one.quarantined) == (len(rows), 0), one.rejected_rows
    assert await stored(any_database) == len(rows)


@pytest.mark.parametrize("huge", [{"x": "y" * 100_000}, {f"k{n}": [n] * 10 for n in range(20_000)}, {"x": {1, 2}}])
def test_what_llmctx_notes_itself_stays_when_attributes_are_cut(huge: dict[str, Any]) -> None:
    """Prompt tokens that went into the provider's cache: a cost computed later needs them."""
    row = clean(record(attributes={**huge, CACHE_WRITTEN: 7, CACHE_WRITTEN_1H: 3, "llmctx": {"said": "by whom"}}))
    assert row.attributes is not None
    assert (row.attributes[CACHE_WRITTEN], row.attributes[CACHE_WRITTEN_1H]) == (7, 3)
    assert row.attributes["llmctx"] == {"said": "by whom"}
    assert len(storable_json(row.attributes) or "") <= ATTRIBUTES_LIMIT
    assert "attributes" in row.attributes[CLEANED]
