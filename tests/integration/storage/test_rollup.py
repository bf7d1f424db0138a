"""Totals equal the table, whatever has happened to its rows, and however often their making was broken off."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from llmctx.core.record import DEFAULT_TABLE
from llmctx.dashboard.readers import grant_statements
from llmctx.migrate import commands as migrate
from llmctx.settings import Settings, load
from llmctx.storage.engine import read_connection, write_connection
from llmctx.storage.queries import usage
from llmctx.storage.rollup import RollupRunning, rollup
from llmctx.storage.rollup.build import floor_hour
from llmctx.storage.rollup.marks import MARGIN, closed_until, late_before, mark, merge_spans
from tests.conftest import ROOT
from tests.kit import older
from tests.kit.calls import TABLE
from tests.kit.databases import role
from tests.kit.rows import do, query, record, store

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
T = TABLE.name
KEYS = "model, status, success, session_id IS NOT NULL, user_id IS NOT NULL, identity_source, identity_reason"
OF_TOTALS = KEYS.replace("session_id IS NOT NULL", "has_session").replace("user_id IS NOT NULL", "has_user")
SUMS = (
    "count(*), count(CASE WHEN success IS FALSE THEN 1 END), sum(total_tokens), sum(prompt_tokens), count(cost_usd), "
    "coalesce(round(sum(cost_usd), 8), 0), sum(latency_ms)"
)
OF_SUMS = (
    "sum(calls), sum(errors), sum(total_tokens), sum(prompt_tokens), sum(calls - unpriced), "
    "coalesce(round(sum(cost_usd), 8), 0), sum(total_ms)"
)


async def compare(settings: Settings) -> int:
    """Hours and days say what the rows say. Returns of how many calls."""
    url, zone = settings.database_url, "+00" if settings.is_postgresql else ""
    ((until,),) = await query(url, "SELECT until FROM llmctx_rollup")
    compared = 0
    for unit, table, end in (("hour", "llmctx_hours", str(until)[:19]), ("day", "llmctx_days", str(until)[:10])):
        at = "strftime('%Y-%m-%d %H', {})" if unit == "hour" else "strftime('%Y-%m-%d', {})"
        if settings.is_postgresql:
            at = "date_trunc('" + unit + "', {} AT TIME ZONE 'UTC')"
        found: list[list[tuple[str, ...]]] = []
        for name, when, keys, sums in ((T, "created_at", KEYS, SUMS), (table, '"at"', OF_TOTALS, OF_SUMS)):
            grouped = f"SELECT {at.format(when)} AS a, {keys}, {sums} FROM {name} WHERE {when} < '{end}{zone}'"
            found.append(sorted(map(plain, await query(url, f"{grouped} GROUP BY a, {keys}"))))
        assert found[0] == found[1], unit
        histogram = f"SELECT sum(n) FROM {table}, unnest(latency_calls) n"
        if not settings.is_postgresql:
            histogram = f"SELECT sum(value) FROM {table}, json_each({table}.latencies)"
        assert await query(url, histogram) == await query(url, f"SELECT sum(timed) FROM {table} WHERE timed > 0")
        compared += sum(int(float(row[8])) for row in found[0])
    return compared


def plain(row: Any) -> tuple[str, ...]:
    """Numbers of any kind are alike."""
    return tuple(str(float(value)) if isinstance(value, (int, float, Decimal)) else str(value) for value in row)


@pytest.fixture
def settings(own_database: str) -> Settings:
    """A call log of its own."""
    return load(database_url=own_database)


async def test_totals_are_those_of_the_rows_and_follow_late_ones(settings: Settings) -> None:
    """A row of an hour whose totals are made is marked as it is stored; the next run has it."""
    now = datetime.now(UTC)
    await store(settings, *(record(created_at=now - n * HOUR, latency_ms=n * 100, total_tokens=n) for n in range(60)))
    first = await rollup(settings)
    assert (first.until, first.anew) == (closed_until(now), 0)
    assert await compare(settings) > 80
    assert (await rollup(settings)).verified, "once, for writers that did not know yet"
    late = [record(created_at=now - 9 * DAY), record(created_at=now - 30 * HOUR), record(created_at=now)]
    await store(settings, *late)
    again = await rollup(settings)
    assert (again.hours, again.anew, again.verified) == (0, 2, False)
    assert await compare(settings) > 80
    assert (await rollup(settings, verify=True)).different == []
    assert await query(settings.database_url, "SELECT * FROM llmctx_stale_hours") == []


async def test_what_nobody_marks_is_found_by_comparing(settings: Settings) -> None:
    """Rows that the team's own hand has deleted."""
    now = datetime.now(UTC)
    await store(settings, *(record(created_at=now - n * HOUR) for n in range(4, 60)))
    await rollup(settings)
    gone = now - 50 * HOUR
    async with write_connection(settings) as connection:
        await connection.execute(TABLE.delete().where(TABLE.c.created_at == gone))
        await connection.commit()
    assert (await rollup(settings, verify=True)).different == [gone.date()]
    assert await compare(settings) > 0
    assert (await rollup(settings, verify=True)).different == []


async def test_a_role_that_may_only_insert_leaves_marks(own: str) -> None:
    """The right to do so comes with the tables; without them nothing is said of it."""
    settings, now = load(database_url=own), datetime.now(UTC)
    async with role(own, "") as (url, _):
        writer = load(database_url=url)
        await store(writer, record(created_at=now - 2 * DAY))
        await rollup(settings)
        await store(writer, record(created_at=now - 2 * DAY), record(created_at=now - 3 * DAY))
        ((marks,),) = await query(own, "SELECT count(*) FROM llmctx_stale_hours")
        assert marks >= 2
    assert (await rollup(settings)).anew == 2
    assert await compare(settings) == 6


async def test_a_role_that_may_read_rows_reads_totals(own: str) -> None:
    """The right to do so comes with the tables; a role that is made later gets it by the printed statements."""
    settings = load(database_url=own)
    await store(settings, record(created_at=datetime.now(UTC) - 2 * DAY))
    async with role(own, "") as (early, name), role(own, "") as (late, other):
        await do(own, f"GRANT SELECT ON {DEFAULT_TABLE} TO {name}")
        await rollup(settings)
        await do(own, *(one for one in grant_statements(settings).replace("your_role", other).splitlines()))
        for url in (early, late):
            async with read_connection(load(database_url=url)) as connection:
                assert (await usage(connection, TABLE)).source == "rollup"


@pytest.mark.parametrize("shape", older.SHAPES)
async def test_tables_of_others_have_totals(empty_database: str, shape: older.Shape) -> None:
    """Numbers, times without a zone, columns that are missing."""
    rows = [older.row(shape, n, created_at=f"2026-01-0{1 + n % 9} 23:59:59") for n in range(20)]
    await do(empty_database, *older.made(shape), *rows)
    settings = load(database_url=empty_database)
    await rollup(settings)
    ((calls, days),) = await query(empty_database, "SELECT sum(calls), count(DISTINCT at) FROM llmctx_days")
    assert (calls, days) == (20, 9)
    assert (await rollup(settings, verify=True)).different == []


async def test_one_process_at_a_time(own: str) -> None:
    """Another one says so, and changes nothing."""
    settings = load(database_url=own)
    await rollup(settings)
    async with write_connection(settings) as connection:
        locks = await connection.execute(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))
        assert locks.scalar() == 0
    from llmctx.storage.rollup.rollup import _alone

    async with _alone(settings):
        with pytest.raises(RollupRunning):
            await rollup(settings)


def test_an_hour_is_late_before_totals_are_made_of_it() -> None:
    """With room for clocks that differ; spans that touch become one."""
    for minute in range(0, 120, 7):
        now = datetime(2026, 11, 20, 12, tzinfo=UTC) + timedelta(minutes=minute)
        assert closed_until(now + MARGIN) <= late_before(now)
        assert closed_until(now) <= late_before(now) == floor_hour(now) - HOUR
    a, b, c = (datetime(2026, 1, n, tzinfo=UTC) for n in (1, 2, 3))
    assert merge_spans([(b, c), (a, b)]) == [(a, c)]
    assert merge_spans([(a, c), (a, b)]) == [(a, c)]


async def test_marks_without_totals_are_none(settings: Settings) -> None:
    """Nothing is kept for those who keep no totals."""
    async with write_connection(settings) as connection:
        await mark(connection, TABLE, [datetime.now(UTC)])
        await connection.commit()
    async with read_connection(settings) as connection:
        assert await connection.scalar(text("SELECT 1")) == 1


async def test_totals_go_with_the_table(settings: Settings) -> None:
    """Those of a table that has gone would be taken for those of the next one."""
    await store(settings, record(created_at=datetime.now(UTC) - DAY))
    await rollup(settings)
    planned = await asyncio.to_thread(migrate.plan, settings, down=True)
    assert sum("llmctx rollup" in step.what for step in planned.steps) == 4
    await asyncio.to_thread(migrate.downgrade, settings)
    await asyncio.to_thread(migrate.upgrade, settings)
    assert (await rollup(settings)).until is None


@pytest.mark.timeout(300)  # processes that start and are killed, on a busy machine
async def test_totals_survive_a_bad_day(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Late rows, erasures, backfills, prices and retention in random order, killed with -9 at random."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    rounds = 40 if request.config.getoption("--bad-days") else 3
    for number in range(rounds):
        arguments = [settings.database_url, str(seed + number), str(tmp_path)]
        command = [sys.executable, "-m", "tests.kit.totals_day", *arguments]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            done = [process.stdout.readline() for _ in range(chance.randrange(2, 8))]
            await asyncio.sleep(chance.random() * 0.2)  # somewhere inside of the next one
            process.kill()
        assert (process.returncode, all(done)) == (-9, True)
    await rollup(settings)
    await compare(settings)
