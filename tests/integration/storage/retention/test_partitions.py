"""Partitions are there in time, and expired months go as a whole."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from llmctx.storage.retention import Policy, retain
from tests.kit.months import NOW, ago, fresh, partitions
from tests.kit.rows import do, query, record, store


async def test_months_to_come_get_their_partitions(empty_database: str) -> None:
    """Rows that came before their month had one move there from the default partition; a second run finds nothing."""
    settings = await fresh(empty_database)
    early = record(created_at=NOW, prompt_snapshot='"kept"')
    await store(settings, early)
    planned = await retain(settings, Policy(), now=NOW)
    assert [step.split()[2].removeprefix(f"{DEFAULT_TABLE}_") for step in planned.steps] == [
        "p2031_03",
        "p2031_04",
        "p2031_05",
    ]
    assert "p2031_03" not in await partitions(settings)
    await retain(settings, Policy(), do=True, now=NOW)
    assert {"p2031_03", "p2031_04", "p2031_05", "default"} <= await partitions(settings)
    assert await query(empty_database, f"SELECT prompt_snapshot FROM ONLY {DEFAULT_TABLE}_p2031_03") == [('"kept"',)]
    assert (await retain(settings, Policy(), do=True, now=NOW)).steps == []
    await store(settings, record(created_at=NOW + timedelta(days=40)))
    assert await query(empty_database, f"SELECT count(*) FROM {DEFAULT_TABLE}_default") == [(0,)]
    state = await asyncio.to_thread(migrate.check, settings)
    assert state.is_current


async def test_expired_months_go_as_a_whole_and_errors_later(empty_database: str) -> None:
    """Dropped or detached; of a month whose errors are still kept, the others go one by one."""
    settings = await fresh(empty_database)
    for month in (-5, -4, -3, -2, -1, 0):
        await retain(settings, Policy(ahead=0), do=True, now=NOW + timedelta(days=30.5 * month))
    rows = {
        days: (record(created_at=ago(days)), record(created_at=ago(days), success=False, status="error"))
        for days in (150, 100, 50, 1)
    }
    await store(settings, *(one for pair in rows.values() for one in pair))
    await do(empty_database, "ANALYZE")
    report = await retain(settings, Policy(rows=60, errors=120, ahead=0), do=True, now=NOW)
    assert "p2030_10" not in await partitions(settings)
    assert report.rows == 1
    ((left,),) = await query(empty_database, f"SELECT count(*) FROM {DEFAULT_TABLE}")
    assert left == 5
    report = await retain(settings, Policy(rows=60, ahead=0, detach=True), do=True, now=NOW)
    assert "p2030_12" not in await partitions(settings)
    assert await query(empty_database, f"SELECT success FROM {DEFAULT_TABLE}_p2030_12") == [(False,)]
    report = await retain(settings, Policy(rows=30, ahead=0, exact=True), do=True, now=NOW)
    assert [row[0] for row in await query(empty_database, f"SELECT created_at FROM {DEFAULT_TABLE}")] == [
        ago(1),
        ago(1),
    ]


async def test_what_was_there_before_the_partitions_expires_to_the_day(empty_database: str) -> None:
    """Years may lie in one partition: of an adopted table, of a default, of parts that are cut once more."""
    log, at = DEFAULT_TABLE, "TIMESTAMPTZ '2031-03-15 12:00:00+00' - n * INTERVAL '1 day'"
    await do(
        empty_database,
        f"""CREATE TABLE {log} (call_id uuid, model text, created_at timestamptz NOT NULL, success boolean)
            PARTITION BY RANGE (created_at)""",
        f"""CREATE TABLE {log}_before PARTITION OF {log} FOR VALUES FROM (MINVALUE) TO ('2031-03-01')
            PARTITION BY HASH (call_id)""",
        *[f"CREATE TABLE cut_{n} PARTITION OF {log}_before FOR VALUES WITH (MODULUS 2, REMAINDER {n})" for n in (0, 1)],
        f"CREATE TABLE {log}_p2031_03 PARTITION OF {log} FOR VALUES FROM ('2031-03-01') TO ('2031-04-01')",
        f"INSERT INTO {log} SELECT gen_random_uuid(), 'm', {at} FROM generate_series(1, 900) n",
    )
    settings = load(database_url=empty_database)
    report = await retain(settings, Policy(rows=90, ahead=0), do=True, now=NOW)
    assert report.rows == 900 - 90
    assert await query(empty_database, f"SELECT count(*) FROM {log}") == [(90,)]


async def test_a_table_that_its_team_cut_by_something_else(empty_database: str) -> None:
    """Its parts are looked through one by one; none is made, none is dropped."""
    at = "TIMESTAMPTZ '2031-03-15 12:00:00+00' - n * INTERVAL '1 day'"
    await do(
        empty_database,
        f"CREATE TABLE {DEFAULT_TABLE} (call_id uuid, model text, created_at timestamptz) PARTITION BY LIST (model)",
        *[f"CREATE TABLE of_{name} PARTITION OF {DEFAULT_TABLE} FOR VALUES IN ('{name}')" for name in "ab"],
        f"INSERT INTO {DEFAULT_TABLE} SELECT gen_random_uuid(), 'a', {at} FROM generate_series(1, 100) n",
    )
    report = await retain(load(database_url=empty_database), Policy(rows=30), do=True, now=NOW)
    assert report.rows == 70
    assert await query(empty_database, f"SELECT count(*) FROM {DEFAULT_TABLE}") == [(30,)]
