"""Calls, errors, tokens, cost and latency, added up by what one asks for. What no row knows is None, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Table, case, func, select
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
    postgresql = connection.dialect.name == "postgresql"
    where = (filters or Filters()).clause(table)
    key = _day(table.c.created_at, postgresql) if by == "day" else _ended(table) if by == "status" else None
    if key is None:
        key = of(table, GROUPS[by])
    latency = of(table, "latency_ms")
    inner = select(key.label("key"), of(table, "success"), *(of(table, name) for name in _SUMMED)).where(where)
    inner = inner.add_columns(of(table, "cost_usd"), latency)
    if not postgresql:  # no percentile there: the rank of each latency among its group's known ones says the same
        known = case((latency.is_(None), 1), else_=0)
        inner = inner.add_columns(func.cume_dist().over(partition_by=[key, known], order_by=latency).label("rank"))
    rows = inner.subquery()
    r = rows.c
    p95 = (
        func.percentile_disc(0.95).within_group(r.latency_ms)
        if postgresql
        else func.min(case((r.rank >= 0.95, r.latency_ms)))
    )
    order = r.key.desc() if by == "day" else func.count().desc()
    found = await connection.execute(
        select(
            r.key.label(by),
            func.count().label("calls"),
            func.count(case((r.success.is_(False), 1))).label("errors"),
            *(func.sum(r[name]).label(name) for name in _SUMMED),
            func.sum(r.cost_usd, type_=r.cost_usd.type).label("cost_usd"),
            func.avg(r.latency_ms).label("avg_ms"),
            p95.label("p95_ms"),
        )
        .group_by(r.key)
        .order_by(order, r.key)
        .limit(limit)
    )
    return [{**row, "avg_ms": None if row["avg_ms"] is None else round(row["avg_ms"])} for row in found.mappings()]


def _day(time: ColumnElement[datetime], postgresql: bool) -> ColumnElement[str]:
    """The day of `time` in UTC, as 2026-11-22."""
    if not postgresql:
        return func.strftime("%Y-%m-%d", time)
    in_utc = time if isinstance(time.type, NaiveUtc) else func.timezone("UTC", time)
    return func.to_char(in_utc, "YYYY-MM-DD")


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
    at, kind = table.c.created_at, table.c.created_at.type
    theirs = of(table, other)
    many = "users" if other == "user_id" else "sessions"
    columns: list[ColumnElement[Any]] = [of(table, name), func.count(theirs.distinct()).label(many)]
    if other == "user_id":
        columns.append(func.max(theirs, type_=theirs.type).label(other))
    if name not in table.c:
        return []
    last = func.max(at, type_=kind).label("last")
    statement = (
        select(
            *columns,
            func.count().label("calls"),
            func.count(case((of(table, "success").is_(False), 1))).label("errors"),
            func.sum(of(table, "total_tokens")).label("total_tokens"),
            func.sum(of(table, "cost_usd"), type_=of(table, "cost_usd").type).label("cost_usd"),
            func.min(at, type_=kind).label("first"),
            last,
        )
        .where((filters or Filters()).clause(table), table.c[name].is_not(None))
        .group_by(table.c[name])
        .order_by(last.desc(), table.c[name])
        .limit(limit)
    )
    return [dict(row) for row in (await connection.execute(statement)).mappings()]
