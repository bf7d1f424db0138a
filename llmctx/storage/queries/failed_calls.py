"""Calls that did not end well, and since when: grouped by error, model, node and status."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage.filters import Filters, status_expr
from llmctx.storage.queries.aggregates import make_room
from llmctx.storage.queries.calls import call_page
from llmctx.storage.reflection import column_expr

DEFAULT_TIME: Final = timedelta(days=7)
SLOTS: Final = 24
_MOST_ROWS: Final = 50_000
_SAMPLE: Final = 500
_MESSAGES: Final = 3
_LENGTH: Final = 200
_KEYS: Final = ("error_code", "model", "node", "status")
_VARIABLE: Final = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"  # a UUID
    r"|\b(?=[a-z_-]*\d)[\w-]{12,}\b"  # an id
    r"|\d+(?:[.,:]\d+)*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup:
    """Calls that failed alike."""

    error_code: str | None
    model: str | None
    node: str | None
    status: str | None
    count: int
    share: float
    """Of all failed calls of the time, in percent."""
    first: datetime
    last: datetime
    trend: Sequence[int]
    """Calls in each of `SLOTS` equal parts of the time, oldest first."""
    messages: Sequence[tuple[str, int]] = ()
    """Of the newest calls: the most frequent first lines of their messages, with what varies as `#`, and how often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """The groups, most frequent first, and how many calls failed in all."""

    groups: Sequence[ErrorGroup]
    count: int
    since: datetime
    until: datetime
    truncated: bool = False
    """There were more groups than could be counted."""


async def errors(
    connection: AsyncConnection, table: sa.Table, filters: Filters | None = None, *, limit: int = 50
) -> Errors:
    """Return what failed, of `DEFAULT_TIME` unless `filters` say since when."""
    filters = replace(filters or Filters(), errors=True)
    until = filters.until or datetime.now(UTC)
    since = filters.since if filters.since is not None else until - DEFAULT_TIME
    filters = replace(filters, since=since, until=until)
    await make_room(connection)
    rows = (await connection.execute(_counted(connection, table, filters, since, until))).all()
    found: dict[tuple[Any, ...], list[Any]] = {}
    for *key, slot, count, first, last in rows:
        group = found.setdefault(tuple(key), [0, first, last, [0] * SLOTS])
        group[0] += count
        group[1], group[2] = min(group[1], first), max(group[2], last)
        group[3][min(max(int(slot), 0), SLOTS - 1)] += count
    total = sum(group[0] for group in found.values())
    most = sorted(found.items(), key=lambda one: (-one[1][0], str(one[0])))[:limit]
    messages = await _messages(connection, table, filters) if most else {}
    groups = [
        ErrorGroup(
            **dict(zip(_KEYS, key, strict=True)), count=count, share=100.0 * count / total, first=first, last=last,
            trend=tuple(trend), messages=messages.get(key, ()),
        )
        for key, (count, first, last, trend) in most
    ]  # fmt: skip
    return Errors(groups=groups, count=total, since=since, until=until, truncated=len(rows) == _MOST_ROWS)


def _counted(
    connection: AsyncConnection, table: sa.Table, filters: Filters, since: datetime, until: datetime
) -> sa.Select[Any]:
    """Return calls, first and last time by group and part of the time."""
    at = table.c.created_at
    length = max((until - since) / SLOTS, timedelta(seconds=1))
    if connection.dialect.name == "postgresql":
        edges = [since + length * n for n in range(SLOTS)]
        slot = sa.func.width_bucket(at, sa.bindparam(None, edges, type_=sa.ARRAY(at.type))) - 1
    else:
        passed = sa.cast(sa.func.strftime("%s", at), sa.Integer) - int(since.timestamp())
        slot = passed // max(1, round(length.total_seconds()))
    columns = {**{name: column_expr(table, name) for name in _KEYS}, "status": status_expr(table)}
    each = sa.select(*(columns[name].label(name) for name in _KEYS), slot.label("slot"), at.label("at"))
    one = each.where(filters.clause(table)).subquery()
    keys = [*(one.c[name] for name in _KEYS), one.c.slot]
    first, last = (function(one.c.at, type_=at.type) for function in (sa.func.min, sa.func.max))
    return sa.select(*keys, sa.func.count(), first, last).group_by(*keys).limit(_MOST_ROWS)


async def _messages(
    connection: AsyncConnection, table: sa.Table, filters: Filters
) -> dict[tuple[Any, ...], Sequence[tuple[str, int]]]:
    """Return what the newest failed calls say, by group."""
    said: dict[tuple[Any, ...], Counter[str]] = {}
    page = await call_page(connection, table, filters, limit=_SAMPLE)
    for row in page.rows:
        if row["error_message"]:
            key = (row["error_code"], row["model"], row["node"], row["status"] or "error")
            said.setdefault(key, Counter())[normalise(row["error_message"])] += 1
    return {key: tuple(counts.most_common(_MESSAGES)) for key, counts in said.items()}


def normalise(message: str) -> str:
    """Return the first line of `message`, with ids and numbers as `#`: errors of one kind are alike then."""
    line = next((line.strip() for line in message[: 4 * _LENGTH].splitlines() if line.strip()), "")
    return _VARIABLE.sub("#", line)[:_LENGTH]
