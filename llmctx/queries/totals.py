"""Calls, errors, tokens, cost and latency, added up by what one asks for. What no row knows is None, never 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Integer, Subquery, Table, and_, case, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.filters import Filters
from llmctx.reflection import NaiveUtc, of

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
_SUMMED: Final = ("prompt_tokens", "completion_tokens", "total_tokens")


async def stats(
    connection: AsyncConnection, table: Table, by: Group, filters: Filters | None = None, *, limit: int = 50
) -> list[Row]:
    """Calls, errors, tokens, cost and latency by `by`: most calls first, days newest first.

    `p95_ms` is the smallest latency that 95 % of the calls do not exceed.
    """
    await _with_room(connection)
    where = (filters or Filters()).clause(table)
    key = _day(table.c.created_at, connection.dialect.name == "postgresql") if by == "day" else of(table, GROUPS[by])
    key = _ended(table) if by == "status" else key
    # a subquery, so that an expression is one parameter: PostgreSQL would not group by another one
    cost, latency = of(table, "cost_usd"), of(table, "latency_ms")
    summed = [of(table, name) for name in _SUMMED]
    rows = select(key.label("key"), of(table, "success"), *summed, cost, latency).where(where).subquery()
    r = rows.c
    order = r.key.desc() if by == "day" else func.count().desc()
    found = await connection.execute(
        select(
            r.key.label(by),
            func.count().label("calls"),
            func.count(case((r.success.is_(False), 1))).label("errors"),
            *(func.sum(r[name]).label(name) for name in _SUMMED),
            func.sum(r.cost_usd, type_=r.cost_usd.type).label("cost_usd"),
            func.avg(r.latency_ms).label("avg_ms"),
        )
        .group_by(r.key)
        .order_by(order, r.key)
        .limit(limit)
    )
    groups = [dict(row) for row in found.mappings()]
    p95 = await _p95(connection, rows, None if len(groups) < limit else [group[by] for group in groups])
    for group in groups:
        group["p95_ms"] = p95.get(group[by])
        group["avg_ms"] = None if group["avg_ms"] is None else round(group["avg_ms"])
        group[by] = _shown(group[by])
    return groups


async def _with_room(connection: AsyncConnection) -> None:
    """Let PostgreSQL count in memory for this transaction: with the 4 MB of its default it would sort every row."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SET LOCAL work_mem = '64MB'"))


async def _p95(connection: AsyncConnection, rows: Subquery, keys: Sequence[Any] | None) -> dict[Any, int]:
    """The 95th percentile of latency by key; only of `keys`, where they are given.

    Counted by latency first, which several workers can do: the database's own percentile sorts every row in one.
    """
    r = rows.c
    wanted: ColumnElement[bool] = r.latency_ms.is_not(None)
    if keys is not None:
        known = [key for key in keys if key is not None]
        wanted = and_(wanted, or_(r.key.in_(known), r.key.is_(None)) if None in keys else r.key.in_(known))
    counted = (
        select(r.key, r.latency_ms, func.count().label("n")).where(wanted).group_by(r.key, r.latency_ms).subquery()
    )
    c = counted.c
    below = func.sum(c.n).over(partition_by=c.key, order_by=c.latency_ms)
    total = func.sum(c.n).over(partition_by=c.key)
    ranked = select(c.key, c.latency_ms, below.label("below"), total.label("total")).subquery()
    q = ranked.c
    found = await connection.execute(
        select(q.key, func.min(q.latency_ms)).where(q.below * 100 >= q.total * 95).group_by(q.key)
    )
    return {row[0]: row[1] for row in found}


def _day(time: ColumnElement[datetime], postgresql: bool) -> ColumnElement[Any]:
    """The day of `time` in UTC."""
    if not postgresql:
        return func.strftime("%Y-%m-%d", time)
    if isinstance(time.type, NaiveUtc):
        return func.date_trunc("day", time, type_=time.type)
    return func.date_trunc("day", time, "UTC", type_=time.type)


def _shown(key: Any) -> Any:
    """A day as 2026-11-22; anything else as it is."""
    return f"{key:%Y-%m-%d}" if isinstance(key, datetime) else key


def _ended(table: Table) -> ColumnElement[str]:
    """The status; of rows that are older than llmctx what `success` says."""
    success = of(table, "success")
    return func.coalesce(of(table, "status"), case((success.is_(True), "ok"), (success.is_(False), "error")))


async def sessions(
    connection: AsyncConnection, table: Table, filters: Filters | None = None, *, limit: int = 20
) -> list[Row]:
    """The sessions that were used last: whose, how many calls, tokens, cost, from when to when."""
    return await _used(connection, table, "session_id", "user_id", filters, limit)


async def users(
    connection: AsyncConnection, table: Table, filters: Filters | None = None, *, limit: int = 20
) -> list[Row]:
    """The users who were there last: how many sessions and calls, tokens, cost, from when to when."""
    return await _used(connection, table, "user_id", "session_id", filters, limit)


async def _used(
    connection: AsyncConnection, table: Table, name: str, other: str, filters: Filters | None, limit: int
) -> list[Row]:
    if name not in table.c:
        return []
    await _with_room(connection)
    at, kind = table.c.created_at, table.c.created_at.type
    cost, own, theirs = of(table, "cost_usd"), of(table, name), of(table, other)
    # by pairs first: counting different ones directly would sort every row
    pairs = (
        select(
            own.label("key"),
            theirs.label("other"),
            func.count().label("calls"),
            func.count(case((of(table, "success").is_(False), 1))).label("errors"),
            func.sum(of(table, "total_tokens")).label("total_tokens"),
            func.sum(cost, type_=cost.type).label("cost_usd"),
            func.min(at, type_=kind).label("first"),
            func.max(at, type_=kind).label("last"),
        )
        .where((filters or Filters()).clause(table), own.is_not(None))
        .group_by(own, *([theirs] if other in table.c else []))
        .subquery()
    )
    p = pairs.c
    last = func.max(p.last, type_=kind).label("last")
    statement = (
        select(
            p.key.label(name),
            func.count(p.other).label("users" if other == "user_id" else "sessions"),
            func.max(p.other, type_=theirs.type).label(other),
            func.sum(p.calls, type_=Integer()).label("calls"),
            func.sum(p.errors, type_=Integer()).label("errors"),
            func.sum(p.total_tokens, type_=Integer()).label("total_tokens"),
            func.sum(p.cost_usd, type_=cost.type).label("cost_usd"),
            func.min(p.first, type_=kind).label("first"),
            last,
        )
        .group_by(p.key)
        .order_by(last.desc(), p.key)
        .limit(limit)
    )
    rows = [dict(row) for row in (await connection.execute(statement)).mappings()]
    for row in rows:
        for figure in ("calls", "errors", "total_tokens"):  # PostgreSQL's sum of sums is a decimal
            row[figure] = None if row[figure] is None else int(row[figure])
        if other == "session_id":
            del row[other]
    return rows
