"""Usage over time: every call in one bucket, in the reader's zone; the same from rows as from totals."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.settings import Settings, load
from llmctx.storage import queries
from llmctx.storage.engine import read_connection, write_connection
from llmctx.storage.queries import Filters, Usage
from llmctx.storage.rollup import rollup
from tests.kit.calls import NOBODY, TABLE

NOW = datetime(2026, 11, 20, 12, 34, 56, tzinfo=UTC)
GROUPS: Sequence[queries.Group] = ("day", "agent", "status")
SINCE = NOW - timedelta(days=40)
ZONES: Sequence[tuple[str, queries.Bucket, queries.By | None]] = (
    ("Asia/Shanghai", "day", "source"), ("Asia/Kolkata", "day", None), ("America/New_York", "day", "model"),
    ("America/St_Johns", "week", "error"), ("Pacific/Auckland", "day", None),
)  # fmt: skip


def made(chance: random.Random, count: int) -> list[dict[str, Any]]:
    """Calls of 40 days."""
    rows = []
    for number in range(count):
        status = chance.choices(["ok", "error", "lost"], [8, 1, 1])[0]
        rows.append(
            {
                **NOBODY,
                "call_id": UUID(int=(0x01A20000 + number << 96) + number),
                "created_at": NOW - timedelta(seconds=int(chance.random() * 40 * 86_400)),
                "model": chance.choice(["small", "large", "tiny"]),
                "agent_key": chance.choice([None, "helper", "writer"]),
                "session_id": chance.choice([None, "s-1"]),
                "user_id": chance.choice([None, "ada"]),
                "status": status,
                "success": status == "ok",
                "identity_source": chance.choice(["context", "none"]),
                "latency_ms": chance.choice([None, 0, int(chance.lognormvariate(6, 1))]),
                "total_tokens": chance.choice([None, 100]),
                "cost_usd": chance.choice([None, Decimal("0.000123457")]),
                "attributes": chance.choice([None, {"llmctx": {"route": "GET /chat/{id}"}}]),
            }
        )
    return rows


@pytest.fixture
async def settings(any_database: str) -> Settings:
    """A call log with calls of 40 days, and no totals."""
    settings = load(database_url=any_database)
    async with write_connection(settings) as connection:
        await connection.execute(TABLE.insert(), made(random.Random(40), 1500))
        await connection.commit()
    return settings


async def every(connection: AsyncConnection) -> list[tuple[str, Usage]]:
    """The answers to many questions."""
    found = []
    cuts: list[tuple[Any, Any]] = [(None, None), (None, "model"), ("day", "status"), ("week", None), ("month", "error")]
    for filters in (
        Filters(since=SINCE, until=NOW),
        Filters(since=NOW - timedelta(days=9, hours=5, minutes=7), until=NOW - timedelta(hours=30), model="large"),
        Filters(since=SINCE, until=NOW, errors=True, agent="helper", within=Filters(more={"source": "none"})),
        Filters(since=SINCE, until=NOW, unattributed=True, status="lost"),
    ):
        for bucket, by in cuts:
            one = await queries.usage(connection, TABLE, filters, bucket=bucket, by=by)
            found.append((f"{filters} {bucket} {by}", one))
        for zone, cut, key in ZONES:
            one = await queries.usage(connection, TABLE, filters, bucket=cut, zone=zone, by=key)
            found.append((f"{filters} {zone}", one))
    hours = Filters(since=NOW - timedelta(days=3), until=NOW)
    found.append(("hours", await queries.usage(connection, TABLE, hours, bucket="hour")))
    return found


def without_p95(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A percentile from totals is interpolated."""
    return [{name: value for name, value in row.items() if name != "p95_ms"} for row in rows]


async def test_totals_say_what_the_rows_say(settings: Settings) -> None:
    """Every question has the same answer, which says from what it was read."""
    async with read_connection(settings) as connection:
        of_rows = await every(connection)
        before = [
            await queries.stats_by(connection, TABLE, by, Filters(model="large")) for by in ("day", "agent", "status")
        ]
        uncovered = await queries.coverage(connection, TABLE)
    report = await rollup(settings, now=NOW)
    assert report.until == NOW.replace(hour=11, minute=0, second=0)
    async with read_connection(settings) as connection:
        of_totals = await every(connection)
        stats = [
            await queries.stats_by(connection, TABLE, by, Filters(model="large")) for by in ("day", "agent", "status")
        ]
        covered = await queries.coverage(connection, TABLE)
        nodes = await queries.usage(connection, TABLE, Filters(since=SINCE), by="node")
        routes = await queries.usage(connection, TABLE, Filters(since=SINCE), by="route")
    for (what, rows), (_, totals) in zip(of_rows, of_totals, strict=True):
        assert totals.rows == rows.rows, what
        assert totals.total == rows.total, what
        assert (rows.source, rows.as_of, totals.source) == ("rows", None, "rollup"), what
    for old, new in zip(before, stats, strict=True):
        assert (old.source, new.source) == ("rows", "rollup")
        assert without_p95(old.rows) == without_p95(new.rows)
    assert (covered.source, replace(covered, source="rows", as_of=None)) == ("rollup", uncovered)
    assert {nodes.source, routes.source} == {"rows"}, "nodes and routes are not in totals"
    assert {row.key for row in routes.rows} == {None, "GET /chat/{id}"}


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai", "Asia/Kolkata", "America/New_York"])
async def test_days_are_those_of_the_zone(settings: Settings, zone: str) -> None:
    """Every call is of the day that its clock shows, also where clocks are put back; the sums are those of all."""
    rows = made(random.Random(40), 1500)
    wanted = Counter(row["created_at"].astimezone(ZoneInfo(zone)).date() for row in rows)
    async with read_connection(settings) as connection:
        found = await queries.usage(connection, TABLE, Filters(since=SINCE, until=NOW), bucket="day", zone=zone)
    assert {row.at.astimezone(ZoneInfo(zone)).date(): row.calls for row in found.rows if row.at} == wanted
    timed = sorted(row["latency_ms"] for row in rows if row["latency_ms"] is not None)
    total = found.total
    assert (total.calls, total.errors) == (1500, sum(not row["success"] for row in rows))
    assert total.with_both == sum(bool(row["session_id"] and row["user_id"]) for row in rows)
    assert total.cost_usd == sum(row["cost_usd"] or 0 for row in rows)
    assert total.unpriced == sum(row["cost_usd"] is None for row in rows)
    assert total.avg_ms == round(sum(timed) / len(timed))
    for share, shown in ((0.5, total.p50_ms), (0.95, total.p95_ms), (0.99, total.p99_ms)):
        assert shown == pytest.approx(timed[int(share * len(timed))], rel=0.05)


async def test_few_keys_are_shown_and_the_others_as_one(settings: Settings) -> None:
    """A thousand agents are no plot."""
    async with read_connection(settings) as connection:
        found = await queries.usage(connection, TABLE, Filters(since=SINCE, until=NOW), by="model", keys=1)
    assert [(row.key, row.calls > 0) for row in found.rows] == [(found.rows[0].key, True), ("(others)", True)]
    assert sum(row.calls for row in found.rows) == found.total.calls == 1500


async def test_what_cannot_be_cut_is_refused(settings: Settings) -> None:
    """A zone that there is not, and more buckets than anybody reads."""
    async with read_connection(settings) as connection:
        for zone in ("Mars/Olympus", "../etc/passwd", ""):
            with pytest.raises(Exception, match="no time zone"):
                await queries.usage(connection, TABLE, bucket="day", zone=zone)
        with pytest.raises(Exception, match="longer"):
            await queries.usage(connection, TABLE, Filters(since=NOW - timedelta(days=99)), bucket="hour")
