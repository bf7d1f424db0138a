"""The months of a partitioned table: which there are, making the next ones, taking away old ones.

What needs a lock that would stop writers waits for it only briefly, and tries again: the queue behind a waiting lock
is what an application would notice.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Table, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage.db_errors import sqlstate
from llmctx.storage.reflection import NaiveUtc

_LOCK_S: Final = 0.5
_TRIES: Final = 20
_PAUSE_S: Final = 0.5
_VACUUM_S: Final = 2.5
"""An autovacuum gives way to whoever waits for longer than deadlock_timeout, 1 s."""
_SHORT: Final = timedelta(days=32)
_LOCKED: Final = "55P03"
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
        """It holds no more than a month, so that nothing in it expires long before it does as a whole."""
        return self.lower is not None and self.upper is not None and self.upper - self.lower <= _SHORT


@dataclass(frozen=True, slots=True)
class Month:
    """A month, or the rest of one."""

    first: datetime
    after: datetime

    def bounds(self, log: Table) -> tuple[str, str]:
        """As they stand in a statement."""
        zone = "" if isinstance(log.c.created_at.type, NaiveUtc) else "+00"
        return f"'{self.first:%Y-%m-%d} 00:00:00{zone}'", f"'{self.after:%Y-%m-%d} 00:00:00{zone}'"

    def condition(self, log: Table, of: str = "") -> str:
        first, after = self.bounds(log)
        return f"{of}created_at >= {first} AND {of}created_at < {after}"


def plain(connection: AsyncConnection, log: Table) -> Partition:
    """A table without partitions as its only one."""
    return Partition(connection.dialect.identifier_preparer.format_table(log))


async def of(connection: AsyncConnection, log: Table) -> list[Partition] | None:
    """The partitions by created_at, oldest first; None for a table that has none, or is cut by something else."""
    name = connection.dialect.identifier_preparer.format_table(log)
    key = await connection.scalar(text("SELECT pg_get_partkeydef(to_regclass(:name))"), {"name": name})
    if key != "RANGE (created_at)":
        return None
    found = []
    await connection.execute(text("SET LOCAL timezone = 'UTC'"))  # bounds are read as text
    for row in await connection.execute(text(_PARTITIONS), {"name": name}):
        bound = _BOUND.fullmatch(row.bound)
        lower, upper = (_time(bound[1]), _time(bound[2])) if bound else (None, None)
        found.append(Partition(row.name, lower, upper, bound is None, int(row.rows)))
    return sorted(found, key=lambda part: (part.lower or datetime.min.replace(tzinfo=UTC), part.name))


_PARTITIONS: Final = """
SELECT c.oid::regclass::text AS name, pg_get_expr(c.relpartbound, c.oid) AS bound, c.reltuples AS rows
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass(:name) AND NOT i.inhdetachpending
"""


async def leaves(connection: AsyncConnection, part: Partition) -> list[Partition]:
    """`part`, or what it is cut into itself: rows are in these only."""
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


def _time(said: str) -> datetime | None:
    if not said.startswith("'"):  # MINVALUE, MAXVALUE
        return None
    time = datetime.fromisoformat(said.strip("'"))
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _month(time: datetime, ahead: int) -> datetime:
    years, month = divmod(time.month - 1 + ahead, 12)
    return datetime(time.year + years, month + 1, 1, tzinfo=UTC)


def missing(parts: Sequence[Partition], now: datetime, ahead: int) -> list[Month]:
    """The months, from the present one on, that no partition has any part of."""
    months = [Month(_month(now, number), _month(now, number + 1)) for number in range(ahead + 1)]
    return [month for month in months if not any(_has_part_of(part, month) for part in parts)]


def _has_part_of(part: Partition, month: Month) -> bool:
    begins_before = part.lower is None or part.lower < month.after
    return not part.is_default and begins_before and (part.upper is None or part.upper > month.first)


def name_of(log: Table, month: datetime) -> str:
    return f"{log.name}_p{month:%Y_%m}"


def qualified(log: Table, month: datetime) -> str:
    """The same, ready for statements."""
    return beside(log, name_of(log, month))


def beside(log: Table, name: str) -> str:
    """Something of that name in the table's schema, ready for statements."""
    quote = postgresql.dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it bare
    return (f"{quote(log.schema)}." if log.schema else "") + quote(name)


async def make(connection: AsyncConnection, log: Table, month: Month, default: Partition | None) -> None:
    """Make the partition of `month`; rows of it that lie in the default partition move there."""
    parent = connection.dialect.identifier_preparer.format_table(log)
    part, inside = qualified(log, month.first), month.condition(log)
    statements = await apart(connection, log, part, inside)
    if default is not None:
        names = await columns(connection, log)
        lock = f"LOCK TABLE {default.name} IN SHARE ROW EXCLUSIVE MODE"
        statements += [lock, moving(default, part, inside, names)]
    statements += attaching(parent, part, month.bounds(log))
    await patiently(connection, statements, default.name if default else parent)


async def apart(connection: AsyncConnection, log: Table, part: str, inside: str) -> list[str]:
    """Makes a partition that is attached later: this stops nobody who reads or writes."""
    parent = connection.dialect.identifier_preparer.format_table(log)
    owner = await connection.scalar(text(_OWNER), {"name": parent})
    await connection.rollback()
    return [
        f"CREATE TABLE {part} (LIKE {parent} INCLUDING ALL EXCLUDING IDENTITY)",
        f"ALTER TABLE {part} OWNER TO {owner}",
        f"ALTER TABLE {part} ADD CONSTRAINT llmctx_month CHECK (created_at IS NOT NULL AND {inside})",
    ]


def moving(default: Partition, part: str, inside: str, names: Sequence[str]) -> str:
    """Moves rows out of the default partition."""
    listed = ", ".join(names)
    moved = f"WITH moved AS (DELETE FROM {default.name} WHERE {inside} RETURNING {listed})"  # noqa: S608  quoted
    return f"{moved} INSERT INTO {part} ({listed}) SELECT {listed} FROM moved"  # noqa: S608


def attaching(parent: str, part: str, bounds: tuple[str, str]) -> list[str]:
    return [
        f"ALTER TABLE {parent} ATTACH PARTITION {part} FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})",
        f"ALTER TABLE {part} DROP CONSTRAINT llmctx_month",
    ]


_OWNER: Final = "SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = to_regclass(:name)"
_COPIED: Final = """
SELECT quote_ident(attname) FROM pg_attribute
WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum
"""


async def columns(connection: AsyncConnection, log: Table) -> list[str]:
    """Those that a row is copied by: the others the database computes."""
    name = connection.dialect.identifier_preparer.format_table(log)
    found = list(await connection.scalars(text(_COPIED), {"name": name}))
    await connection.rollback()
    return found


async def remove(connection: AsyncConnection, log: Table, part: Partition, *, keep: bool) -> None:
    """Take a partition off the table, and away, unless it is to be kept."""
    parent = connection.dialect.identifier_preparer.format_table(log)
    await patiently(connection, [f"ALTER TABLE {parent} DETACH PARTITION {part.name}"], parent)
    if not keep:
        await patiently(connection, [f"DROP TABLE {part.name}"])


async def patiently(connection: AsyncConnection, statements: Sequence[str], table: str | None = None) -> None:
    """Run `statements` in one transaction, again and again while somebody holds a lock that they need.

    They are sent as one: no lock is held while words travel. With `table`, its autovacuum is waited for first, behind a
    lock that readers and writers do not mind.
    """
    first = [f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE"] if table else []
    each = "".join(
        f"EXECUTE $llmctx_one${statement}$llmctx_one$;\n"
        for statement in (*first, f"SET LOCAL lock_timeout = '{_LOCK_S}s'", *statements)
    )
    whole = f"DO $llmctx_all$ BEGIN PERFORM set_config('lock_timeout', '{_VACUUM_S}s', true);\n{each}END $llmctx_all$"
    for left in reversed(range(_TRIES)):
        try:
            await connection.exec_driver_sql(whole)
            await connection.commit()
        except DBAPIError as problem:
            await connection.rollback()
            if sqlstate(problem) != _LOCKED or not left:
                raise
            await asyncio.sleep(_PAUSE_S)
        else:
            return
