"""Making totals: of some hours from their rows, of days from their hours. Each statement replaces what was there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage.figures import SUMMED_COLUMNS, SUMS, latency_bucket, sums_of_rows, sums_of_sums
from llmctx.storage.filters import status_expr
from llmctx.storage.reflection import NaiveUtc, column_expr
from llmctx.storage.rollup.tables import HISTOGRAM, KEYS, Totals

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)


def floor_hour(time: datetime) -> datetime:
    """Return the beginning of the hour of `time`."""
    return time.replace(minute=0, second=0, microsecond=0)


def floor_day(time: datetime) -> datetime:
    """Return the beginning of the day of `time`, in UTC."""
    return floor_hour(time.astimezone(UTC)).replace(hour=0)


async def rebuild_hours(
    connection: AsyncConnection, log: sa.Table, totals: Totals, first: datetime, after: datetime, until: datetime
) -> None:
    """Make the hours from `first` to `after` anew, and of the days that they touch what is whole.

    Totals go `until` there. The caller commits.
    """
    await connection.execute(sa.delete(totals.hours).where(totals.hours.c.at >= first, totals.hours.c.at < after))
    await connection.execute(_hours_from_rows(connection, log, totals, first, after))
    begins, ends = floor_day(first), min(floor_day(after - timedelta(microseconds=1)) + DAY, floor_day(until))
    if begins < ends:
        await connection.execute(sa.delete(totals.days).where(totals.days.c.at >= begins, totals.days.c.at < ends))
        await connection.execute(_days_from_hours(connection, totals, begins, ends))


def _hours_from_rows(
    connection: AsyncConnection, log: sa.Table, totals: Totals, first: datetime, after: datetime
) -> Any:
    is_postgresql = connection.dialect.name == "postgresql"
    at = log.c.created_at
    keys = {
        **{name: column_expr(log, name) for name in KEYS if not name.startswith("has_")},
        "status": status_expr(log),
        "has_session": column_expr(log, "session_id").is_not(None),
        "has_user": column_expr(log, "user_id").is_not(None),
    }
    # an expression becomes a column here, so that what stands in it is one parameter
    rows = (
        sa.select(_hour(at, is_postgresql).label("at"), latency_bucket(column_expr(log, "latency_ms")).label("low"))
        .add_columns(*(keys[name].label(f"key_{name}") for name in KEYS))
        .add_columns(*(column_expr(log, name).label(name) for name in SUMMED_COLUMNS))
        .where(at >= first, at < after)
        .subquery()
    )
    key_columns = [rows.c[f"key_{name}"].label(name) for name in KEYS]
    by_latency = (
        sa.select(rows.c.at, rows.c.low, *key_columns, *sums_of_rows(rows).values())
        .group_by(rows.c.at, rows.c.low, *(rows.c[f"key_{name}"] for name in KEYS))
        .subquery()
    )
    return _insert(totals.hours, by_latency, by_latency.c.timed, is_postgresql)


def _days_from_hours(connection: AsyncConnection, totals: Totals, first: datetime, after: datetime) -> Any:
    is_postgresql = connection.dialect.name == "postgresql"
    hours = totals.hours
    at, within = day_expr(hours.c.at, is_postgresql).label("at"), sa.and_(hours.c.at >= first, hours.c.at < after)
    low, count, histogram = histogram_of(hours, is_postgresql)
    keys = [hours.c[name] for name in KEYS]
    figures = [hours.c[name] for name in SUMS]
    sums = sa.select(at, sa.null().label("low"), sa.null().label("count"), *keys, *figures).where(within)
    counts = (
        sa.select(at, low.label("low"), count.label("count"), *keys)
        .add_columns(*(sa.cast(sa.null(), kind).label(name) for name, kind in SUMS.items()))
        .select_from(histogram)
        .where(within)
    )
    both = sa.union_all(counts, sums).subquery()
    by_latency = (
        sa.select(both.c.at, both.c.low, sa.func.sum(both.c["count"]).label("count"))
        .add_columns(*(both.c[name] for name in KEYS), *sums_of_sums(both).values())
        .group_by(both.c.at, both.c.low, *(both.c[name] for name in KEYS))
        .subquery()
    )
    return _insert(totals.days, by_latency, by_latency.c["count"], is_postgresql)


def _insert(into: sa.Table, by_latency: sa.Subquery, count: sa.ColumnElement[Any], is_postgresql: bool) -> Any:
    """Return the insert of the sums of `by_latency` by time and keys, its `count` by `low` as a histogram."""
    b = by_latency.c
    counted = b.low.is_not(None)
    low, count = sa.cast(b.low, sa.Integer), sa.cast(count, sa.Integer)
    histogram: Sequence[sa.ColumnElement[Any]]
    if is_postgresql:
        gather = sa.func.array_agg
        histogram = [gather(one).filter(counted).label(name) for one, name in zip((low, count), HISTOGRAM, strict=True)]
    else:
        histogram = [sa.func.json_group_object(low, count).filter(counted).label("latencies")]
    keys = [b.at, *(b[name] for name in KEYS)]
    made = sa.select(*keys, *sums_of_sums(by_latency).values(), *histogram).group_by(*keys)
    names = ["at", *KEYS, *SUMS, *(column.name for column in histogram)]
    return sa.insert(into).from_select(names, made)


def histogram_of(
    totals: sa.FromClause, is_postgresql: bool
) -> tuple[sa.ColumnElement[Any], sa.ColumnElement[Any], sa.FromClause]:
    """Return the latency and the count of the histograms of `totals`, and what they are selected from.

    PostgreSQL unfolds arrays in the list of what is selected; beside the table, as a function, that takes thrice as
    long.
    """
    if is_postgresql:
        low, count = (sa.func.unnest(totals.c[name], type_=sa.Integer()) for name in HISTOGRAM)
        return low, count, totals
    each = sa.func.json_each(totals.c.latencies).table_valued("key", "value")
    return sa.cast(each.c.key, sa.Integer), each.c.value, totals.join(each, sa.true())


def _hour(at: sa.ColumnElement[Any], is_postgresql: bool) -> sa.ColumnElement[Any]:
    if not is_postgresql:
        return sa.func.strftime("%Y-%m-%d %H:00:00.000000", at)
    return _truncated("hour", at)


def day_expr(at: sa.ColumnElement[Any], is_postgresql: bool) -> sa.ColumnElement[Any]:
    """Return the beginning of the day of `at`, in UTC; on SQLite as text."""
    if not is_postgresql:
        return sa.func.strftime("%Y-%m-%d 00:00:00.000000", at)
    return _truncated("day", at)


def _truncated(unit: str, at: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return the beginning of an hour or a day in UTC, as a time with a zone."""
    naive = at if isinstance(at.type, NaiveUtc) else sa.func.timezone("UTC", at)
    return sa.func.timezone("UTC", sa.func.date_trunc(unit, naive))
