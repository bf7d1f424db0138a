"""Databases, roles and columns that are set up in other ways than usual: adopted, written to, read, filled, left."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.errors import NotACallLog
from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.ops.backfill import backfill
from llmctx.ops.doctor import examine
from llmctx.ops.erase import Subject, erase
from llmctx.settings import Settings, load
from llmctx.storage.engine import read_connection
from llmctx.storage.filters import Filters
from llmctx.storage.queries import calls, coverage, sessions, stats
from llmctx.storage.reflection import reflect
from tests.conftest import execute
from tests.migration.psql import dumped, psql

T = DEFAULT_TABLE
COLUMNS = (
    "id varchar(50) PRIMARY KEY, call_id varchar(64) NOT NULL UNIQUE, user_id varchar(50), session_id varchar(64), "
    "trace_id varchar(64), model varchar(100), temperature numeric(4,2), prompt_tokens integer, "
    "completion_tokens integer, prompt_snapshot text, created_at timestamp NOT NULL, finished_at timestamp"
)
QUOTED = 'ALTER DATABASE "{name}" SET quote_all_identifiers = on'
DOMAINS = (
    "CREATE DOMAIN name_of AS varchar(50)", "CREATE DOMAIN user_of AS name_of", "CREATE DOMAIN at AS timestamp",
    "CREATE DOMAIN heat AS numeric(4,2)", "CREATE DOMAIN amount AS integer CHECK (VALUE >= 0)",
    f"CREATE TABLE {T} ({COLUMNS})"
    .replace("user_id varchar(50)", "user_id user_of").replace("session_id varchar(64)", "session_id name_of")
    .replace("timestamp NOT NULL", "at NOT NULL").replace("numeric(4,2)", "heat")
    .replace("prompt_tokens integer", "prompt_tokens amount"),
)  # fmt: skip
REASONS = {
    "enumerated": ("CREATE TYPE odd AS ENUM ('x', 'y')", "odd"), "numbers": ("SELECT 1", "integer"),
    "short": ("SELECT 1", "varchar(3)"),
}  # fmt: skip
SETUPS: dict[str, tuple[str, ...]] = {
    "quoted": (QUOTED, f"CREATE TABLE {T} ({COLUMNS})"),
    "domains": DOMAINS,
    "policies": (
        f"CREATE TABLE {T} ({COLUMNS})", f"ALTER TABLE {T} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY everything ON {T} USING (true)",
    ),
    "unlogged": (f"CREATE UNLOGGED TABLE {T} ({COLUMNS})",),
    **{
        f"reasons are {name}": (
            made, f"CREATE TABLE {T} ({COLUMNS}, status {kind}, identity_source {kind}, identity_reason {kind})"
        )
        for name, (made, kind) in REASONS.items()
    },
}  # fmt: skip


def call(url: str, trace: str, user: str | None) -> None:
    with CallLog(url) as call_log, bind(user_id=user, session_id="s-1", trace_id=trace):
        with call_log.record(model="gpt-5", prompt="hello") as made:
            made.set(prompt_tokens=7)
        assert call_log.flush(60) == 0
        assert (call_log.stats().written, call_log.stats().quarantined) == (1, 0)


async def read(settings: Settings) -> list[dict[str, Any]]:
    """What each verb asks; the calls without an owner."""
    async with read_connection(settings) as connection:
        log = await reflect(connection, settings)
        await coverage(connection, log)
        await sessions(connection, log)
        await stats(connection, log, by="status")
        await calls(connection, log, Filters(status="ok", since=None))
        return await calls(connection, log, Filters(unattributed=True))


@pytest.mark.parametrize("setup", SETUPS)
def test_the_whole_life_of_a_table(empty_database: str, setup: str, tmp_path: Path) -> None:
    """Adopted once, written to, read, filled, somebody forgotten, and given back as it was."""
    url, settings = empty_database, load(database_url=empty_database)
    execute(url, *(statement.replace("{name}", str(make_url(url).database)) for statement in SETUPS[setup]))
    before = dumped(url)
    assert not [step for step in migrate.plan(settings).notes if '"' in step]
    migrate.upgrade(settings)
    assert migrate.check(settings).is_current
    assert migrate.plan(settings).steps == []
    call(url, "t-1", "u-1")
    call(url, "t-1", None)
    assert len(asyncio.run(read(settings))) == 1
    for do in (False, True):
        report = asyncio.run(backfill(settings, do=do, undo_file=tmp_path / f"undo-{do}"))
        assert (report.rows, report.users) == (1, 1)
    assert asyncio.run(read(settings)) == []
    asyncio.run(erase(settings, Subject(user="u-1"), do=True))
    assert psql(url, f"SELECT count(*) FROM {T}").strip() == "0"
    migrate.downgrade(settings)
    assert dumped(url) == before


def test_a_role_without_room_for_indexes_is_told_beforehand(empty_database: str) -> None:
    """Whoever owns a table, but may make nothing in its schema, hears of it before a column is added."""
    url = make_url(empty_database)
    role = f"owner_of_{url.database}"
    execute(
        empty_database, f"CREATE ROLE {role} LOGIN", "CREATE SCHEMA app", f"GRANT USAGE ON SCHEMA app TO {role}",
        f"CREATE TABLE app.{T} ({COLUMNS})", f"ALTER TABLE app.{T} OWNER TO {role}",
    )  # fmt: skip
    before = dumped(empty_database)
    settings = load(database_url=url.set(username=role).render_as_string(hide_password=False), db_schema="app")
    try:
        for ask in (migrate.plan, migrate.upgrade):
            with pytest.raises(NotACallLog, match=f"GRANT CREATE ON SCHEMA app TO {role}"):
                ask(settings)
        assert dumped(empty_database) == before
        assert "ADD COLUMN" in migrate.sql(settings, look=True)
        execute(empty_database, f"GRANT CREATE ON SCHEMA app TO {role}")
        migrate.upgrade(settings)
        assert migrate.check(settings).is_current
    finally:
        execute(empty_database, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


OLD = ("('2020-01-01') TO ('2021-01-01')", "('2021-01-01') TO ('2022-01-01')")
KEYS = {
    "timestamp": ("created_at timestamp NOT NULL", "RANGE (created_at)"),
    "timestamptz": ("created_at timestamptz NOT NULL", "RANGE (created_at)"),
    "list": ("created_at timestamptz NOT NULL", "LIST (call_id)"),
}


@pytest.mark.parametrize("key", KEYS)
def test_partitions_that_take_in_no_call_of_now_are_told_of(empty_database: str, key: str) -> None:
    """The plan names the partition that is missing; with it calls are stored, and the note is gone."""
    settings, (at, by) = load(database_url=empty_database), KEYS[key]
    columns = f"call_id varchar(64) NOT NULL, user_id text, session_id text, trace_id text, model text, {at}"
    execute(empty_database, f"CREATE TABLE {T} ({columns}) PARTITION BY {by}")
    if by.startswith("RANGE"):
        execute(empty_database, *(f"CREATE TABLE p{n} PARTITION OF {T} FOR VALUES FROM {of}"
                                  for n, of in enumerate(OLD)))  # fmt: skip
    (note,) = [note for note in migrate.plan(settings).notes if "wait on disk" in note]
    mend = f"CREATE TABLE {T}_default PARTITION OF {T} DEFAULT"
    assert mend in note
    migrate.upgrade(settings)
    (insert,) = [finding for finding in examine(settings) if finding.name == "insert"]
    assert mend in insert.fix
    execute(empty_database, mend)
    assert not [note for note in migrate.plan(settings).notes if "wait on disk" in note]
    migrate.upgrade(settings)
    call(empty_database, "t-1", "u-1")


def test_a_column_that_the_database_computes_is_not_lacking(
    empty_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The plan says that it is computed, and the log does not say that `llmctx migrate` would add it."""
    computed = "total_tokens integer GENERATED ALWAYS AS (prompt_tokens + completion_tokens) STORED"
    execute(empty_database, f"CREATE TABLE {T} ({COLUMNS}, {computed})")
    settings = load(database_url=empty_database)
    assert "total_tokens: computed by the database, so llmctx leaves it out" in migrate.plan(settings).notes
    migrate.upgrade(settings)
    call(empty_database, "t-1", "u-1")
    assert "lacks" not in caplog.text


@pytest.mark.parametrize("by", ["LIST (model)", "RANGE (date(created_at))"])
def test_partitions_under_which_no_key_can_be_are_refused_beforehand(empty_database: str, by: str) -> None:
    """Such a table is left as it is, rather than half adopted."""
    settings = load(database_url=empty_database)
    columns = "call_id varchar(64) NOT NULL, model text, created_at timestamp NOT NULL"
    execute(empty_database, f"CREATE TABLE {T} ({columns}) PARTITION BY {by}")
    before = dumped(empty_database)
    with pytest.raises(NotACallLog, match=f"is partitioned by {re.escape(by)}"):
        migrate.upgrade(settings)
    assert dumped(empty_database) == before
