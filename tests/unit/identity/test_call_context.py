"""Ids become text, and odd ones are cleaned without ever becoming the same."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctx import CallContext
from llmctx.core.diagnostics import diagnostics
from llmctx.identity.scope import ID_LIMIT, clean_id


@pytest.mark.parametrize(
    ("given_id", "stored"),
    [(42, "42"), (uuid.UUID(int=7), str(uuid.UUID(int=7))), ("", None), ("王小明", "王小明"), ("a b", "a b")],
)
def test_ids_become_text(given_id: object, stored: str | None) -> None:
    """Numbers and UUIDs are what applications have; an empty text is no id."""
    assert CallContext(user_id=given_id).user_id == stored  # type: ignore[arg-type]


def test_a_long_id_is_kept_whole_up_to_the_limit() -> None:
    """250 characters are an id like any other."""
    assert CallContext(user_id="x" * ID_LIMIT).user_id == "x" * ID_LIMIT


@pytest.mark.parametrize("bad", ["a\x00b", "a\nb", "\x1b[31mred", "x" * 10_000, "\ud800"])
def test_an_odd_id_is_cleaned_and_counted(bad: str) -> None:
    """Control characters and ten thousand characters are stored in a form that is safe, and say so in the log."""
    before = diagnostics.counts["cleaned_id"]
    stored = CallContext(user_id=bad).user_id
    assert stored is not None
    assert len(stored) <= ID_LIMIT
    assert stored.isprintable()
    assert diagnostics.counts["cleaned_id"] == before + 1


@given(st.text(min_size=1), st.text(min_size=1))
def test_two_ids_never_become_one(one: str, other: str) -> None:
    """Cleaning may not merge two users; and a cleaned id is stable."""
    assert (clean_id(one) == clean_id(other)) == (one == other)
