"""The reading side: which calls were made, what they cost, and whether their rows have their ids.

Every question that the command line (and later the dashboard) asks is one function here, over a connection and a
table, the same on PostgreSQL and SQLite. They return plain values, ready for JSON, and never the table's secrets
beyond the row that was asked for. Filters stay on the indexes that `tables.py` describes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import JSON, ColumnElement, String, Table, and_, case, cast, func, inspect, null, or_, select, true
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.errors import LlmctxError
from llmctx.evidence import KEY

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
_SNAPSHOTS: Final = ("prompt_snapshot", "response_snapshot", "reasoning_snapshot")


class NoSuchCall(LlmctxError):
    """There is no call of that id. List the latest with `llmctx calls`."""


class AmbiguousCall(LlmctxError):
    """Several calls begin with that id. Give more of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which rows; what is None does not narrow. `since` is inclusive, `until` is not; both are aware."""

    since: datetime | None = None
    until: datetime | None = None
    user: str | None = None
    session: str | None = None
    agent: str | None = None
    model: str | None = None
    node: str | None = None
    status: str | None = None
    errors: bool = False
    """Only calls that did not end well."""
    unattributed: bool = False
    """Only rows without a session or without a user."""
    text: str | None = None
    """Only rows whose prompt, response or error holds this, in any case."""

    def clause(self, table: Table) -> ColumnElement[bool]:
        """As a condition on `table`."""
        c = table.c
        equal = {key: getattr(self, key) for key in GROUPS if key != "day"}
        given = [c[GROUPS[key]] == value for key, value in equal.items() if value is not None]
        if self.since is not None:
            given.append(c.created_at >= self.since)
        if self.until is not None:
            given.append(c.created_at < self.until)
        if self.errors:
            given.append(c.success.is_(False))
        if self.unattributed:
            given.append(_lacking(table))
        if self.text is not None:
            given.append(_holding(table, self.text))
        return and_(true(), *given)


def _lacking(table: Table) -> ColumnElement[bool]:
    """The condition of the partial index, word for word, so that the planner recognises it."""
    return or_(table.c.session_id.is_(None), table.c.user_id.is_(None))


def _holding(table: Table, text: str) -> ColumnElement[bool]:
    # Snapshots hold JSON, where a quote or a line break is written with a backslash.
    written = json.dumps(text, ensure_ascii=False)[1:-1]
    found = [table.c[name].icontains(written, autoescape=True) for name in _SNAPSHOTS]
    return or_(*found, table.c.error_message.icontains(text, autoescape=True))


async def calls(
    connection: AsyncConnection, table: Table, filters: Filters | None = None, *, limit: int = 20, whole: bool = False
) -> list[Row]:
    """The latest calls, newest first; without their texts and attributes, unless `whole`."""
    hidden = () if whole else (*_SNAPSHOTS, "attributes")
    columns = [column for column in table.c if column.name not in hidden]
    found = await connection.execute(
        select(*columns)
        .where((filters or Filters()).clause(table))
        .order_by(table.c.created_at.desc(), table.c.call_id.desc())
        .limit(limit)
    )
    return [dict(row) for row in found.mappings()]


async def call(connection: AsyncConnection, table: Table, call_id: str) -> Row:
    """One call, whole, by its id, the beginning of it, or `beginning..end`, with or without dashes.

    The ends of ids differ where their beginnings, times in milliseconds, do not. Raises `NoSuchCall` or
    `AmbiguousCall`.
    """
    head, _, tail = call_id.strip().replace("-", "").lower().partition("..")
    if not (4 <= len(head) <= 32 and len(tail) <= 12 and set(head + tail) <= set("0123456789abcdef")):
        raise NoSuchCall(f"{call_id!r} is no call id: at least 4 hex digits, as `llmctx calls` shows them.")
    # A range rather than LIKE, so that the primary key serves it
    first, last = UUID(head.ljust(32, "0")), UUID(head.ljust(32, "f"))
    statement = select(table).where(table.c.call_id.between(first, last))
    if tail:
        statement = statement.where(cast(table.c.call_id, String).endswith(tail))
    found = await connection.execute(statement.order_by(table.c.call_id).limit(2))
    rows = [dict(row) for row in found.mappings()]
    if not rows:
        raise NoSuchCall(f"There is no call {call_id}. List the latest with `llmctx calls`.")
    if len(rows) > 1:
        raise AmbiguousCall(f"Several calls begin with {call_id}, such as {rows[0]['call_id']}. Give more of the id.")
    return rows[0]


def handle(call_id: UUID) -> str:
    """A short form of `call_id` that `call` understands: its millisecond, and enough of its end to be the only one."""
    return f"{call_id.hex[:12]}..{call_id.hex[-5:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How many rows have both ids, by which witness, and what the others have in common."""

    rows: int
    with_both: int
    by_source: Sequence[Row]
    by_reason: Sequence[Row]
    misses: Sequence[Row]
    """The rows without both ids, grouped by reason, node, agent and route; most frequent first."""
    by_place: Sequence[Row] = ()
    """The same, and by `where`: the line of the application from which they were made, as far as the rows say."""

    @property
    def share(self) -> float | None:
        """Percent of rows with both ids; None when there are no rows."""
        return 100.0 * self.with_both / self.rows if self.rows else None


async def coverage(
    connection: AsyncConnection, table: Table, filters: Filters | None = None, *, limit: int = 10_000
) -> Coverage:
    """Which share of the rows has its session and its user."""
    where = (filters or Filters()).clause(table)
    both = func.count(case((and_(table.c.session_id.is_not(None), table.c.user_id.is_not(None)), 1)))

    async def grouped(column: str) -> list[Row]:
        key = table.c[column]
        statement = select(key, func.count().label("rows"), both.label("with_both")).where(where)
        found = await connection.execute(statement.group_by(key).order_by(func.count().desc(), key))
        return [dict(row) for row in found.mappings()]

    sources = await grouped("identity_source")
    by_place = await _misses(connection, table, where, limit)
    return Coverage(
        rows=sum(row["rows"] for row in sources),
        with_both=sum(row["with_both"] for row in sources),
        by_source=sources,
        by_reason=await grouped("identity_reason"),
        misses=_together(by_place, ("identity_reason", "node", "agent_key", "route")),
        by_place=by_place,
    )


async def _misses(connection: AsyncConnection, table: Table, where: ColumnElement[bool], limit: int) -> list[Row]:
    """The rows without both ids, grouped by all that may tell what they have in common."""
    told = await _keeps_evidence(connection, table)
    c = table.c
    # a subquery, so that a path into the JSON is one parameter: PostgreSQL would not group by another one
    missing = (
        select(c.identity_reason, c.node, c.agent_key, c.created_at)
        .add_columns(*((c.attributes[KEY, name].as_string() if told else null()).label(name) for name in _TOLD))
        .where(where, _lacking(table))
        .subquery()
    )
    keys = [column for column in missing.c if column.name != "created_at"]
    last = func.max(missing.c.created_at, type_=c.created_at.type).label("last")
    statement = select(*keys, func.count().label("rows"), last).group_by(*keys)
    found = await connection.execute(statement.order_by(func.count().desc(), *keys).limit(limit))
    return [dict(row) for row in found.mappings()]


def _together(groups: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """`groups` by fewer keys, most rows first."""
    found: dict[tuple[Any, ...], Row] = {}
    for group in groups:
        key = tuple(group[name] for name in keys)
        known = found.setdefault(key, {**dict(zip(keys, key, strict=True)), "rows": 0, "last": group["last"]})
        known["rows"] += group["rows"]
        known["last"] = max(known["last"], group["last"])
    return sorted(found.values(), key=lambda group: -group["rows"])


_TOLD: Final = ("route", "where")


async def _keeps_evidence(connection: AsyncConnection, table: Table) -> bool:
    """Whether the table has a column for what llmctx keeps of a hearing: tables that are older than it may not."""
    if "attributes" not in table.c:
        return False
    try:
        columns = await connection.run_sync(lambda c: inspect(c).get_columns(table.name, schema=table.schema))
    except NoSuchTableError:
        return True  # whatever asks next says so in better words
    return any(column["name"] == "attributes" and isinstance(column["type"], JSON) for column in columns)


async def stats(
    connection: AsyncConnection, table: Table, by: Group, filters: Filters | None = None, *, limit: int = 50
) -> list[Row]:
    """Calls, errors, tokens, cost and latency by `by`: most calls first, days newest first.

    What no row knows is None, never 0. `p95_ms` is the smallest latency that 95 % of the calls do not exceed.
    """
    postgresql = connection.dialect.name == "postgresql"
    c = table.c
    where = (filters or Filters()).clause(table)
    key = _day(c.created_at, postgresql) if by == "day" else c[GROUPS[by]]
    inner = select(key.label("key"), c.success, c.prompt_tokens, c.completion_tokens, c.total_tokens).where(where)
    inner = inner.add_columns(c.cost_usd, c.latency_ms)
    if not postgresql:  # no percentile there: the rank of each latency among its group's known ones says the same
        known = case((c.latency_ms.is_(None), 1), else_=0)
        inner = inner.add_columns(func.cume_dist().over(partition_by=[key, known], order_by=c.latency_ms).label("rank"))
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
            func.sum(r.prompt_tokens).label("prompt_tokens"),
            func.sum(r.completion_tokens).label("completion_tokens"),
            func.sum(r.total_tokens).label("total_tokens"),
            func.sum(r.cost_usd, type_=c.cost_usd.type).label("cost_usd"),
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
    if postgresql:
        return func.to_char(func.timezone("UTC", time), "YYYY-MM-DD")
    return func.strftime("%Y-%m-%d", time)
