"""Marks of hours whose totals have to be made anew: left by everything that changes rows of hours that are closed.

A mark is inserted in the transaction that changes the rows, so there is never one without the other. Nothing is marked
where no totals are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage.catalog import qualify_name
from llmctx.storage.rollup.build import HOUR, floor_hour
from llmctx.storage.rollup.tables import has_privilege, totals_of

MARGIN: Final = timedelta(minutes=10)
"""Between an hour for which rows are not late yet and one of which totals are made: for clocks that differ, and for
transactions under way."""

EVER: Final = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
"""A span of all hours."""


def late_before(now: datetime) -> datetime:
    """Return the time before which rows that are stored `now` are late: totals may have been made of their hours."""
    return floor_hour(now - HOUR)


def late_times(times: Iterable[datetime], now: datetime | None = None) -> list[datetime]:
    """Return those of `times`, of rows that are stored now, that are late."""
    before = late_before(now or datetime.now(UTC))
    return [time for time in times if time < before]


def closed_until(now: datetime) -> datetime:
    """Return until when totals may be made `now`."""
    return floor_hour(now - HOUR - MARGIN)


async def mark(connection: AsyncConnection, log: sa.Table, times: Iterable[datetime | None]) -> None:
    """Mark the hours of `times`, those of rows that are being changed."""
    await mark_spans(connection, log, hours_of(time for time in times if time is not None))


async def mark_spans(connection: AsyncConnection, log: sa.Table, spans: Iterable[tuple[datetime, datetime]]) -> None:
    """Mark all hours of `spans`, from their first times up to their last ones."""
    rows = [{"first": first, "after": after} for first, after in spans]
    marks = totals_of(log, postgresql=connection.dialect.name == "postgresql").marks
    if rows and await has_privilege(connection, marks, "INSERT"):
        await connection.execute(marks.insert(), rows)


async def mark_in_sql(
    connection: AsyncConnection, log: sa.Table, first: datetime | None, after: datetime | None
) -> list[str]:
    """Return the statement that marks all hours from `first` to `after`; None is as far as there are any."""
    marks = totals_of(log, postgresql=True).marks
    there = await has_privilege(connection, marks, "INSERT")
    await connection.rollback()
    if not there:
        return []
    ends = [(first or EVER[0]).isoformat(), (after or EVER[1]).isoformat()]
    name = qualify_name(marks.name, marks.schema)
    return [f"INSERT INTO {name} (first, after) VALUES ('{ends[0]}', '{ends[1]}')"]  # noqa: S608


def hours_of(times: Iterable[datetime]) -> list[tuple[datetime, datetime]]:
    """Return the hours of `times`, in order, with those as one that touch. The calendar's ends have no totals."""
    hours = {floor_hour(time) for time in times if EVER[0] <= time < EVER[1]}
    return merge_spans((hour, hour + HOUR) for hour in hours)


def merge_spans(spans: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """Return `spans` in order, with those as one that touch."""
    found: list[tuple[datetime, datetime]] = []
    for first, after in sorted(spans):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(after, found[-1][1])
        else:
            found.append((first, after))
    return found
