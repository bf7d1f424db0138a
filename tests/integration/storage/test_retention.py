"""The table stays healthy: partitions in time, what has expired goes, and nobody has to wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import make_url

from llmctx import cli
from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError
from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.settings import Settings, load
from llmctx.storage.retention import Policy, retain
from llmctx.storage.retention import large_default as crowded
from llmctx.storage.retention import partitions as partitions_module
from llmctx.storage.retention.scheduler import keep
from tests.kit import older
from tests.kit.rows import do, query, record
from tests.kit.stored import store

NOW = datetime(2031, 3, 15, 12, tzinfo=UTC)
PARTS = f"""SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = '{DEFAULT_TABLE}'::regclass"""


async def fresh(url: str) -> Settings:
    settings = load(database_url=url)
    await asyncio.to_thread(migrate.upgrade, settings)
    return settings


async def partitions(settings: Settings) -> set[str]:
    return {row[0].removeprefix(f"{DEFAULT_TABLE}_") for row in await query(settings.database_url, PARTS)}


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


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


async def test_months_that_were_forgotten(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the default partition holds too much to be held up, the months begin in two days, beside those who write.

    Broken off anywhere, the next run goes on; rows that are dated ahead are where they belong in the end.
    """
    monkeypatch.setattr(crowded, "CROWDED_BYTES", 0)
    settings = await fresh(empty_database)
    await do(
        empty_database, f"ALTER TABLE {DEFAULT_TABLE} ADD twice integer GENERATED ALWAYS AS (latency_ms * 2) STORED"
    )
    old = record(created_at=NOW, latency_ms=4)
    await store(settings, old, *(record(created_at=NOW + timedelta(days=days)) for days in (1, 3, 20)))
    report = await retain(settings, Policy(ahead=1), now=NOW)
    assert [step.partition(" for ")[2] for step in report.steps] == ["2031-03, from 2031-03-17 on", "2031-04"]
    role = "llmctx_test_writer"
    await do(
        empty_database,
        f"DROP ROLE IF EXISTS {role}",
        f"CREATE ROLE {role} LOGIN",
        f"GRANT INSERT ON {DEFAULT_TABLE} TO {role}",
    )
    patiently, runs, calls = partitions_module.patiently, 0, 0

    async def and_break(*given: Any) -> None:
        nonlocal calls
        await patiently(*given)
        calls += 1
        ahead = record(created_at=NOW + timedelta(days=10))
        await store(load(database_url=make_url(empty_database).set(username=role).render_as_string(False)), ahead)
        if calls % 4 != 3:  # else it would never come to the attaching
            raise KeyboardInterrupt

    monkeypatch.setattr(crowded, "patiently", and_break)
    try:
        while runs < 10:
            runs += 1
            try:
                await retain(settings, Policy(ahead=1), do=True, now=NOW)
            except KeyboardInterrupt:
                continue
            break
    finally:
        await do(empty_database, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")
    assert runs == 7
    count = "SELECT count(*) FROM ONLY " + DEFAULT_TABLE
    assert await query(empty_database, f"{count}_default") == [(2,)]
    assert await query(empty_database, f"{count}_p2031_03") == [(1 + calls,)]
    assert await query(empty_database, f"{count}_p2031_04") == [(1,)]
    assert (await retain(settings, Policy(ahead=1), do=True, now=NOW)).steps == []
    report = await retain(settings, Policy(ahead=0), now=datetime(2031, 5, 30, tzinfo=UTC))
    assert "2031-05 stays in the default partition" in report.notes[0]


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


async def test_texts_go_before_their_rows(any_empty_database: str) -> None:
    """The figures stay."""
    settings = await fresh(any_empty_database)
    texts = {"prompt_snapshot": '"p"', "response_snapshot": '"r"', "reasoning_snapshot": '"t"', "prompt_tokens": 7}
    await store(settings, record(created_at=ago(40), **texts), record(created_at=ago(2), **texts))
    planned = await retain(settings, Policy(snapshots=30, ahead=0), now=NOW)
    assert any("texts" in step for step in planned.steps)
    done = await retain(settings, Policy(snapshots=30, ahead=0), do=True, now=NOW)
    assert done.snapshots == 1
    columns = "prompt_snapshot, response_snapshot, reasoning_snapshot, prompt_tokens"
    found = await query(any_empty_database, f"SELECT {columns} FROM {DEFAULT_TABLE} ORDER BY created_at")
    assert [tuple(row) for row in found] == [(None, None, None, 7), ('"p"', '"r"', '"t"', 7)]
    assert (await retain(settings, Policy(snapshots=30, ahead=0), do=True, now=NOW)).snapshots == 0


@pytest.mark.parametrize("shape", older.SHAPES)
async def test_a_table_without_partitions_loses_what_has_expired(empty_database: str, shape: older.Shape) -> None:
    """In small deletes, with the messages that hang on the calls; writers go on meanwhile."""
    key, number = ("", "") if shape == "numbered" else ("id, ", "n, ")
    many = f"""INSERT INTO {DEFAULT_TABLE} ({key}call_id, model, success, created_at, prompt_snapshot)
        SELECT {number}'call-' || n, 'm', n % 10 > 0, TIMESTAMP '2031-03-15 12:00:00' - n * INTERVAL '1 hour',
        repeat('x', 2000) FROM generate_series(1, 3000) n"""
    hanging = f"INSERT INTO {older.CHILD} (call_id, content) SELECT call_id, 'said' FROM {DEFAULT_TABLE}"
    await do(empty_database, *older.made(shape), many, hanging)
    settings = load(database_url=empty_database)
    seen: list[int] = []
    report = await retain(
        settings, Policy(rows=30, errors=60), do=True, now=NOW, progress=lambda what, more, total: seen.append(more)
    )
    assert report.rows == 3000 - 720 - 72
    old = "created_at < TIMESTAMP '2031-02-13 12:00:00' AND success"
    assert await query(empty_database, f"SELECT count(*) FROM {DEFAULT_TABLE} WHERE {old}") == [(0,)]
    orphans = f"SELECT count(*) FROM {older.CHILD} WHERE call_id NOT IN (SELECT call_id FROM {DEFAULT_TABLE})"
    assert await query(empty_database, orphans) == [(0,)]
    assert sum(seen) > 0


async def test_sqlite_loses_what_has_expired(sqlite_url: str) -> None:
    """The same, where there are no partitions at all."""
    settings = await fresh(sqlite_url)
    await store(
        settings, record(created_at=ago(40)), record(created_at=ago(40), success=False), record(created_at=ago(1))
    )
    report = await retain(settings, Policy(rows=30, errors=90), do=True, now=NOW)
    assert report.rows == 1
    assert await query(sqlite_url, f"SELECT count(*) FROM {DEFAULT_TABLE}") == [(2,)]


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


@pytest.mark.parametrize("works", [True, False])
async def test_pg_partman_looks_after_its_own_tables(empty_database: str, works: bool) -> None:
    """It is asked to, or left alone: llmctx neither makes nor drops a partition, and rows expire all the same."""
    settings = await fresh(empty_database)
    maintenance = f"""CREATE FUNCTION partman.run_maintenance(p_parent_table text, p_analyze boolean DEFAULT false)
        RETURNS void LANGUAGE plpgsql AS $$ BEGIN ASSERT p_parent_table = 'public.{DEFAULT_TABLE}';
        CREATE TABLE theirs PARTITION OF {DEFAULT_TABLE} FOR VALUES FROM ('2031-03-01') TO ('2031-04-01'); END $$"""
    await do(
        empty_database,
        "CREATE SCHEMA partman",
        "CREATE TABLE partman.part_config (parent_table text PRIMARY KEY, premake int DEFAULT 4, retention text)",
        *([maintenance] if works else []),
        f"CREATE TABLE old PARTITION OF {DEFAULT_TABLE} FOR VALUES FROM ('2030-01-01') TO ('2030-02-01')",
    )
    before = await partitions(settings)
    of_us = await retain(settings, Policy(rows=90), now=NOW)
    assert any("drop partition old" in step for step in of_us.steps)  # no row of part_config names our table
    await do(empty_database, f"INSERT INTO partman.part_config VALUES ('public.{DEFAULT_TABLE}')")
    await store(settings, record(created_at=datetime(2030, 1, 15, tzinfo=UTC)))
    report = await retain(settings, Policy(rows=90), do=True, now=NOW)
    assert await partitions(settings) == before | ({"theirs"} if works else set())
    assert any("SET retention = '90 days'" in note for note in report.notes)
    assert "pg_partman" in str(report.steps if works else report.notes)
    assert report.rows == 1


async def test_tables_in_which_every_call_is_looked_for_in_all_of_it(empty_database: str) -> None:
    """The index that they lack is named."""
    await do(empty_database, *older.made("named"), older.row("named", 1))
    settings = load(database_url=empty_database)
    (note,) = (await retain(settings, Policy(rows=30), now=NOW)).notes
    assert f"CREATE INDEX CONCURRENTLY ON {older.CHILD} (call_id);" in note
    await do(empty_database, f"CREATE INDEX ON {older.CHILD} (call_id)")
    assert (await retain(settings, Policy(rows=30), now=NOW)).notes == []


async def test_one_of_the_processes_does_it(empty_database: str) -> None:
    """The one that holds the lock; when it goes, the next one does."""
    settings = load(database_url=empty_database, retain="on", retain_days=30)
    await asyncio.to_thread(migrate.upgrade, settings)
    old = datetime.now(UTC) - timedelta(days=400)
    count = f"SELECT count(*) FROM {DEFAULT_TABLE}"
    keepers: list[asyncio.Task[None]] = []

    async def one_more() -> None:
        keepers.append(asyncio.create_task(keep(settings, first_s=0.01, look_s=0.2)))

    try:
        await store(settings, record(created_at=old))
        await one_more()
        await wait_for_rows(empty_database, count, 0)
        await store(settings, record(created_at=old))
        await one_more()  # it has to wait for the first one, which has done its work for today
        keepers[0].cancel()
        await wait_for_rows(empty_database, count, 0)
    finally:
        for one in keepers:
            one.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await one
    assert not diagnostics.counts["retain_failed"]


async def wait_for_rows(url: str, statement: str, number: int) -> None:
    deadline = asyncio.get_running_loop().time() + 20
    while (await query(url, statement))[0][0] != number:
        assert asyncio.get_running_loop().time() < deadline, statement
        await asyncio.sleep(0.05)


def test_what_makes_no_sense_is_refused() -> None:
    """Errors cannot go before the others."""
    with pytest.raises(ConfigError):
        Policy(errors=3)
    with pytest.raises(ConfigError):
        Policy(rows=30, errors=3)


def test_on_the_command_line(any_empty_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A rehearsal unless told otherwise."""
    migrate.upgrade(load(database_url=any_empty_database))

    def llmctx(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return cli.run(["--database-url", any_empty_database, "retain", *arguments]), *capsys.readouterr()

    assert llmctx("--errors", "3")[0] == 2
    code, out, _ = llmctx("--rows", "30", "--ahead", "5")
    assert code == 0
    if any_empty_database.startswith("postgresql"):
        assert out.count("would: make partition") == 3
        assert len(json.loads(llmctx("--ahead", "5", "--yes", "--json")[1])["steps"]) == 3
    assert "Nothing to do" in llmctx("--ahead", "5", "--yes")[2]
