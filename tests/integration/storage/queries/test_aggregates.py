"""Sums, percentiles, sessions and users: what is known adds up, and the rest stays unknown."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage import queries
from tests.kit.calls import TABLE, insert, row


async def test_stats_add_up_and_leave_the_unknown_unknown(connection: AsyncConnection) -> None:
    """Sums of what is known, None where nothing is, the 95th percentile by rank on both databases."""
    slow = [row(n, model="large", latency_ms=n, prompt_tokens=10, cost_usd=Decimal("0.1")) for n in range(1, 21)]
    failed = row(30, model="large", latency_ms=None, success=False, status="error")
    await insert(connection, *slow, failed, row(40, latency_ms=7), row(41, latency_ms=8))
    large, small = await queries.stats(connection, TABLE, "model")
    assert large == {
        "model": "large",
        "calls": 21,
        "errors": 1,
        "prompt_tokens": 200,
        "completion_tokens": None,
        "total_tokens": None,
        "cost_usd": Decimal("2.000000000"),
        "avg_ms": 10,
        "p95_ms": 19,
    }
    assert (small["calls"], small["cost_usd"], small["avg_ms"], small["p95_ms"]) == (2, None, 8, 8)


async def test_percentiles_are_right_to_a_hundredth(connection: AsyncConnection) -> None:
    """Of every group never less than 95 % of its latencies, and at most 1 % above the smallest such."""
    chance = random.Random(95)
    typical = {"a": 3, "b": 8, "c": 14}
    made = {name: [int(chance.lognormvariate(mean, 1)) for _ in range(150)] for name, mean in typical.items()}
    every = [(name, ms) for name, some in made.items() for ms in some]
    await insert(connection, *(row(n, model=name, latency_ms=ms) for n, (name, ms) in enumerate(every)))
    for group in await queries.stats(connection, TABLE, "model"):
        exact = sorted(made[group["model"]])[-(-150 * 95 // 100) - 1]
        assert exact <= group["p95_ms"] <= exact * 1.01
        assert group["p95_ms"] in made[group["model"]]


@pytest.mark.parametrize("by", list(queries.GROUPS))
async def test_stats_group_by_each_dimension(connection: AsyncConnection, by: queries.Group) -> None:
    """Every group holds every row once; rows without the value are a group of their own."""
    await insert(connection, row(1), row(2, user_id=None, session_id=None, agent_key="a", node="n"), row(3))
    found = await queries.stats(connection, TABLE, by)
    assert sum(each["calls"] for each in found) == 3
    assert all(by in each for each in found)


async def test_days_are_utc_and_newest_first(connection: AsyncConnection) -> None:
    """A call a second before midnight UTC belongs to the day that ends."""
    midnight = datetime(2026, 11, 21, tzinfo=UTC)
    await insert(connection, row(1, created_at=midnight - timedelta(seconds=1)), row(2, created_at=midnight))
    found = await queries.stats(connection, TABLE, "day")
    assert [each["day"] for each in found] == ["2026-11-21", "2026-11-20"]
