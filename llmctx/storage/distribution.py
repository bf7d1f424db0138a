"""Tables that Citus has spread over the nodes of a cluster: what their coordinator's catalogue does not say of them.

There they are empty tables, without a size and without an estimate of rows: those lie in shards. No correlated subquery
can look at rows of other shards either.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.errors import DatabaseUnavailable
from llmctx.storage.catalog import qualify_name

_KEY: Final = "llmctx_is_distributed"
INSTALLED: Final = "SELECT pg_catalog.to_regclass('pg_dist_partition') IS NOT NULL AS installed"
"""Citus's own list of tables: of its schema, pg_catalog, which every search path has."""
DISTRIBUTED: Final = """
SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = pg_catalog.to_regclass(:table)) AS distributed
"""
_LARGEST: Final = """
SELECT max(result) FILTER (WHERE NOT success) AS problem,
       max(CASE WHEN success THEN CAST(result AS bigint) END) AS pages
FROM run_command_on_shards(pg_catalog.to_regclass(:table), :question)
"""
_TOTAL: Final = """
SELECT sum({}(t.relid)) FROM (
  SELECT relid FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass(:table))
  UNION SELECT pg_catalog.to_regclass(:table)
) t
"""
"""A table without partitions is no tree: there the function has no row."""
_PAGES: Final = "SELECT pg_relation_size('%s') / CAST(current_setting('block_size') AS int)"


def is_installed(connection: sa.Connection) -> bool:
    """Return whether the database has Citus."""
    return connection.dialect.name == "postgresql" and bool(connection.scalar(sa.text(INSTALLED)))


def has_distributed(connection: sa.Connection, table: str) -> bool:
    """Return whether Citus has distributed `table`, a name for statements."""
    return is_installed(connection) and bool(connection.scalar(sa.text(DISTRIBUTED), {"table": table}))


async def is_distributed(connection: AsyncConnection, log: sa.Table) -> bool:
    """Return whether Citus has distributed the call log: as it was when `log` was first asked about."""
    if _KEY not in log.info:
        log.info[_KEY] = await connection.run_sync(has_distributed, qualify_name(log.name, log.schema))
    return bool(log.info[_KEY])


async def size_function(connection: AsyncConnection, log: sa.Table) -> str:
    """Return the function of SQL that knows how many bytes the call log and its partitions take."""
    return "citus_total_relation_size" if await is_distributed(connection, log) else "pg_total_relation_size"


async def total_bytes(connection: AsyncConnection, log: sa.Table) -> int:
    """Return how many bytes the call log takes, with its partitions, indexes and texts."""
    statement = _TOTAL.format(await size_function(connection, log))
    return int(await connection.scalar(sa.text(statement), {"table": qualify_name(log.name, log.schema)}) or 0)


async def largest_shard(connection: AsyncConnection, table: str) -> int:
    """Return how many pages the largest shard of `table` has. Raise `DatabaseUnavailable` where a node is away."""
    asked = {"table": table, "question": _PAGES}
    problem, pages = (await connection.execute(sa.text(_LARGEST), asked)).one()
    if problem is not None:
        raise DatabaseUnavailable(f"Not every shard of {table} can be reached: {problem}")
    return int(pages or 0)
