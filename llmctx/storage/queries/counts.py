"""How many there are, without counting them all: PostgreSQL's own estimate, or a count that stops at a limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage.catalog import qualify_name
from llmctx.storage.distribution import is_distributed
from llmctx.storage.filters import Filters

CAP: Final = 10_000


@dataclass(frozen=True, slots=True)
class Count:
    """A number of rows. `capped`: there are at least as many; `estimated`: there are about as many."""

    value: int
    capped: bool = False
    estimated: bool = False


async def count_calls(
    connection: AsyncConnection, table: sa.Table, filters: Filters | None = None, *, cap: int = CAP
) -> Count:
    """Return how many calls match, counted up to `cap`."""
    some = (
        sa.select(sa.literal(1))
        .select_from(table)
        .where((filters or Filters()).clause(table))
        .limit(cap + 1)
        .subquery()
    )
    found = await connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0
    return Count(min(found, cap), capped=found > cap)


async def estimate_rows(connection: AsyncConnection, table: sa.Table) -> Count | None:
    """Return about how many rows the table has; None where the database has not looked (ANALYZE)."""
    if await is_distributed(connection, table):
        return None  # its shards have been looked at
    if connection.dialect.name == "postgresql":
        name = {"name": qualify_name(table.name, table.schema)}
        rows = await connection.scalar(sa.text(_ESTIMATE), name)
    else:
        rows = await connection.scalar(sa.select(sa.func.max(sa.literal_column("rowid"))).select_from(table)) or 0
    return None if rows is None else Count(int(rows), estimated=True)


_ESTIMATE: Final = """
SELECT sum(c.reltuples) FROM pg_catalog.pg_class c
WHERE c.relkind <> 'p' AND c.reltuples >= 0 AND (
  c.oid = pg_catalog.to_regclass(:name)
  OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass(:name)))
)
"""
