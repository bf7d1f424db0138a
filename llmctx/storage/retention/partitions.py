"""The months of a partitioned table: which there are, making the next ones, taking away old ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage import catalog
from llmctx.storage.catalog import qualify_name, quote
from llmctx.storage.ddl import run_as_one
from llmctx.storage.partition_ddl import Month, move_rows
from llmctx.storage.reflection import NaiveUtc
from llmctx.storage.retention import calendar
from llmctx.storage.rollup.marks import mark_in_sql

PATIENCE_S: Final = 20.0
_SHORT: Final = timedelta(days=32)
_DAY: Final = timedelta(days=1)
_BOUND: Final = re.compile(r"FOR VALUES FROM \((.*)\) TO \((.*)\)")


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition, or a table that has none; its name is ready for statements."""

    name: str
    lower: datetime | None = None
    upper: datetime | None = None
    is_default: bool = False
    rows: int = 0
    """About."""

    @property
    def is_short(self) -> bool:
        """Return whether it holds no more than a month, so that nothing in it expires long before the whole does."""
        return self.lower is not None and self.upper is not None and self.upper - self.lower <= _SHORT


def as_single_partition(connection: AsyncConnection, log: Table) -> Partition:
    """Return a table without partitions as its only one."""
    return Partition(connection.dialect.identifier_preparer.format_table(log))


async def list_partitions(connection: AsyncConnection, log: Table) -> list[Partition] | None:
    """Return the partitions by created_at, oldest first; None where there are none, or by something else."""
    name = name_in_sql(log)
    key = await connection.scalar(text("SELECT pg_get_partkeydef(to_regclass(:name))"), {"name": name})
    if key != "RANGE (created_at)":
        return None
    parts = []
    await connection.execute(text("SET LOCAL timezone = 'UTC'"))  # bounds are read as text
    for row in await catalog.rows_async(connection, catalog.PARTITIONS, name):
        bound = _BOUND.fullmatch(row.bound)
        lower, upper = (_time(bound[1]), _time(bound[2])) if bound else (None, None)
        parts.append(Partition(row.name, lower, upper, bound is None, int(row.rows)))
    return sorted(parts, key=lambda part: (part.lower or datetime.min.replace(tzinfo=UTC), part.name))


async def leaf_partitions(connection: AsyncConnection, part: Partition) -> list[Partition]:
    """Return `part`, or what it is cut into itself: rows are in these only."""
    if connection.dialect.name != "postgresql":
        return [part]
    found = await connection.scalars(text(_LEAVES), {"name": part.name})
    names = list(found)
    await connection.rollback()
    return [replace(part, name=name) for name in names] or [part]


_LEAVES: Final = """
SELECT t.relid::text FROM pg_partition_tree(to_regclass(:name)) t JOIN pg_class c ON c.oid = t.relid
WHERE c.relkind = 'r' ORDER BY 1
"""


def _time(text: str) -> datetime | None:
    if not text.startswith("'"):  # MINVALUE, MAXVALUE
        return None
    time = datetime.fromisoformat(text.strip("'"))
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def months_without_partition(parts: Sequence[Partition], now: datetime, ahead: int) -> list[Month]:
    """Return what no partition but the default one has of the present month and of so many after it, and between the
    partitions that are there: by the months of their own calendar, or whatever else it goes by.
    """
    ours = [part for part in parts if not part.is_default]
    bounds = [(part.lower, part.upper) for part in ours if part.lower is not None and part.upper is not None]
    ends = [(part.upper - _DAY, part.upper) for part in ours if part.lower is None and part.upper is not None]
    covered = [(part.lower, part.upper) for part in ours]
    known = calendar.infer(bounds or ends)
    return [
        gap
        for step in calendar.upcoming_steps(known, bounds or ends, now, ahead)
        for gap in calendar.subtract(step, covered)
        if gap.after_last > now
    ]


def calendar_ends(parts: Sequence[Partition], now: datetime, ahead: int = 0) -> datetime | None:
    """Return where the partitions end, if they are not that many ahead of the present one, and follow no calendar by
    which these could be made; else None.
    """
    bounds = [(part.lower, part.upper) for part in parts if part.lower is not None and part.upper is not None]
    known = calendar.infer(bounds)
    at = None if known is None else known.begin(now)
    for _ in range(ahead):
        at = None if at is None or known is None else known.after(at)
    if at is not None or (ahead and sum(upper > now for _, upper in bounds) > ahead):
        return None
    return max((upper for _, upper in bounds), default=now)


def name_in_sql(log: Table) -> str:
    """Return the table as it stands in a statement."""
    return qualify_name(log.name, log.schema)


def part_in_sql(log: Table, month: Month) -> str:
    """Return the partition of `month` as it stands in a statement."""
    return qualify_name(month.partition(log.name), log.schema)


def make_in_sql(log: Table, month: Month) -> str:
    """Return the statement that makes the partition of `month`, for a person."""
    first, after = bounds(log, month)
    values = f"FOR VALUES FROM ({first}) TO ({after})"
    return f"CREATE TABLE {part_in_sql(log, month)} PARTITION OF {name_in_sql(log)} {values};"


async def with_free_name(connection: AsyncConnection, log: Table, month: Month) -> Month:
    """Return `month`, so called that its partition's name is not that of a table of the team's."""
    called = month
    for number in range(1, 100):
        taken = await connection.scalar(text(_TAKEN), {"part": part_in_sql(log, called)})
        await connection.rollback()
        if not taken:
            break
        called = replace(month, label=f"{month.partition('').removeprefix('_p')}_{number}")
    return called


_TAKEN: Final = """
SELECT to_regclass(:part) IS NOT NULL
       AND coalesce(obj_description(to_regclass(:part), 'pg_class'), '') NOT LIKE '{"from":%'
"""


def bounds(log: Table, month: Month) -> tuple[str, str]:
    """Return both ends of `month` as the table's created_at takes them."""
    return month.bounds(naive=isinstance(log.c.created_at.type, NaiveUtc))


def condition(log: Table, month: Month, row: str = "") -> str:
    """Return the condition that a row is of `month`; `row` stands before its columns."""
    first, after = bounds(log, month)
    return f"{row}created_at >= {first} AND {row}created_at < {after}"


async def make_partition(connection: AsyncConnection, log: Table, month: Month, default: Partition | None) -> None:
    """Make the partition of `month`; rows of it that lie in the default partition move there."""
    statements = await make_apart(connection, log, month)
    if default is not None:
        columns = await copied_columns(connection, log)
        statements.append(f"LOCK TABLE {default.name} IN SHARE ROW EXCLUSIVE MODE")
        statements.append(move_rows(default.name, part_in_sql(log, month), columns, condition(log, month)))
    statements += attach(log, month)
    await run_patiently(connection, statements, default.name if default else name_in_sql(log))


async def make_apart(connection: AsyncConnection, log: Table, month: Month) -> list[str]:
    """Return statements that make a partition which is attached later: this stops no reader or writer."""
    parent, part = name_in_sql(log), part_in_sql(log, month)
    ((owner,),) = await catalog.rows_async(connection, catalog.OWNER, parent)
    await connection.rollback()
    inside = f"created_at IS NOT NULL AND {condition(log, month)}"
    return [
        f"CREATE TABLE {part} (LIKE {parent} INCLUDING ALL EXCLUDING IDENTITY)",
        f"ALTER TABLE {part} OWNER TO {owner}",
        f"ALTER TABLE {part} ADD CONSTRAINT llmctx_month CHECK ({inside})",
    ]


def attach(log: Table, month: Month) -> list[str]:
    """Return statements that attach a partition without a scan: its CHECK proves what is in it."""
    first, after = bounds(log, month)
    part = part_in_sql(log, month)
    return [
        f"ALTER TABLE {name_in_sql(log)} ATTACH PARTITION {part} FOR VALUES FROM ({first}) TO ({after})",
        f"ALTER TABLE {part} DROP CONSTRAINT llmctx_month",
    ]


async def copied_columns(connection: AsyncConnection, log: Table) -> list[str]:
    """Return those that a row is copied by, as they stand in a statement: the others the database computes."""
    columns = await catalog.rows_async(connection, catalog.COLUMNS, name_in_sql(log))
    await connection.rollback()
    return [quote(column.name) for column in columns if not column.generated]


async def remove(connection: AsyncConnection, log: Table, part: Partition, *, keep: bool) -> None:
    """Take a partition off the table, and away, unless it is to be kept."""
    parent = name_in_sql(log)
    marks = await mark_in_sql(connection, log, part.lower, part.upper)
    await run_patiently(connection, [f"ALTER TABLE {parent} DETACH PARTITION {part.name}", *marks], parent)
    if not keep:
        await run_patiently(connection, [f"DROP TABLE {part.name}"])


async def run_patiently(connection: AsyncConnection, statements: Sequence[str], table: str | None = None) -> None:
    """Run `statements` in one transaction; again while others hold a lock that they need, for `PATIENCE_S`."""
    await connection.run_sync(run_as_one, statements, table, patience_s=PATIENCE_S)
