"""What is asked of a table that Citus has distributed: against functions with the names of Citus's, on one server.

What Citus itself answers was recorded from 13.2.2.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmctx.core.errors import DatabaseUnavailable
from llmctx.core.record import DEFAULT_TABLE
from llmctx.settings import Settings
from llmctx.storage import queries
from llmctx.storage.distribution import is_distributed, largest_shard, total_bytes
from llmctx.storage.engine import reading
from llmctx.storage.queries import Cursor
from llmctx.storage.reflection import reflect
from tests.kit.months import fresh
from tests.kit.rows import do, query, record, store

LIST = "CREATE TABLE pg_dist_partition AS SELECT to_regclass('{}') AS logicalrelid, 'h' AS partmethod"
SIZE = "CREATE FUNCTION citus_total_relation_size(regclass) RETURNS bigint LANGUAGE sql AS 'SELECT 1000::bigint'"
SHARDS = """
CREATE FUNCTION run_command_on_shards(regclass, text) RETURNS TABLE (shardid bigint, success boolean, result text)
LANGUAGE plpgsql AS $$
DECLARE pages text;
BEGIN
    EXECUTE replace($2, '%s', $1::text) INTO pages;
    RETURN QUERY VALUES (102008::bigint, true, '0'), (102009, true, pages) {};
END $$
"""
AWAY = ", (102010, false, 'failed to connect to 127.0.0.1:9702')"


async def sessions(settings: Settings) -> list[list[Any]]:
    """All pages of the sessions, and of the users."""
    pages = []
    async with reading(settings) as connection:
        table = await reflect(connection, settings)
        for ask in (queries.sessions, queries.users):
            page: Any = await ask(connection, table, limit=3)
            pages.append(page.rows)
            while page.next is not None:
                page = await ask(connection, table, limit=3, before=Cursor.parse(page.next))
                pages.append(page.rows)
    return pages


async def test_the_lists_are_the_same_without_a_correlated_subquery(empty_database: str) -> None:
    """Citus: "correlated subqueries are not supported when the FROM clause contains a CTE or subquery"."""
    settings = await fresh(empty_database)
    await store(settings, *(record(session_id=f"s-{n % 7}", user_id=f"u-{n % 5}") for n in range(40)))
    before = await sessions(settings)
    await do(empty_database, LIST.format(DEFAULT_TABLE))
    assert await sessions(settings) == before


async def test_sizes_are_those_of_the_shards(empty_database: str) -> None:
    """The coordinator's own tables are empty; a node that is away is said, and not taken for an empty shard."""
    settings = await fresh(empty_database)
    await store(settings, *(record(prompt_snapshot="x" * 500) for _ in range(100)))
    async with reading(settings) as connection:
        table = await reflect(connection, settings)
        assert not await is_distributed(connection, table)
    await do(empty_database, LIST.format(DEFAULT_TABLE), SIZE, SHARDS.format(""))
    async with reading(settings) as connection:
        assert await is_distributed(connection, table)
        assert await queries.estimate_rows(connection, table) is None
        assert await total_bytes(connection, table) % 1000 == 0
        health = await queries.health(connection, table)
        assert {part.bytes for part in health.partitions} == {1000}
        filled = max([await largest_shard(connection, part.name) for part in health.partitions])
        assert filled > 1
    await do(empty_database, "DROP FUNCTION run_command_on_shards", SHARDS.format(AWAY))
    async with reading(settings) as connection:
        with pytest.raises(DatabaseUnavailable, match="failed to connect"):
            await largest_shard(connection, DEFAULT_TABLE)


async def test_a_batch_with_rows_that_are_there_already_is_inserted_at_once(empty_database: str) -> None:
    """Row by row a batch of 5,000 took Citus as long as a statement may take, and was never stored."""
    settings = await fresh(empty_database)
    await do(empty_database, LIST.format(DEFAULT_TABLE))
    rows = [record(attributes={"n": n}, prompt_snapshot="p") for n in range(60)]
    await store(settings, *rows[:20])
    await store(settings, *rows[:40], *rows[10:])
    await store(settings, *rows)
    columns = "count(*), count(DISTINCT call_id), count(prompt_snapshot), count(DISTINCT attributes -> 'n')"
    assert await query(empty_database, f"SELECT {columns} FROM {DEFAULT_TABLE}") == [(60, 60, 60, 60)]
