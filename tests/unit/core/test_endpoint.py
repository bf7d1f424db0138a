"""Whether rows that were to go to one database may go into another."""

from __future__ import annotations

import pytest

from llmctx.core.endpoint import Endpoint, is_same_endpoint

HERE = Endpoint("shop", frozenset({"a", "b"}))


@pytest.mark.parametrize(
    ("other", "same_name", "expected"),
    [
        (Endpoint("other name", frozenset({"b"})), False, True),
        (Endpoint("shop", frozenset({"c"})), True, False),
        (Endpoint("shop"), True, True),
        (Endpoint("elsewhere"), False, False),
    ],
    ids=["another name for it", "another of its name", "never reached, of its name", "never reached, of another"],
)
def test_the_database_counts_and_its_name_only_where_it_was_never_reached(
    other: Endpoint, same_name: bool, expected: bool
) -> None:
    assert is_same_endpoint(HERE, other, goes_by_our_name=same_name) is expected
