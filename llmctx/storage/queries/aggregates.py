"""Calls, errors, tokens, cost and latency, added up by what one asks for. What no row knows is None, never 0."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage.figures import Sums, latency_bucket
from llmctx.storage.filters import Filters, status_expr
from llmctx.storage.reflection import NaiveUtc, column_expr
from llmctx.storage.rollup.reading import Reading, reading_of

Group = Literal["user", "session", "agent", "model", "node", "day", "status"]
Row = dict[str, Any]

GROUPS: Final[Mapping[Group, str]] = {
    "user": "user_id",
    "session": "session_id",
    "agent": "agent_key",
    "model": "model",
    "node": "node",
    "day": "created_at",
    "status": "status",
}
_MANY: Final = ("user", "session")
"""Of which there are so many that those with the most calls are looked for first."""
_MOST_ROWS: Final = 50_000
_IN_TOTALS: Final = ("agent", "model", "day", "status")
_FIGURES: Final = (
    "calls", "errors", "prompt_tokens", "completion_tokens", "total_tokens", "cost_usd", "avg_ms", "p95_ms",
)  # fmt: skip
_SUMMED: Final = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The groups, and what they were read from."""

    rows: Sequence[Row]
    source: str = "rows"
    """"rollup" where totals were used, else "rows"."""
    as_of: datetime | None = None
    """Until when totals were used; what came later was read from rows."""


async def stats(
    connection: AsyncConnection, table: sa.Table, by: Group, filters: Filters | None = None, *, limit: int = 50
) -> list[Row]:
    """Return the groups of `stats_by`."""
    return list((await stats_by(connection, table, by, filters, limit=limit)).rows)


async def stats_by(
    connection: AsyncConnection, table: sa.Table, by: Group, filters: Filters | None = None, *, limit: int = 50
) -> Stats:
    """Return calls, errors, tokens, cost and latency by `by`: most calls first, days newest first.

    `p95_ms` is a latency of theirs that 95 % of the calls do not exceed: the smallest such, or one that is less than
    1 % larger (above 255 ms). From totals it is interpolated, and 12 % off at most.
    """
    filters = filters or Filters()
    await make_room(connection)
    if by in _IN_TOTALS:
        reading = await reading_of(connection, table, filters)
        if reading.as_of is not None:
            rows = await _from_parts(connection, reading, by)
            return Stats(rows=rows[:limit], source=reading.source, as_of=reading.as_of)
    return Stats(rows=await _from_rows(connection, table, by, filters, limit))


async def _from_parts(connection: AsyncConnection, reading: Reading, by: Group) -> list[Row]:
    """Return the groups of `stats_by` from totals, and from the rows that they do not hold."""
    is_postgresql = connection.dialect.name == "postgresql"
    found: dict[Any, Sums] = defaultdict(Sums)
    for part in reading.parts:
        key = _day(part.at, is_postgresql) if by == "day" else part.column(GROUPS[by])
        key = status_expr(part.rows) if by == "status" and not part.is_total else key
        for row in (await connection.execute(part.sum_by({"key": key}).limit(_MOST_ROWS))).mappings():
            found[_shown(row["key"])].add(row)
        for row in (await connection.execute(part.latencies({"key": key}).limit(_MOST_ROWS))).mappings():
            found[_shown(row["key"])].histogram[row["low"]] += int(row["count"])
    rows = [
        {by: key, **{name: figures.get(name) for name in _FIGURES}}
        for key, sums in found.items()
        for figures in [sums.figures_with_latency()]
    ]
    if by == "day":
        return sorted(rows, key=lambda row: row[by] or "", reverse=True)
    return sorted(rows, key=lambda row: (-row["calls"], row[by] is None, row[by] or ""))


async def _from_rows(
    connection: AsyncConnection, table: sa.Table, by: Group, filters: Filters, limit: int
) -> list[Row]:
    """Return the groups of `stats_by` from rows."""
    rows = _rows(connection, table, by, filters.clause(table))
    key = rows.c.key
    wanted: sa.ColumnElement[bool] = sa.true()
    if by in _MANY:
        most = sa.select(key).group_by(key).order_by(sa.func.count().desc(), key).limit(limit)
        keys = list(await connection.scalars(most))
        named = key.in_([one for one in keys if one is not None])
        wanted = sa.or_(named, key.is_(None)) if None in keys else named
    found = await connection.execute(_added_up(rows, by, wanted).limit(limit))
    groups = [dict(row) for row in found.mappings()]
    for group in groups:
        timed, total_ms = int(group.pop("timed") or 0), group.pop("total_ms")
        for figure in ("calls", "errors", *_SUMMED, "p95_ms"):  # PostgreSQL's sum of sums is a decimal
            group[figure] = None if group[figure] is None else int(group[figure])
        p95 = group.pop("p95_ms")
        group |= {"avg_ms": round(total_ms / timed) if timed else None, "p95_ms": p95}
        group[by] = _shown(group[by])
    return groups


def _rows(connection: AsyncConnection, table: sa.Table, by: Group, where: sa.ColumnElement[bool]) -> sa.Subquery:
    """Return the rows with their group: an expression that becomes a column here, so that it is one parameter."""
    is_postgresql = connection.dialect.name == "postgresql"
    key = _day(table.c.created_at, is_postgresql) if by == "day" else column_expr(table, GROUPS[by])
    key = status_expr(table) if by == "status" else key
    figures = ("success", *_SUMMED, "cost_usd", "latency_ms")
    rows = sa.select(key.label("key"), *(column_expr(table, name) for name in figures)).where(where)
    if not is_postgresql:
        return rows.subquery()
    # Of a day PostgreSQL believes that there are as many as times, and sorts a million rows in one process rather than
    # count them in several. Of a column that comes out of a UNION it believes nothing: 200.
    return sa.union_all(rows, rows.where(sa.false())).subquery()


def _added_up(rows: sa.Subquery, by: Group, wanted: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Return the sums by key, and of its latencies the 95th percentile, in one pass over the rows.

    Counted by latency, nearly: workers can do so at once, where the database's own percentile sorts every row in one.
    """
    r, ms = rows.c, rows.c.latency_ms
    counted = (
        sa.select(
            r.key,
            latency_bucket(ms, bits=8).label("nearly"),
            sa.func.count().label("calls"),
            sa.func.count(sa.case((r.success.is_(False), 1))).label("errors"),
            *(sa.func.sum(r[name]).label(name) for name in _SUMMED),
            sa.func.sum(r.cost_usd, type_=r.cost_usd.type).label("cost_usd"),
            sa.func.count(ms).label("timed"),
            sa.func.sum(ms).label("total_ms"),
            sa.func.max(ms).label("top_ms"),
        )
        .where(wanted)
        .group_by(r.key, sa.literal_column("nearly"))
        .subquery()
    )
    c = counted.c
    below = sa.func.sum(c.timed).over(partition_by=c.key, order_by=c.nearly).label("below")
    of_all = sa.func.sum(c.timed).over(partition_by=c.key).label("of_all")
    ranked = sa.select(*c, below, of_all).subquery()
    q = ranked.c
    calls = sa.func.sum(q.calls).label("calls")
    return (
        sa.select(
            q.key.label(by),
            calls,
            sa.func.sum(q.errors).label("errors"),
            *(sa.func.sum(q[name]).label(name) for name in _SUMMED),
            sa.func.sum(q.cost_usd, type_=r.cost_usd.type).label("cost_usd"),
            sa.func.sum(q.timed).label("timed"),
            sa.func.sum(q.total_ms).label("total_ms"),
            sa.func.min(sa.case((q.below * 100 >= q.of_all * 95, q.top_ms))).label("p95_ms"),
        )
        .group_by(q.key)
        .order_by(q.key.desc() if by == "day" else calls.desc(), q.key)
    )


async def make_room(connection: AsyncConnection) -> None:
    """Let PostgreSQL count in memory for this transaction: with the 4 MB of its default it would sort every row."""
    if connection.dialect.name == "postgresql":
        await connection.execute(sa.text("SET LOCAL work_mem = '64MB'"))


def _day(time: sa.ColumnElement[datetime], postgresql: bool) -> sa.ColumnElement[Any]:
    """Return the day of `time` in UTC."""
    if not postgresql:
        return sa.func.strftime("%Y-%m-%d", time)
    # a date costs less than date_trunc, which looks up its zone for every row
    return sa.cast(time if isinstance(time.type, NaiveUtc) else sa.func.timezone("UTC", time), sa.Date)


def _shown(key: Any) -> Any:
    """Return a day as 2026-11-22; anything else as it is."""
    return key.isoformat() if isinstance(key, date) else key
