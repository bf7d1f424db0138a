"""Snapshots are valid JSON within their limit, whatever they are made of."""

from __future__ import annotations

import enum
import json
import math
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmctx.capture.payload.snapshot import (
    LIMIT,
    Cut,
    Pieces,
    SizeBudget,
    bounded_copy,
    cut,
    join_texts,
    snapshot,
    text_of,
    to_json_text,
)
from llmctx.core.text import storable

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=200)  # NUL and surrogates included
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.binary(max_size=50),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(any_text, inner, max_size=6),
    max_leaves=40,
)


def acceptable(text: str, limit: int) -> Any:
    """What `text` says, having made sure that it fits and that PostgreSQL would take it."""
    assert len(text.encode()) <= limit  # raises on lone surrogates
    assert "\0" not in text
    assert "\\u0000" not in text.replace("\\\\", "")  # jsonb refuses the escape, too
    return json.loads(text)


@quick
@given(plain, st.integers(64, 4096))
def test_any_value_becomes_valid_json_within_the_limit(value: Any, limit: int) -> None:
    """Numbers, texts, lists and dicts of any shape."""
    acceptable(snapshot(value, limit), limit)


@quick
@given(st.lists(st.tuples(any_text, st.integers(1, 400)), min_size=1, max_size=8), st.integers(300, 3000))
def test_long_texts_are_cut_and_say_so(parts: list[tuple[str, int]], limit: int) -> None:
    """Texts of any alphabet, together too long, are cut inside; each message is still there."""
    messages = [{"role": "user", "content": text * times} for text, times in parts]
    shown = acceptable(snapshot(messages, limit), limit)
    if isinstance(shown, list) and len(shown) == len(messages):
        for sent, kept in zip(messages, shown, strict=True):
            assert kept["content"] == storable(sent["content"]) or "characters cut]…" in kept["content"]


def test_a_text_that_fits_is_left_alone() -> None:
    """Nothing is cut without need, up to the last byte."""
    text = "é" * ((LIMIT - 2) // 2)
    assert json.loads(snapshot(text)) == text
    assert "cut]" in snapshot(text + "é")


def test_the_note_says_how_much_is_missing() -> None:
    """What is shown and what is noted add up to the original."""
    shown = json.loads(snapshot("x" * 1_000_000, 1000))
    note = shown.strip("x")
    missing = int(note.removeprefix("…[").removesuffix(" characters cut]…"))
    assert missing + shown.count("x") == 1_000_000
    assert shown.startswith("x")
    assert shown.endswith("x")


def test_the_longest_texts_are_cut_first() -> None:
    """Short texts survive whole beside a long one."""
    shown = json.loads(snapshot({"short": "s" * 100, "long": "l" * 5000}, 600))
    assert shown["short"] == "s" * 100
    assert "characters cut" in shown["long"]


def test_the_limit_is_made_use_of() -> None:
    """Cutting takes little more than it must, in any alphabet."""
    for text in ("x" * 100_000, "語" * 100_000, "\n" * 100_000, "x" * 50_000 + "語" * 50_000):
        assert len(snapshot([{"content": text}], 8192).encode()) > 8192 * 0.7, text[:1]


def test_hostile_values_become_json() -> None:
    """Structures without end, objects without words, numbers without bounds."""
    loop: list[Any] = [1]
    loop.append(loop)
    ring: dict[str, Any] = {"a": 1}
    ring["ring"] = [ring, ring]
    deep: Any = "bottom"
    for _ in range(20_000):
        deep = [deep]

    class Rude:
        def __str__(self) -> str:
            raise RuntimeError("no")

        __repr__ = __str__

    class Colour(enum.Enum):
        RED = "red"

    values = [
        loop,
        ring,
        deep,
        Rude(),
        {Rude(): 1, 2: 3, None: 4, b"x": 5},
        [math.nan, math.inf, -math.inf],
        10**400,
        -(10**30),
        10**100_000,
        b"\0\xff" * 500,
        bytearray(b"x"),
        memoryview(b"xyz"),
        {1, 2},
        Colour.RED,
        uuid.uuid4(),
        datetime.now(UTC),
        Decimal("1.5"),
        object,
        iter([1]),
        "\ud83d",
        "\0",
        {"k\0\ud800": "v"},
        {f"key{n}": n for n in range(100_000)},
        list(range(1_000_000)),
        [{"type": "text", "text": "x"}] * 100_000,
    ]
    for value in values:
        acceptable(snapshot(value, 2000), 2000)
    acceptable(snapshot(values), LIMIT)


@pytest.mark.parametrize("limit", [0, 1, 10, 40, 100])
def test_a_tiny_limit_still_gives_json(limit: int) -> None:
    """Even where nothing has room."""
    for value in ("x" * 1000, {"a": ["x" * 100] * 100}, [1] * 10_000):
        assert len(snapshot(value, limit).encode()) <= max(limit, 2)
        json.loads(snapshot(value, limit))


def test_nul_and_surrogates_are_replaced_and_nothing_else() -> None:
    """Halves of a character that were torn apart are joined; the literal text \\u0000 survives."""
    assert storable("a\0b") == "a\ufffdb"
    assert storable("a\ud83d") == "a\ufffd"
    assert storable("\ud83d\ude00") == "😀"
    assert storable("\\u0000") == "\\u0000"
    assert json.loads(snapshot("\\u0000 \x01 é")) == "\\u0000 \x01 é"


def test_binaries_become_a_note() -> None:
    """Type and size of images, sounds and files, in the spellings of the makers; no base64."""
    data = "QUJD" * 1000
    blocks = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": data}},
        {"type": "image", "base64": data, "mime_type": "image/webp"},
        {"type": "media", "data": b"x" * 3000, "mime_type": "audio/ogg"},
        {"image": {"format": "gif", "source": {"bytes": b"x" * 3000}}},
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{data}"}},
    ]
    shown = snapshot(blocks)
    for kind in ("png", "jpeg", "webp", "ogg", "gif", "wav", "pdf"):
        assert f"<{kind}, 3 kB>" in shown, kind
    assert "QUJD" not in shown
    words = {"data": "plain words, and not a picture. " * 20}
    assert json.loads(snapshot(words)) == words


def test_what_is_kept_is_not_the_applications() -> None:
    """Later changes by the application do not show."""
    value = {"list": [1, {"a": "b"}], "text": "t"}
    kept = bounded_copy(value, SizeBudget(1000))
    value["list"][1]["a"] = "changed"  # type: ignore[index]
    value["text"] = "changed"
    assert kept == {"list": [1, {"a": "b"}], "text": "t"}


def test_only_both_ends_of_a_long_text_are_kept() -> None:
    """The middle is let go at once, and cutting again adds up."""
    kept = cut("a" * 500 + "b" * 500, 100)
    assert kept == Cut("a" * 50, "b" * 50, 1000)
    assert text_of(kept, 1000) == "a" * 50 + "…[900 characters cut]…" + "b" * 50
    assert "…[9" in text_of(kept, 90)
    assert len(text_of(kept, 90).encode()) <= 90
    assert cut("short", 100) == "short"


def test_a_text_subclass_is_kept_as_plain_text() -> None:
    """A subclass may refer to anything, so that it must not stay."""

    class Text(str):
        __slots__ = ("whole",)

    assert type(cut(Text("abc"), 10)) is str
    assert type(cut(Text("abc" * 10), 10).head) is str  # type: ignore[union-attr]


@quick
@given(st.lists(any_text, max_size=8), st.integers(2, 200))
def test_joining_keeps_what_cutting_the_whole_would(parts: list[str], limit: int) -> None:
    """Put together or not, the same ends are kept."""
    kept = join_texts(parts, limit)
    assert ("".join(kept.pieces) if isinstance(kept, Pieces) else kept) == cut("".join(parts), limit)


@quick
@given(any_text, st.integers(0, 300), st.integers(1, 50))
def test_a_plain_text_fits_its_limit(text: str, limit: int, times: int) -> None:
    """Error messages and names, in bytes."""
    found = text_of(text * times, limit)
    assert len(found.encode()) <= limit
    assert "\0" not in found


@pytest.mark.parametrize(
    "text", ["good", "", "null", "a\0b", "…[5 bytes cut]…", "a …[ b", "\ud800", "é" * 40, "x" * 200]
)
@pytest.mark.parametrize("name", ["content", "…", "a\0", "null"])
def test_messages_of_plain_texts_are_told_as_everything_else(text: str, name: str) -> None:
    """The short way of those and the long one come to the same: a number beside them leads to the latter."""
    message = {"role": "user", name: text}
    for kept in (message, [message], [{"role": "system", "content": "x"}, message]):
        lost: list[object] = []
        lost_beside: list[object] = []
        shown = to_json_text(kept, 150, lost)
        beside = to_json_text([kept, None], 150, lost_beside)
        assert len(shown.encode()) <= 150
        assert bool(lost) == bool(lost_beside)
        if not lost:
            assert json.loads(shown) == json.loads(beside)[0]
