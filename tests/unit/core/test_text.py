"""Texts for people: sentences."""

from __future__ import annotations

import pytest

from llmctx.core.text import capitalize, counted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("it has no key", "It has no key"),
        ("biz_agent_llm_call_logs is no call log", "biz_agent_llm_call_logs is no call log"),
        ("audit.calls is no call log", "audit.calls is no call log"),
        ("nothing. At all", "Nothing. At all"),
        ("", ""),
    ],
)
def test_a_sentence_begins_with_a_capital_but_a_name_keeps_its_spelling(text: str, expected: str) -> None:
    assert capitalize(text) == expected


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 rows wait"), (1, "1 row waits"), (2, "2 rows wait"), (12_000, "12,000 rows wait")]
)
def test_one_is_not_many(number: int, words: str) -> None:
    """Also where a verb follows."""
    assert counted(number, "row waits", "rows wait") == words
    assert counted(number, "row") == words.removesuffix(" wait").removesuffix(" waits")
