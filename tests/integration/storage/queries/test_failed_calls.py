"""What failed, in groups, with what their messages have in common."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage import queries
from llmctx.storage.queries import Filters
from llmctx.storage.queries.failed_calls import SLOTS, normalise
from tests.kit.calls import NOON, TABLE, row


async def test_what_fails_alike_is_one_group(connection: AsyncConnection) -> None:
    """How many, since when, how it went on, and what they say; calls that went well are none."""
    limit = [
        row(n, success=False, status="error", error_code="RateLimitError", error_message=f"Limit: try in {n} s\nmore")
        for n in range(6)
    ]
    lost = row(9, success=False, status="lost")
    old = row(10, success=None, status=None)
    await connection.execute(TABLE.insert(), [*limit, lost, old, row(11)])
    await connection.commit()
    time = Filters(since=NOON, until=NOON + timedelta(hours=1))
    found = await queries.errors(connection, TABLE, time)
    assert found.count == 7
    first, second = found.groups
    assert (first.error_code, first.model, first.status, first.count) == ("RateLimitError", "small", "error", 6)
    assert (first.first, first.last, round(first.share)) == (NOON, NOON + timedelta(minutes=5), 86)
    assert first.messages == (("Limit: try in # s", 6),)
    assert (len(first.trend), sum(first.trend), first.trend[:2]) == (SLOTS, 6, (3, 2))
    assert (second.status, second.error_code, second.messages) == ("lost", None, ())
    assert (await queries.errors(connection, TABLE, Filters(since=time.since, status="ok"))).groups == []
    assert (await queries.errors(connection, TABLE, time, limit=1)).count == 7


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Error code: 429 - Rate limit for org-a1b2c3d4e5f6g7 of 10,000", "Error code: # - Rate limit for # of #"),
        ("  \n call 0190f0a8-0000-7000-8000-000000000007 failed", "call # failed"),
        ("Connection reset by peer", "Connection reset by peer"),
        ("余额不足 12.5 元", "余额不足 # 元"),
        ("", ""),
    ],
)
def test_messages_of_one_kind_are_alike(said: str, kind: str) -> None:
    """Ids and numbers are what varies."""
    assert normalise(said) == kind
