"""An adopted table becomes one that is partitioned by month, beside its writers, and one piece again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from llmctx import bind, cli
from llmctx.calllog import CallLog
from llmctx.core.errors import LlmctxError
from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.migrate import partition as partitioning
from llmctx.settings import load
from tests.conftest import execute
from tests.kit.databases import columns_of
from tests.kit.rows import query
from tests.kit.support import wait_for
from tests.migration.filling import CHILD, OldWriter, connect, digest, fill
from tests.migration.psql import dumped, psql

ROOT = Path(__file__).parents[2]
T = DEFAULT_TABLE


@pytest.mark.parametrize("shape", ["numbers", "unkeyed"])
async def test_there_and_back_beside_a_writer(empty_database: str, shape: str) -> None:
    """No row is lost, changed or refused, those of the future neither; and the way back leaves what was before."""
    url, settings = empty_database, load(database_url=empty_database)
    await fill(url, shape, 10_000)
    if shape == "numbers":  # nothing of theirs can be tied to a table of parts
        with pytest.raises(LlmctxError, match="has not been adopted"):
            await asyncio.to_thread(partitioning.plan, settings)
    await asyncio.to_thread(migrate.upgrade, settings)
    connection = await connect(url)
    before, columns = dumped(url), await columns_of(connection)
    had = await digest(connection, columns)
    theirs = f"{T} WHERE model <> 'gpt-4o' OR temperature <> 0.5"
    if shape == "numbers":
        with pytest.raises(LlmctxError, match="--drop-foreign-keys"):
            await asyncio.to_thread(partitioning.partition, settings)
        assert dumped(url) == before
    async with OldWriter(url, shape) as old:
        await wait_for(lambda: len(old.written) > 20, "the old writer")
        await asyncio.to_thread(partitioning.partition, settings, drop_foreign_keys=True)
        assert await digest(connection, columns, theirs) == had
        await asyncio.to_thread(ahead, url, shape)
        reached = len(old.written)
        await wait_for(lambda: len(old.written) > reached + 20, "the old writer to go on")
        parted = dumped(url)
        assert await asyncio.to_thread(lambda: migrate.check(settings).is_current)
        with pytest.raises(LlmctxError, match="llmctx partition --downgrade"):
            await asyncio.to_thread(migrate.downgrade, settings)
        await asyncio.to_thread(partitioning.partition, settings, back=True)
        reached = len(old.written)
        await wait_for(lambda: len(old.written) > reached + 20, "the old writer to go on")
    assert old.failed == []
    assert old.longest_s < 3, "this machine may be busy; `make adopt` wants less than one"
    assert any("PARTITION BY RANGE" in statement for statement in parted)
    known = await connection.fetchval(f"SELECT count(*) FROM {T} WHERE call_id = ANY ($1)", old.written)
    assert known == len(old.written)
    await connection.execute(f"DELETE FROM {T} WHERE trace_id = 'ahead'")
    assert await digest(connection, columns, theirs) == had
    assert dumped(url) == before
    await connection.close()


def ahead(url: str, shape: str) -> None:
    """Rows of every month that has a partition, and of one that has none; and one of ours."""
    number = "" if shape == "numbers" else ", id"
    for months in (0, 1, 2, 30):
        value = "" if shape == "numbers" else f", 'ahead-{months}'"
        at = f"date_trunc('month', now()) + interval '{months} months 40 days'"
        execute(url, f"INSERT INTO {T} (call_id, trace_id, model, created_at{number}) "
                f"VALUES ('ahead-{months}', 'ahead', 'm', {at}{value})")  # fmt: skip
    with CallLog(url) as call_log, bind(session_id="s", user_id="7", trace_id="ahead"), call_log.record(model="m"):
        pass
    parts = psql(url, f"SELECT DISTINCT tableoid::regclass FROM {T} WHERE trace_id = 'ahead'").split()
    assert f"{T}_default" in parts
    assert f"{T}_before" in parts
    assert len(parts) == 5 or len(parts) == 4


def test_broken_off_anywhere_it_goes_on_or_back(empty_database: str) -> None:
    """After each step in turn the way there is left, and taken again; then from the middle back."""
    url, settings = empty_database, load(database_url=empty_database)
    asyncio.run(fill(url, "unkeyed", 1_000))
    migrate.upgrade(settings)
    before = dumped(url)

    def broken(_: str) -> None:
        raise KeyboardInterrupt

    steps = len(partitioning.plan(settings))
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            partitioning.partition(settings, say=broken)
    partitioning.partition(settings, back=True)
    assert dumped(url) == before
    left = []
    while len(left) < 2 * steps:
        left.append(len(partitioning.plan(settings)))
        try:
            partitioning.partition(settings, say=broken)
        except KeyboardInterrupt:
            continue
        break
    assert left[0] == steps
    assert left[-1] == 0
    assert psql(url, f"SELECT count(*) FROM {T}").strip() == "1000"


def test_a_rehearsal_touches_nothing(
    empty_database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of some rows goes there and back; the command shows, and does nothing, until --yes."""
    url = empty_database
    asyncio.run(fill(url, "texts", 3_000))
    migrate.upgrade(load(database_url=url))
    before = dumped(url)
    verb = ["--database-url", url, "partition"]
    assert cli.run([*verb, "--rehearse", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] > 1000
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.run(verb) == 1
    assert "--drop-foreign-keys" in capsys.readouterr().err
    assert cli.run([*verb, "--drop-foreign-keys"]) == 0
    said = capsys.readouterr()
    assert "would: drop the foreign key of" in said.out
    assert "--yes" in said.err
    assert dumped(url) == before
    assert cli.run([*verb, "--drop-foreign-keys", "--yes"]) == 0
    capsys.readouterr()
    assert cli.run([*verb, "--rehearse"]) == 1
    assert "is partitioned already" in capsys.readouterr().err
    assert cli.run([*verb, "--downgrade", "--yes"]) == 0
    assert dumped(url) == before
    ((tied,),) = asyncio.run(
        query(url, f"SELECT count(*) FROM pg_constraint WHERE conrelid = '{CHILD}'::regclass AND contype = 'f'")
    )
    assert tied == 1


def test_columns_that_the_database_computes(empty_database: str) -> None:
    """Rows are copied without them, ahead, in the rehearsal and back."""
    url, settings = empty_database, load(database_url=empty_database)
    asyncio.run(fill(url, "unkeyed", 5_001))  # one is of the future
    execute(url, f"ALTER TABLE {T} ADD COLUMN twice integer GENERATED ALWAYS AS (latency_ms * 2) STORED")
    migrate.upgrade(settings)
    before = dumped(url)
    assert partitioning.rehearse(settings)["rows"] > 1000
    partitioning.partition(settings)
    assert psql(url, f"SELECT sum(twice) = 2 * sum(latency_ms), count(*) FROM {T}_default").strip() == "t|1"
    partitioning.partition(settings, back=True)
    assert dumped(url) == before
    assert psql(url, f"SELECT sum(twice) = 2 * sum(latency_ms), count(*) FROM {T}").strip() == "t|5001"


def test_statements_that_will_fail_are_said_before(
    empty_database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key of a partitioned table is over call_id alone: what would miss it is named where it is known."""
    url, settings = empty_database, load(database_url=empty_database)
    asyncio.run(fill(url, "texts", 10))
    insert = f"INSERT INTO {T} (id, call_id, model, created_at) VALUES ($1, $1, $1, now()) ON CONFLICT (call_id)"
    body = f"AS 'BEGIN {insert} DO NOTHING; END'"
    execute(url, f"CREATE FUNCTION noted(text) RETURNS void LANGUAGE plpgsql {body}", "SELECT noted('a')")
    migrate.upgrade(settings)
    monkeypatch.setenv("COLUMNS", "300")
    assert cli.run(["--database-url", url, "migrate", "--partition", "--drop-foreign-keys", "--plan"]) == 0
    said = capsys.readouterr().out
    assert "ON CONFLICT (call_id) fails" in said
    assert "this would fail: the function noted(text)" in said
    partitioning.partition(settings, drop_foreign_keys=True)
    with pytest.raises(Exception, match="no unique or exclusion constraint"):
        execute(url, "SELECT noted('b')")
    assert partitioning.notes(settings) == []


def test_what_cannot_be_carried_over_is_said(empty_database: str) -> None:
    """A view, a trigger, a nullable time: nothing is changed."""
    url, settings = empty_database, load(database_url=empty_database)
    asyncio.run(fill(url, "unkeyed", 10))
    migrate.upgrade(settings)
    execute(url, f"CREATE VIEW costs AS SELECT model FROM {T}", f"ALTER TABLE {T} ALTER created_at DROP NOT NULL")
    before = dumped(url)
    with pytest.raises(LlmctxError, match=r"the view costs reads it.*created_at may be NULL"):
        partitioning.partition(settings)
    assert dumped(url) == before
