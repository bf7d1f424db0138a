"""Usage over time: calls, errors, tokens, cost and latency by hour, day, week or month, and by model, agent, route, …

From totals where they are kept and know what is asked, else from rows. Times are cut in the reader's zone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.errors import ConfigError
from llmctx.identity.explanation import KEY
from llmctx.storage.figures import Sums
from llmctx.storage.filters import Filters, status_expr
from llmctx.storage.queries.aggregates import make_room
from llmctx.storage.reflection import attribute
from llmctx.storage.rollup.reading import Part, reading_of

Bucket = Literal["hour", "day", "week", "month"]
By = Literal["model", "agent", "provider", "node", "route", "status", "error", "source", "reason"]

BUCKETS: Final[Sequence[Bucket]] = ("hour", "day", "week", "month")
BY: Final[Mapping[By, str]] = {
    "model": "model", "agent": "agent_key", "provider": "provider", "node": "node", "route": "route",
    "status": "status", "error": "error_code", "source": "identity_source", "reason": "identity_reason",
}  # fmt: skip
OTHERS: Final = "(others)"
"""The key of everything beyond the most frequent ones."""
DEFAULT_DAYS: Final = timedelta(days=30)
_NOT_IN_TOTALS: Final = ("node", "route")
_MOST_BUCKETS: Final = 1000
_MOST_ROWS: Final = 50_000
_SLOT_S: Final = 900
"""SQLite knows no zones: it counts by quarter of an hour, which no zone cuts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The sums of calls. What no row knows is None, never 0.

    `unpriced` calls have no cost and `unmetered` no tokens: the sums leave them out. Latencies are in milliseconds,
    percentiles interpolated: 12 % off at most, and 1 % where there are many calls.
    """

    calls: int = 0
    errors: int = 0
    with_both: int = 0
    """Calls with session and user."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: Decimal | None = None
    unpriced: int = 0
    unmetered: int = 0
    avg_ms: int | None = None
    p50_ms: int | None = None
    p95_ms: int | None = None
    p99_ms: int | None = None
    avg_ttft_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow(Figures):
    """The figures of one bucket and key; a time without calls has no row."""

    at: datetime | None = None
    """When the bucket begins; None where time is not cut."""
    key: str | None = None
    """Of `by`; None for calls without, and where nothing is told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Figures over time, oldest first, of each bucket the keys with the most calls first; and of all of it."""

    rows: Sequence[UsageRow]
    total: Figures
    since: datetime
    until: datetime
    source: str
    """"rollup" where totals were used, else "rows"."""
    as_of: datetime | None
    """Until when totals were used; what came later was read from rows."""
    truncated: bool = False
    """There was more than could be returned."""
    times: Sequence[datetime] = ()
    """When each bucket begins, also those without calls, of which there are no rows."""


class UnknownZone(ConfigError):
    """There is no such time zone. Write one such as UTC or Asia/Shanghai."""


class TooManyBuckets(ConfigError):
    """That would be too many buckets. Choose longer ones, or a shorter time."""


async def usage(
    connection: AsyncConnection,
    table: sa.Table,
    filters: Filters | None = None,
    *,
    bucket: Bucket | None = None,
    by: By | None = None,
    zone: str = "UTC",
    keys: int = 12,
    percentiles: bool = True,
) -> Usage:
    """Return the figures of the calls, of 30 days unless `filters` say since when.

    Args:
        bucket: how time is cut, in `zone`; None does not cut it.
        by: what the calls are told apart by; at most `keys` of these, and `OTHERS`.
        percentiles: without, less is read. With both `bucket` and `by` there are none but those of the total.
    """
    filters = filters or Filters()
    until = filters.until or datetime.now(UTC)
    since = filters.since if filters.since is not None else until - DEFAULT_DAYS
    filters = replace(filters, since=since)
    edges = [] if bucket is None else _edges(since, until, bucket, zone)
    reading = await reading_of(connection, table, filters, cuts=edges, only_rows=by in _NOT_IN_TOTALS)
    await make_room(connection)
    sums: dict[_Key, Sums] = defaultdict(Sums)
    everything, truncated = Sums(), False

    def whose(row: Mapping[str, Any], moved: int = 0) -> Sums:
        return sums[_start(row["bucket"] + moved if edges else None, edges), row.get("key")]

    with_latency = percentiles and not (bucket and by)
    for part in reading.parts:
        keys_of = {"bucket": _at(connection, part, edges), "key": _key(part, by)}
        groups = {name: one for name, one in keys_of.items() if one is not None}
        found = (await connection.execute(part.sum_by(groups).limit(_MOST_ROWS))).mappings().all()
        truncated |= len(found) == _MOST_ROWS
        for row in found:
            whose(row).add(row)
            if part.moved_from:
                whose(row, part.moved_from).subtract(row)
        if with_latency or (percentiles and not part.moved_from):
            some = part.latencies(groups if with_latency else {}).limit(_MOST_ROWS)
            for row in (await connection.execute(some)).mappings():
                low, count = row["low"], int(row["count"])
                (whose(row) if with_latency else everything).histogram[low] += count
                if part.moved_from:
                    whose(row, part.moved_from).histogram[low] -= count
    if edges:
        sums = {key: one for key, one in sums.items() if one.figures.get("calls")}  # not where all were moved
    for one in sums.values():
        everything.merge(one)
    folded = _folded(sums, keys) if by is not None else sums
    rows = [UsageRow(at=at, key=key, **one.figures_with_latency()) for (at, key), one in folded.items()]
    rows.sort(key=lambda row: (row.at or since, row.key == OTHERS, -row.calls, row.key or ""))
    return Usage(
        rows=rows, total=Figures(**everything.figures_with_latency()), since=since, until=until, source=reading.source,
        as_of=reading.as_of, truncated=truncated, times=edges,
    )  # fmt: skip


_Key = tuple[datetime | None, str | None]


def _folded(sums: Mapping[_Key, Sums], keys: int) -> dict[_Key, Sums]:
    """Return `sums` with the most frequent keys, and the others as one."""
    calls: Counter[str | None] = Counter()
    for (_, key), one in sums.items():
        calls[key] += one.figures.get("calls", 0)
    kept = {key for key, _ in calls.most_common(keys)}
    folded: dict[_Key, Sums] = defaultdict(Sums)
    for (at, key), one in sums.items():
        folded[at, key if key in kept else OTHERS].merge(one)
    return folded


# -- time -------------------------------------------------------------------------------------------------------------


def _edges(since: datetime, until: datetime, bucket: Bucket, zone: str) -> list[datetime]:
    """Return when the buckets begin, in UTC: the first where the one around `since` does."""
    try:
        tz = ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        raise UnknownZone(f"There is no time zone {zone!r}. Write one such as UTC or Asia/Shanghai.") from None
    start = since.astimezone(tz).replace(minute=0, second=0, microsecond=0)
    if bucket == "hour":
        begin = start.astimezone(UTC)
        edges = (begin + timedelta(hours=n) for n in range(_MOST_BUCKETS + 1))
    else:
        day = start.replace(hour=0, tzinfo=None)
        if bucket != "day":
            day -= timedelta(days=day.weekday() if bucket == "week" else day.day - 1)
        edges = (one.replace(tzinfo=tz).astimezone(UTC) for one in _days(day, bucket))
    found: list[datetime] = []
    for edge in edges:
        if edge >= until:
            return found or [since]
        if len(found) == _MOST_BUCKETS:
            break
        found.append(edge)
    raise TooManyBuckets


def _days(day: datetime, bucket: Bucket) -> Iterable[datetime]:
    for _ in range(_MOST_BUCKETS + 1):
        yield day
        if bucket == "month":
            day = day.replace(year=day.year + day.month // 12, month=day.month % 12 + 1)
        else:
            day += timedelta(days=7 if bucket == "week" else 1)


def _at(connection: AsyncConnection, part: Part, edges: Sequence[datetime]) -> sa.ColumnElement[Any] | None:
    """Return the number of the bucket, from 1 on; on SQLite a quarter of an hour since 1970."""
    if not edges:
        return None
    if connection.dialect.name == "postgresql":
        return sa.func.width_bucket(part.at, sa.bindparam(None, list(edges), type_=sa.ARRAY(part.at.type)))
    return sa.cast(sa.func.strftime("%s", part.at), sa.Integer) // sa.literal_column(str(_SLOT_S), sa.Integer())


def _start(slot: int | None, edges: Sequence[datetime]) -> datetime | None:
    if slot is None or not edges:
        return None
    if slot <= len(edges):
        return edges[max(0, slot - 1)]
    return edges[max(0, bisect_right(edges, datetime.fromtimestamp(slot * _SLOT_S, UTC)) - 1)]


def _key(part: Part, by: By | None) -> sa.ColumnElement[Any] | None:
    if by is None:
        return None
    if by == "status" and not part.is_total:
        return status_expr(part.rows)
    return attribute(part.rows, KEY, "route") if by == "route" else part.column(BY[by])
