"""Each filter finds its rows."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage import queries
from llmctx.storage.queries import Filters
from tests.kit.calls import NOON, TABLE, insert, row

FILTERS: list[tuple[Filters, set[int]]] = [
    (Filters(), {1, 2, 3, 4, 5, 6}),
    (Filters(user="ada"), {1, 4, 6}),
    (Filters(user="o'hara; --"), {2}),
    (Filters(session="s-1", user="ada"), {1, 6}),
    (Filters(agent="triage"), {3}),
    (Filters(model="large"), {4}),
    (Filters(node="clarify"), {3}),
    (Filters(status="cancelled"), {5}),
    (Filters(errors=True), {4, 5}),
    (Filters(unattributed=True), {3, 4}),
    (Filters(unattributed=True, errors=True), {4}),
    (Filters(since=NOON + timedelta(minutes=5)), {5, 6}),
    (Filters(until=NOON + timedelta(minutes=2)), {1}),
    (Filters(since=(NOON + timedelta(minutes=2)).astimezone(), until=NOON + timedelta(minutes=4)), {2, 3}),
    (Filters(text='He said "Hi"\nTwice'), {6}),
    (Filters(text="LIMIT"), {4}),
    (Filters(text="100%"), {5}),
    (Filters(text="100_"), set()),
    (Filters(unpriced=True), {1, 3, 4, 5, 6}),
    (Filters(min_cost=Decimal("0.02")), {2}),
    (Filters(min_cost=Decimal("0.021")), set()),
    (Filters(min_ms=5000), {5, 6}),
    (Filters(more={"provider": "groq"}), {3}),
    (Filters(more={"error": "429"}), {4}),
    (Filters(within=Filters(user="ada")), {1, 4, 6}),
    (Filters(user="bob", within=Filters(user="ada")), set()),
    (Filters(session="s-1", within=Filters(errors=True)), {5}),
]


@pytest.mark.parametrize(("filters", "expected"), FILTERS, ids=[str(n) for n in range(len(FILTERS))])
async def test_each_filter_finds_its_rows(connection: AsyncConnection, filters: Filters, expected: set[int]) -> None:
    """Each alone and some together; quotes and wildcards are only text."""
    await insert(
        connection,
        row(1),
        row(2, user_id="o'hara; --", cost_usd=Decimal("0.02")),
        row(3, user_id=None, agent_key="triage", node="clarify", provider="groq"),
        row(
            4,
            session_id=None,
            model="large",
            success=False,
            status="error",
            error_code="429",
            error_message="rate limit",
        ),
        row(5, user_id="bob", success=False, status="cancelled", response_snapshot='"100% sure"'),
        row(6, prompt_snapshot='[{"role":"user","content":"he said \\"hi\\"\\ntwice"}]'),
    )
    found = await queries.calls(connection, TABLE, filters)
    assert {each["latency_ms"] // 1000 for each in found} == expected
