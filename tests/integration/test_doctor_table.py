"""What `doctor` says of a table: what is wrong with it, and the SQL that mends it, tried."""

from __future__ import annotations

import asyncio
import re

import pytest

from llmctx import migrate
from llmctx.doctor.finding import Finding
from llmctx.doctor.table import table
from llmctx.record import DEFAULT_TABLE
from llmctx.settings import load
from tests import older
from tests.rows import do, record
from tests.stored import store


async def looked(url: str, **settings: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in await table(load(database_url=url, **settings)) if not finding.ok}


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
    from tests.rows import query

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
    assert "about 1 rows" in (await looked(empty_database))["default partition"].cause


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
