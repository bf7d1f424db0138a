"""What is redacted with a memory of clean texts is redacted as without one."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llmctx.capture.payload.snapshot import Cut, Pieces
from llmctx.delivery import caching_redactor
from llmctx.delivery.caching_redactor import CachingRedactor
from llmctx.delivery.redact import Redactor

FILL = "The patient reports that headaches have become less frequent since the dose was changed. " * 24
KEY = "sk-proj-" + "a1B2c3D4" * 6
TEXTS: list[Any] = [
    *(FILL, FILL + "é" * 100, "short", "", FILL + "\ud800", FILL * 20, FILL + " 0000 1234"),
    *(
        FILL + KEY,
        FILL + "mail ann@example.com",
        f"password: {KEY}",
        "ann@example.com",
        "password=",
        FILL + "password=",
    ),
    *(Cut(FILL, FILL + KEY, 10_000), Pieces((FILL, KEY)), None, [{"type": "text", "text": FILL}, {"text": KEY}]),
]


def message(draw: random.Random) -> dict[str, Any]:
    one = {"role": draw.choice(["user", "assistant", "tool", "ann@example.com"]), "content": draw.choice(TEXTS)}
    more: list[dict[str, Any]] = [{}, {}, {"tool_call_id": "c1"}, {"tool_calls": [{"name": "f", "args": {"q": KEY}}]}]
    return {**one, **draw.choice(more)}


def test_any_conversation_is_redacted_as_without_it() -> None:
    draw, plain, caching = random.Random(5), Redactor(), CachingRedactor()
    for _ in range(300):
        kept: dict[str, Any] = {"prompt_snapshot": [message(draw) for _ in range(draw.randint(0, 6))]}
        if draw.random() < 0.5:
            kept |= {"response_snapshot": message(draw), "reasoning_snapshot": draw.choice(TEXTS)}
        assert caching.redact_tree(kept) == plain.redact_tree(kept)
    for other in (
        *TEXTS,
        [FILL, KEY],
        {"password": "hunter2"},
        {1: FILL},
        {"ann@example.com": KEY, KEY: 1},
        {"content": FILL + KEY},
    ):
        assert caching.redact_tree(other) == plain.redact_tree(other)


def test_known_is_what_was_clean_twice() -> None:
    redactor = CachingRedactor()
    for known in (False, True, True):
        redactor.redact_tree({"prompt_snapshot": [{"role": "user", "content": FILL}]})
        assert redactor.is_known_clean(FILL) is known
    for _ in range(3):
        redactor.redact_tree({"prompt_snapshot": [{"role": "user", "content": FILL + KEY}]})
    assert not redactor.is_known_clean(FILL + KEY)


def test_answer_is_known_in_the_next_prompt() -> None:
    redactor = CachingRedactor()
    redactor.redact_tree({"response_snapshot": {"role": "assistant", "content": FILL}})
    redactor.redact_tree({"prompt_snapshot": [{"role": "assistant", "content": FILL}]})
    assert redactor.is_known_clean(FILL)


def test_what_stands_beside_a_known_text_is_searched() -> None:
    redactor = CachingRedactor()
    for role, more in (("user", {}), ("user", {}), (f"as {KEY}", {}), ("user", {"name": KEY})):
        kept = {"prompt_snapshot": [{"role": role, "content": FILL, **more}]}
        assert redactor.redact_tree(kept) == Redactor().redact_tree(kept)
    assert redactor.is_known_clean(FILL)


def test_text_with_the_same_ends_is_not_known() -> None:
    redactor = CachingRedactor()
    clean, leaking = FILL + "x" * len(KEY) + FILL, FILL + KEY + FILL
    for text in (clean, clean, leaking, clean, leaking):
        kept = {"prompt_snapshot": [{"role": "user", "content": text}]}
        assert redactor.redact_tree(kept) == Redactor().redact_tree(kept)
    assert redactor.is_known_clean(clean)
    assert not redactor.is_known_clean(leaking)


def test_few_known_characters_are_searched_all_the_same() -> None:
    """It takes less time than to leave them out."""
    redactor, searched = CachingRedactor(), FILL[:300]
    for _ in range(3):
        kept = {"prompt_snapshot": [{"role": "system", "content": searched}, {"role": "user", "content": KEY}]}
        assert redactor.redact_tree(kept) == Redactor().redact_tree(kept)
    assert redactor.is_known_clean(searched)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is used again and again stays."""
    monkeypatch.setattr(caching_redactor, "_MOST", 20)
    redactor = CachingRedactor()
    for number in range(100):
        messages = [{"role": "user", "content": text} for text in (FILL, f"{number} {FILL}")]
        redactor.redact_tree({"prompt_snapshot": messages})
        assert len(redactor._latest) <= 20
        assert len(redactor._before) <= 20
    assert redactor.is_known_clean(FILL)
