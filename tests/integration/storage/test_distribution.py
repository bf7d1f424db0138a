"""What is asked of a table that Citus has distributed: against functions with the names of Citus's, on one server.

What Citus itself answers was recorded from 13.2.2.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmctx.core.errors import DatabaseUnavailable, LlmctxError
from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.migrate import distribute as distribution
from llmctx.migrate import partition as partitioning
from llmctx.settings import Settings, load
from llmctx.storage import queries
from llmctx.storage.distribution import is_distributed, largest_shard, total_bytes
from llmctx.storage.engine import read_connection
from llmctx.storage.queries import Cursor
from llmctx.storage.reflection import reflect
from llmctx.storage.retention import Policy, large_default, retain
from tests.kit import older
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
CITUS = (
    "CREATE TABLE pg_dist_partition (logicalrelid regclass, partkey text, partmethod text)",
    "CREATE TABLE pg_dist_shard (logicalrelid regclass)",
    "CREATE TABLE pg_dist_node (shouldhaveshards bool, isactive bool, noderole text)",
    "CREATE FUNCTION column_to_column_name(regclass, text) RETURNS text LANGUAGE sql AS 'SELECT $2'",
    """
CREATE FUNCTION create_distributed_table(regclass, text, shard_count int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO pg_dist_partition VALUES ($1, $2, 'h');
    INSERT INTO pg_dist_shard SELECT $1 FROM generate_series(1, $3)
$$
""",
)
AWAY = ", (102010, false, 'failed to connect to 127.0.0.1:9702')"


async def sessions(settings: Settings) -> list[list[Any]]:
    """All pages of the sessions, and of the users."""
    pages = []
    async with read_connection(settings) as connection:
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
    async with read_connection(settings) as connection:
        table = await reflect(connection, settings)
        assert not await is_distributed(connection, table)
    await do(empty_database, LIST.format(DEFAULT_TABLE), SIZE, SHARDS.format(""))
    async with read_connection(settings) as connection:
        assert not await is_distributed(connection, table), "it was looked at before"
        table = await reflect(connection, settings)
        assert await is_distributed(connection, table)
        assert await queries.estimate_rows(connection, table) is None
        assert await total_bytes(connection, table) % 1000 == 0
        health = await queries.health(connection, table)
        assert {part.bytes for part in health.partitions} == {1000}
        filled = max([await largest_shard(connection, part.name) for part in health.partitions])
        assert filled > 1
    await do(empty_database, "DROP FUNCTION run_command_on_shards", SHARDS.format(AWAY))
    async with read_connection(settings) as connection:
        with pytest.raises(DatabaseUnavailable, match="failed to connect"):
            await largest_shard(connection, DEFAULT_TABLE)


async def test_a_table_on_other_nodes_is_not_partitioned_where_it_stands(empty_database: str) -> None:
    """Of an adopted table nothing is made beside it: the sentence says what goes before and after."""
    settings = load(database_url=empty_database)
    await do(empty_database, *older.made("named"))
    await asyncio.to_thread(migrate.upgrade, settings)
    await do(empty_database, LIST.format(DEFAULT_TABLE))
    for attempt in (partitioning.plan, partitioning.partition, partitioning.rehearse):
        with pytest.raises(LlmctxError, match=r"SELECT undistribute_table\(.*Nothing was changed"):
            await asyncio.to_thread(attempt, settings)
    assert await query(empty_database, "SELECT count(*) FROM pg_class WHERE relname LIKE '%partitioned'") == [(0,)]
    await do(empty_database, "DELETE FROM pg_dist_partition")
    await asyncio.to_thread(partitioning.partition, settings, drop_foreign_keys=True)
    await do(empty_database, f"INSERT INTO pg_dist_partition VALUES ('{DEFAULT_TABLE}'::regclass, 'h')")
    with pytest.raises(LlmctxError, match="cannot be converted back"):
        await asyncio.to_thread(partitioning.partition, settings, back=True)


async def test_a_default_partition_is_as_large_as_its_shards(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No trigger leads rows to other nodes: the month is made at once, and it is said that writers wait."""
    settings = await fresh(empty_database)
    asked = "SELECT max(relname) FROM pg_class WHERE relname ~ '_p20[0-9_]+$' AND relkind = 'r'"
    ((last,),) = await query(empty_database, asked)
    await do(empty_database, f"DROP TABLE {last}", LIST.format(DEFAULT_TABLE), SIZE, SHARDS.format(""))
    assert not (await retain(settings, Policy())).notes
    monkeypatch.setattr(large_default, "LARGE_BYTES", 1000)
    report = await retain(settings, Policy(), do=True)
    assert any(last in step for step in report.steps)
    assert [note for note in report.notes if note.startswith("Writers have to wait")]
    assert not (await retain(settings, Policy())).steps


@pytest.mark.parametrize("nodes", [0, 3])
async def test_the_number_of_shards_follows_that_of_the_nodes(empty_database: str, nodes: int) -> None:
    """Two for each node that holds shards, unless it is told; of a table that is distributed it is not changed."""
    settings = await fresh(empty_database)
    await do(
        empty_database,
        *CITUS,
        f"INSERT INTO pg_dist_node SELECT true, true, 'primary' FROM generate_series(1, {nodes})",
    )
    await do(empty_database, "INSERT INTO pg_dist_node VALUES (false, true, 'primary'), (true, true, 'secondary')")
    planned = await asyncio.to_thread(distribution.plan, settings)
    assert planned == distribution.Distribution(2 * max(1, nodes), max(1, nodes), is_new=True)
    assert (await asyncio.to_thread(distribution.plan, settings, shards=5)).shards == 5
    assert await asyncio.to_thread(distribution.distribute, settings) == planned
    again = await asyncio.to_thread(distribution.distribute, settings)
    assert (again.shards, again.is_new) == (planned.shards, False)
    with pytest.raises(LlmctxError, match=f"shard_count := {planned.shards + 1}"):
        await asyncio.to_thread(distribution.distribute, settings, shards=planned.shards + 1)


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
