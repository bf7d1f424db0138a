"""Calls, errors, tokens, cost and latency, added up by what one asks for. What no row knows is None, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final, Literal

from sqlalchemy import (
    ColumnElement,
    Date,
    Integer,
    Select,
    Subquery,
    Table,
    case,
    cast,
    false,
    func,
    literal_column,
    or_,
    select,
    text,
    true,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage.filters import Filters
from llmctx.storage.reflection import NaiveUtc, of

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
_SUMMED: Final = ("prompt_tokens", "completion_tokens", "total_tokens")


async def stats(
    connection: AsyncConnection, table: Table, by: Group, filters: Filters | None = None, *, limit: int = 50
) -> list[Row]:
    """Calls, errors, tokens, cost and latency by `by`: most calls first, days newest first.

    `p95_ms` is a latency of theirs that 95 % of the calls do not exceed: the smallest such, or one that is less than
    1 % larger (above 255 ms).
    """
    await _with_room(connection)
    rows = _rows(connection, table, by, (filters or Filters()).clause(table))
    key = rows.c.key
    wanted: ColumnElement[bool] = true()
    if by in _MANY:
        most = select(key).group_by(key).order_by(func.count().desc(), key).limit(limit)
        keys = list(await connection.scalars(most))
        wanted = or_(key.in_([one for one in keys if one is not None]), key.is_(None) if None in keys else false())
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


def _rows(connection: AsyncConnection, table: Table, by: Group, where: ColumnElement[bool]) -> Subquery:
    """The rows with what they are grouped by: an expression that becomes a column here, so that it is one parameter."""
    is_postgresql = connection.dialect.name == "postgresql"
    key = _day(table.c.created_at, is_postgresql) if by == "day" else of(table, GROUPS[by])
    key = _ended(table) if by == "status" else key
    figures = ("success", *_SUMMED, "cost_usd", "latency_ms")
    rows = select(key.label("key"), *(of(table, name) for name in figures)).where(where)
    if not is_postgresql:
        return rows.subquery()
    # Of a day PostgreSQL believes that there are as many as times, and sorts a million rows in one process rather than
    # count them in several. Of a column that comes out of a UNION it believes nothing: 200.
    return union_all(rows, rows.where(false())).subquery()


def _added_up(rows: Subquery, by: Group, wanted: ColumnElement[bool]) -> Select[Any]:
    """The sums by key, and of its latencies the 95th percentile, in one pass over the rows.

    Counted by latency, nearly: workers can do so at once, where the database's own percentile sorts every row in one.
    """
    r, ms = rows.c, rows.c.latency_ms
    counted = (
        select(
            r.key,
            _nearly(ms).label("nearly"),
            func.count().label("calls"),
            func.count(case((r.success.is_(False), 1))).label("errors"),
            *(func.sum(r[name]).label(name) for name in _SUMMED),
            func.sum(r.cost_usd, type_=r.cost_usd.type).label("cost_usd"),
            func.count(ms).label("timed"),
            func.sum(ms).label("total_ms"),
            func.max(ms).label("top_ms"),
        )
        .where(wanted)
        .group_by(r.key, literal_column("nearly"))
        .subquery()
    )
    c = counted.c
    below = func.sum(c.timed).over(partition_by=c.key, order_by=c.nearly).label("below")
    of_all = func.sum(c.timed).over(partition_by=c.key).label("of_all")
    ranked = select(*c, below, of_all).subquery()
    q = ranked.c
    calls = func.sum(q.calls).label("calls")
    return (
        select(
            q.key.label(by),
            calls,
            func.sum(q.errors).label("errors"),
            *(func.sum(q[name]).label(name) for name in _SUMMED),
            func.sum(q.cost_usd, type_=r.cost_usd.type).label("cost_usd"),
            func.sum(q.timed).label("timed"),
            func.sum(q.total_ms).label("total_ms"),
            func.min(case((q.below * 100 >= q.of_all * 95, q.top_ms))).label("p95_ms"),
        )
        .group_by(q.key)
        .order_by(q.key.desc() if by == "day" else calls.desc(), q.key)
    )


def _nearly(ms: ColumnElement[Any]) -> ColumnElement[Any]:
    """`ms` without its last bits, so that the eight first ones are left: 0.8 % at most."""
    if not isinstance(ms.type, Integer):
        return ms
    return case(*((ms < 256 << bits, ms - ms % (1 << bits)) for bits in range(23)), else_=ms)


async def _with_room(connection: AsyncConnection) -> None:
    """Let PostgreSQL count in memory for this transaction: with the 4 MB of its default it would sort every row."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SET LOCAL work_mem = '64MB'"))


def _day(time: ColumnElement[datetime], postgresql: bool) -> ColumnElement[Any]:
    """The day of `time` in UTC."""
    if not postgresql:
        return func.strftime("%Y-%m-%d", time)
    # a date costs less than date_trunc, which looks up its zone for every row
    return cast(time if isinstance(time.type, NaiveUtc) else func.timezone("UTC", time), Date)


def _shown(key: Any) -> Any:
    """A day as 2026-11-22; anything else as it is."""
    return key.isoformat() if isinstance(key, date) else key


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
