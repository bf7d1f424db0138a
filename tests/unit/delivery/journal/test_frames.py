"""What is in the journal comes back: whole, once, whatever has become of the bytes around it."""

from __future__ import annotations

import math
import os
import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmctx.core.record import COLUMNS
from llmctx.delivery.journal import Damage, Frame, Kind, pack_record, read, unpack_record
from llmctx.delivery.journal.frames import frame, frames_in, start_frame
from tests.kit.journals import WHO, new_id, record

FULL = record(
    trace_id="t",
    temperature=0.1,
    prompt_tokens=2**31 - 1,
    latency_ms=12,
    error_message='汉字 \u2028 \\ " \x00 \U0001f600',
    prompt_snapshot='[{"role": "user"}]',
    finished_at=datetime.now(UTC) + timedelta(microseconds=1),
    run_id=UUID(int=7),
    parent_run_id=UUID(int=2**127),
    cost_usd=Decimal("0.000000123"),
    streamed=False,
    cached=True,
    attributes={"tags": ["a"], "deep": {"n": [1, 2.5, None, True]}},
)


def test_a_record_comes_back_exactly() -> None:
    """Times to the microsecond, ids, decimals, nested attributes."""
    assert unpack_record(pack_record(FULL)) == FULL
    assert type(unpack_record(pack_record(FULL)).cost_usd) is Decimal
    east = record(created_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=8))))
    back = unpack_record(pack_record(east))
    assert back.created_at == east.created_at
    assert back.created_at.utcoffset() == timedelta(0)


@settings(deadline=None, max_examples=100)
@given(
    st.datetimes(timezones=st.just(UTC)),
    st.decimals(allow_nan=False, allow_infinity=False, places=9, min_value=0, max_value=10**8),
    st.text(st.characters(exclude_categories=("Cs",))),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_record_comes_back_exactly(at: datetime, cost: Decimal, text: str, number: float) -> None:
    """Whatever is in it."""
    one = record(created_at=at, finished_at=at, cost_usd=cost, prompt_snapshot=text, temperature=number)
    assert unpack_record(pack_record(one)) == one


def test_other_versions_are_understood() -> None:
    """What is new there is left out, what is missing is None."""
    packed = pack_record(record())
    newer = packed[:16] + packed[16:].replace(b'"model":"m"', b'"model":"m","from_the_future":[1]')
    assert unpack_record(newer).model == "m"
    older = packed[:16] + packed[16:].replace(b'"model":"m",', b"")
    assert unpack_record(older).model == "unknown"
    for nonsense in (
        b"",
        b"x" * 16,
        b"x" * 16 + b"[]",
        b"x" * 16 + b"{}",
        packed[:-5],
        packed.replace(b'_at":"', b'_at":"?'),
    ):
        with pytest.raises(ValueError):
            unpack_record(nonsense)


def test_values_that_json_cannot_say_do_not_stop_a_record() -> None:
    """Lone surrogates, huge numbers, circles, strange keys."""
    loop: list[Any] = []
    loop.append(loop)

    class Rude:
        def __str__(self) -> str:
            raise RuntimeError("no")

    for odd in (
        "\ud800",
        10**400,
        math.nan,
        loop,
        {1: {2: "\udfff"}},
        object(),
        {"s"},
        10**5000,
        Rude(),
        {Rude(): Rude()},
    ):
        one = record(attributes={"odd": odd}, error_message="\ud83d broken")
        back = unpack_record(pack_record(one))
        assert back.call_id == one.call_id
        assert back.created_at == one.created_at


def test_what_contains_itself_twice_does_not_double_with_each_step_down() -> None:
    """In metadata it stands in a start marker, which is made in the caller's thread."""
    twice: dict[str, Any] = {"many": range(10)}
    twice |= {"here": twice, "there": [twice, twice]}
    began = time.monotonic()
    assert len(start_frame(new_id(), 1.5, {"agent_key": twice})) < 1_000_000
    assert time.monotonic() - began < 20
    one = record(attributes={"odd": twice})
    assert unpack_record(pack_record(one)).call_id == one.call_id


FRAMES = [
    start_frame(new_id(), 1.5, WHO),
    frame(Kind.RECORD, pack_record(FULL)),
    frame(Kind.DONE, new_id() * 3),
    frame(Kind.RECORD, pack_record(record(prompt_snapshot="x" * 3000))),
    frame(Kind.END, b""),
]


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_damage_costs_what_it_hits(data: st.DataObject) -> None:
    """Flipped bits, zeros, garbage, missing pieces: every frame that was not touched is read, in its place."""
    frames = data.draw(st.lists(st.sampled_from(FRAMES), min_size=1, max_size=8))
    whole = bytearray(b"".join(frames))
    begins = [sum(map(len, frames[:number])) for number in range(len(frames))]
    hit: set[int] = set()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        length = min(data.draw(st.sampled_from([1, 1, 2, 13, 400, 4096])), len(whole) - at)
        how = data.draw(st.sampled_from(["flip", "zero", "noise"]))
        for place in range(at, at + length):
            if how == "flip":
                whole[place] ^= 1 << data.draw(st.integers(0, 7)) if length == 1 else 0x10
            else:
                whole[place] = 0 if how == "zero" else (place * 31) & 0xFF
        hit.update(range(at, at + length))
    tail = data.draw(st.integers(0, len(whole)))
    if data.draw(st.booleans()):  # torn off, or garbage behind it
        hit.update(range(tail, len(whole)))
        del whole[tail:]
    else:
        whole += data.draw(st.binary(max_size=50))
    expected = [
        Frame(made[8], made[13:])
        for made, begin in zip(frames, begins, strict=True)
        if not any(place in hit for place in range(begin, begin + len(made)))
    ]
    damage = Damage()
    found = list(frames_in(bytes(whole), damage))
    wanted = iter(found)
    assert all(one in wanted for one in expected)  # in order
    assert len(found) <= len(frames)
    assert bool(damage.places) == (sum(len(one.payload) + 13 for one in found) < len(whole))


def test_hardly_anything_is_read_from_garbage() -> None:
    """A large file of beginnings without an end is passed over at once."""
    liars = b"".join(FRAMES[0][:4] + (400_000).to_bytes(4, "little") + b"\2none" for _ in range(70_000))
    for garbage in (liars, b"\0" * 5_000_000, os.urandom(1_000_000), b"\xff\xabJ1" * 200_000, FRAMES[1][:40] * 20_000):
        began = time.monotonic()
        damage = Damage()
        assert list(frames_in(garbage, damage)) == []
        assert (damage.places, damage.bytes) == (1, len(garbage))
        assert time.monotonic() - began < 30


def test_what_is_no_file_is_an_empty_one(tmp_path: Path) -> None:
    """Vanished, a directory, a link, a pipe that would never end."""
    (tmp_path / "real").write_bytes(FRAMES[0])
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    for name in ("gone", "link", "pipe", ".", "no/where"):
        assert list(read(tmp_path / name)) == []
    assert len(list(read(tmp_path / "real"))) == 1


def test_every_column_is_kept() -> None:
    """A column that is added to the row later is in the journal, too."""
    assert {name for name in COLUMNS if getattr(unpack_record(pack_record(FULL)), name) is not None} == {
        name for name in COLUMNS if getattr(FULL, name) is not None
    }
