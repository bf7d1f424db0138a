"""What `doctor` says of a table: what is wrong with it, and the SQL that mends it, tried."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import make_url

from llmctx import cli
from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.ops.doctor.finding import Finding
from llmctx.ops.doctor.table_checks import table
from llmctx.settings import load
from llmctx.testing import captured_calls
from tests.conftest import execute
from tests.kit import older
from tests.kit.rows import do, query, record, store


async def looked(url: str, **settings: str) -> dict[str, Finding]:
    found = await table(load(database_url=url, **settings))
    assert not any("not looked at" in finding.cause for finding in found), found
    return {finding.name: finding for finding in found if not finding.ok}


async def test_a_fresh_table_is_healthy(any_empty_database: str) -> None:
    """Nothing to say, but its size."""
    await asyncio.to_thread(migrate.upgrade, load(database_url=any_empty_database))
    assert await looked(any_empty_database) == {}


async def test_a_missing_month_is_found_and_mended(empty_database: str) -> None:
    """The SQL of the finding makes it."""
    settings = load(database_url=empty_database)
    await asyncio.to_thread(migrate.upgrade, settings)
    parts = [name for name in await names(empty_database) if re.search(r"_p\d{4}_\d\d$", name)]
    await do(empty_database, *(f"DROP TABLE {part}" for part in parts))
    found = (await looked(empty_database))["partitions"]
    assert "default partition" in found.consequence
    await do(empty_database, *re.findall(r"CREATE TABLE [^;]+", found.fix.partition("As SQL: ")[2]))
    assert await looked(empty_database) == {}


async def names(url: str) -> list[str]:
    found = await query(
        url, f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{DEFAULT_TABLE}'::regclass"
    )
    return [row[0] for row in found]


async def test_rows_that_went_astray_are_found(empty_database: str) -> None:
    """A clock of another century."""
    from datetime import UTC, datetime

    settings = load(database_url=empty_database)
    await asyncio.to_thread(migrate.upgrade, settings)
    await store(settings, record(created_at=datetime(2001, 1, 1, tzinfo=UTC)))
    await do(empty_database, "ANALYZE")
    assert "about 1 row lies" in (await looked(empty_database))["default partition"].cause


@pytest.mark.parametrize("shape", older.SHAPES)
async def test_an_older_table_without_a_key_is_told(empty_database: str, shape: older.Shape) -> None:
    """What would stand there twice after an outage; an index that was broken off."""
    await do(empty_database, *older.made(shape))
    found = await looked(empty_database)
    assert set(found) == ({"unique key"} if shape == "loose" else set())
    await do(
        empty_database,
        f"CREATE INDEX broken ON {DEFAULT_TABLE} (model)",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass",
    )
    fix = (await looked(empty_database))["indexes"].fix.partition(";")[0]
    await do(empty_database, fix)
    assert "indexes" not in await looked(empty_database)


async def test_a_large_table_needs_indexes_statistics_and_fewer_rights(empty_database: str) -> None:
    """Each finding's SQL takes it away."""
    await do(
        empty_database,
        *older.made("named"),
        f"UPDATE pg_class SET reltuples = 2000000, relpages = 100000 WHERE oid = '{DEFAULT_TABLE}'::regclass",
    )
    found = [finding for finding in await table(load(database_url=empty_database)) if finding.name == "indexes"]
    assert len(found) == 3
    await do(empty_database, *(finding.fix.rstrip(";") for finding in found))
    await do(
        empty_database,
        f"UPDATE pg_class SET reltuples = 2000000, relpages = 100000 WHERE oid = '{DEFAULT_TABLE}'::regclass",
    )
    assert "indexes" not in await looked(empty_database)


@contextmanager
def role(url: str) -> Iterator[tuple[str, str]]:
    """A role that may log in and nothing else, with a name that wants quotes; and the URL of its connection."""
    name = f"an App {os.urandom(4).hex()}"
    execute(url, f'CREATE ROLE "{name}" LOGIN', "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    try:
        yield f'"{name}"', make_url(url).set(username=name).render_as_string(hide_password=False)
    finally:
        execute(url, f'DROP OWNED BY "{name}"', f'DROP ROLE "{name}"')


async def mended(url: str, role_url: str, name: str) -> list[str]:
    """Run the SQL of the findings of that name, as the owner; they are gone then. Returns what they said."""
    found = [finding for finding in await table(load(database_url=role_url)) if finding.name == name]
    for finding in found:
        await do(url, *filter(None, map(str.strip, finding.fix.split(";"))))
    assert name not in await looked(role_url)
    return [finding.cause for finding in found]


def test_a_role_needs_the_right_to_insert_and_no_other(empty_database: str) -> None:
    """Also to the sequence of a serial key; whoever else was given too much by PUBLIC or a group is found as well."""
    execute(empty_database, *older.made("numbered"))
    with role(empty_database) as (name, url):
        said = asyncio.run(mended(empty_database, url, "rights"))
        assert len(said) == 2
        assert "may not INSERT" in said[0]
        assert "_id_seq" in said[1]
        insert = f"INSERT INTO {DEFAULT_TABLE} (call_id, model, created_at) VALUES ('a', 'm', now())"
        execute(url, insert)
        with role(empty_database) as (group, _):
            execute(
                empty_database, f"GRANT {group} TO {name}", f"GRANT UPDATE ON {DEFAULT_TABLE} TO {group}",
                f"GRANT DELETE ON {DEFAULT_TABLE} TO PUBLIC",
            )  # fmt: skip
            (said,) = asyncio.run(mended(empty_database, url, "rights"))
            assert "may UPDATE and DELETE" in said
        execute(empty_database, f"GRANT pg_write_all_data TO {name}")
        assert len(asyncio.run(mended(empty_database, url, "rights"))) == 1
        execute(url, insert.replace("'a'", "'b'"))
        assert asyncio.run(looked(empty_database)) == {}, "its owner may do everything"


async def test_statistics_and_growth_of_a_large_table(empty_database: str) -> None:
    """Never analysed; ten millions within a year, which is too many for one table; then all of them changed."""
    url = empty_database
    await do(
        url, *older.made("named"), f"ALTER TABLE {DEFAULT_TABLE} SET (autovacuum_enabled = off)",
        f"INSERT INTO {DEFAULT_TABLE} (id, call_id, model, created_at) "
        "SELECT n::text, n::text, 'm', now() AT TIME ZONE 'UTC' - n * interval '3 s' FROM generate_series(1, 200000) n",
    )  # fmt: skip
    await counted(url, "n_live_tup >= 200000")
    (cause,) = await mended(url, url, "statistics")
    assert "never analyzed" in cause
    growth = (await looked(url))["growth"]
    assert re.fullmatch(
        r"200,000 rows, \d+ MB, about 2\d,\d\d\d rows and \d MB more a day, and no partitions", growth.cause
    )
    assert "llmctx partition" in growth.fix

    await do(url, f"UPDATE {DEFAULT_TABLE} SET success = true")
    await counted(url, "n_mod_since_analyze >= 200000 AND n_dead_tup >= 200000")
    (cause,) = await mended(url, url, "statistics")
    assert cause == "more than half of the rows are newer than its statistics"
    (dead,) = [one for one in await table(load(database_url=url)) if "dead rows" in one.cause]
    await do(url, dead.fix.rstrip(";"))
    assert not [one for one in await table(load(database_url=url)) if "dead rows" in one.cause]


async def test_growth_is_that_of_the_days_that_a_table_has(empty_database: str) -> None:
    """Of two days here; and nothing is said of rows that were never analyzed, of which the planner knows nothing."""
    settings = load(database_url=empty_database)
    await asyncio.to_thread(migrate.upgrade, settings)
    await do(
        empty_database, f"ALTER TABLE {DEFAULT_TABLE}_default SET (autovacuum_enabled = off)",
        # the month may have begun yesterday
        f"CREATE TABLE {DEFAULT_TABLE}_before PARTITION OF {DEFAULT_TABLE} FOR VALUES "
        "FROM (date_trunc('month', date_trunc('month', now(), 'UTC') - interval '9 days', 'UTC')) "
        "TO (date_trunc('month', now(), 'UTC'))",
        f"INSERT INTO {DEFAULT_TABLE} (call_id, model, created_at) SELECT gen_random_uuid(), 'm', "
        "now() - n * interval '30 s' FROM generate_series(1, 5000) n",
    )  # fmt: skip
    (before,) = await table(settings)
    await do(empty_database, f"ANALYZE {DEFAULT_TABLE}")
    (after,) = await table(settings)
    assert "a day" not in before.cause
    assert re.search(r"about 2,[45]\d\d rows and \d+ kB more a day", after.cause), after.cause


async def counted(url: str, condition: str) -> None:
    """PostgreSQL counts after a while."""
    deadline = time.monotonic() + 60
    while not await query(url, f"SELECT 1 FROM pg_stat_all_tables WHERE relname = '{DEFAULT_TABLE}' AND {condition}"):
        assert time.monotonic() < deadline, condition
        await asyncio.sleep(0.05)


async def test_what_hangs_on_it_and_what_stands_beside_need_indexes(empty_database: str) -> None:
    """A child table whose foreign key has none, and the columns for ids that do not fit; the SQL makes them."""
    await do(empty_database, *older.made("numbered"))
    await asyncio.to_thread(migrate.upgrade, load(database_url=empty_database))
    await do(empty_database, f"DROP INDEX llmctx_{DEFAULT_TABLE}_user_text")
    grown = [
        f"UPDATE pg_class SET reltuples = 2000000, relpages = 100000 WHERE oid = '{name}'::regclass"
        for name in (DEFAULT_TABLE, older.CHILD)
    ]
    await do(empty_database, *grown)
    found = [finding for finding in await table(load(database_url=empty_database)) if finding.name == "indexes"]
    assert [finding.cause for finding in found] == [
        "no index begins with llmctx_user_id",
        f"{older.CHILD} has no index on call_id, which refers to a call",
    ]
    await do(empty_database, *(finding.fix.rstrip(";") for finding in found), *grown)
    assert "indexes" not in await looked(empty_database)
    made = "SELECT indexdef FROM pg_indexes WHERE indexdef LIKE '%llmctx_user_id%'"
    assert (
        "(llmctx_user_id, created_at) WHERE (llmctx_user_id IS NOT NULL)" in (await query(empty_database, made))[0][0]
    )


def test_a_table_that_could_not_be_looked_at_is_not_well(empty_database: str) -> None:
    """Nothing is said of it that nobody has seen."""
    execute(empty_database, "CREATE TABLE only_theirs (a integer)")
    (finding,) = asyncio.run(table(load(database_url=empty_database, table="only_theirs")))
    assert not finding.ok
    assert "not looked at" in finding.cause


async def test_a_schema_of_the_environment_is_of_the_database_alone(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The calls that doctor makes, and those that a test captures, go into no database."""
    monkeypatch.setenv("LLMCTX_DB_SCHEMA", "logs")
    await asyncio.to_thread(migrate.upgrade, load(database_url=empty_database))
    assert await asyncio.to_thread(cli.run, ["--database-url", empty_database, "doctor"]) == 0
    assert "canary call: recorded once" in capsys.readouterr().out
    with captured_calls() as calls:
        assert calls.records == []
