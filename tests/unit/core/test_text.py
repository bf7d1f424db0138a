"""Texts for people: sentences."""

from __future__ import annotations

import pytest

from llmctx.core.text import capitalize


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
