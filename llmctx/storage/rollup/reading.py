"""The way to the figures of a time: totals of days and hours where they are made and know the filters, else rows.

A `Part` is a part of the time and what to read it from; those of one question hold every call once, but for the
calls of `moved_from`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.record import Reason
from llmctx.storage.figures import SUMMED_COLUMNS, SUMS, latency_bucket, sums_of_rows, sums_of_sums
from llmctx.storage.filters import Filters
from llmctx.storage.reflection import column_expr
from llmctx.storage.rollup.build import DAY, HOUR, floor_day, floor_hour, histogram_of
from llmctx.storage.rollup.marks import merge_spans
from llmctx.storage.rollup.rollup import state_of
from llmctx.storage.rollup.tables import HISTOGRAM, totals_of
from llmctx.storage.sanitize import storable_id

_KNOWN: Final[Mapping[str, str]] = {
    "agent": "agent_key", "model": "model", "provider": "provider", "status": "status", "source": "identity_source",
    "reason": "identity_reason", "error": "error_code",
}  # fmt: skip
"""Filters that totals know, and their columns there."""
_FLAGS: Final = ("errors", "unattributed")
_TIMES: Final = ("since", "until")
Span = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the calls, and what they are read from: rows of the log, or totals."""

    rows: sa.FromClause
    where: sa.ColumnElement[bool]
    at: sa.ColumnElement[Any]
    is_total: bool = False
    is_postgresql: bool = False
    moved_from: int = 0
    """-1 or 1 where these calls are in the sums of the bucket before theirs as well, or of the one after it."""

    def column(self, name: str) -> sa.ColumnElement[Any]:
        """Return a column that both rows and totals have."""
        return self.rows.c[name] if self.is_total else column_expr(self.rows, name)

    def sum_by(
        self, keys: Mapping[str, sa.ColumnElement[Any]], *, only: Collection[str] | None = None
    ) -> sa.Select[Any]:
        """Return the sums of `figures.SUMS` by `keys`, or `only` some of them."""
        names = (only or SUMS) if self.is_total else SUMMED_COLUMNS
        each = self._each(keys, {name: self.column(name) for name in names})
        sums = sums_of_sums(each, only) if self.is_total else sums_of_rows(each)
        groups = [each.c[name] for name in keys]
        return sa.select(*groups, *(sums[name] for name in only or SUMS)).group_by(*groups)

    def latencies(self, keys: Mapping[str, sa.ColumnElement[Any]]) -> sa.Select[Any]:
        """Return the histogram by `keys`: `low`, the smallest latency of a bucket, and how many calls are in it."""
        if not self.is_total:
            low = latency_bucket(self.column("latency_ms"))
            each = self._each(keys, {"low": low}, low.is_not(None))
            count: sa.ColumnElement[Any] = sa.func.count()
        else:
            names = HISTOGRAM if self.is_postgresql else ("latencies",)
            held = self._each(keys, {name: self.rows.c[name] for name in names})
            low, number, source = histogram_of(held, self.is_postgresql)
            columns = [*(held.c[name] for name in keys), low.label("low"), number.label("count")]
            each = sa.select(*columns).select_from(source).subquery()
            count = sa.func.sum(each.c["count"])
        groups = [*(each.c[name] for name in keys), each.c["low"]]
        return sa.select(*groups, count.label("count")).group_by(*groups)

    def _each(
        self,
        keys: Mapping[str, sa.ColumnElement[Any]],
        more: Mapping[str, sa.ColumnElement[Any]],
        *conditions: sa.ColumnElement[bool],
    ) -> sa.Subquery:
        """Return the rows with what they are grouped by: an expression becomes a column, so that it is one parameter.

        Of an expression of a time PostgreSQL believes that there are as many as times, and sorts a million rows in one
        process rather than count them in several. Of a column that comes out of a UNION it believes nothing: 200.
        """
        columns = (column.label(name) for name, column in {**keys, **more}.items())
        rows = sa.select(*columns).select_from(self.rows).where(self.where, *conditions)
        return sa.union_all(rows, rows.where(sa.false())).subquery()


@dataclass(frozen=True, slots=True)
class Reading:
    """The parts of a time, and until when totals are used; None where they are not."""

    parts: Sequence[Part]
    as_of: datetime | None

    @property
    def source(self) -> str:
        """Return "rollup" where totals are used, else "rows"."""
        return "rows" if self.as_of is None else "rollup"


async def reading_of(
    connection: AsyncConnection,
    log: sa.Table,
    filters: Filters,
    *,
    cuts: Sequence[datetime] = (),
    only_rows: bool = False,
) -> Reading:
    """Return what to read for the rows of `filters`, when they are cut at the times `cuts`.

    Args:
        only_rows: the question is of something that totals do not hold.
    """
    is_postgresql = connection.dialect.name == "postgresql"
    totals = totals_of(log, postgresql=is_postgresql)
    state = None if only_rows or not _are_known(filters) else await state_of(connection, totals)
    since, until = filters.since, filters.until
    if state is None:
        return Reading([_of_rows(log, filters.clause(log))], None)
    first = datetime.min.replace(tzinfo=UTC) if since is None else since
    after = state.until if until is None else min(floor_hour(until), state.until)
    inner = [cut for cut in cuts if first < cut < after]
    day_first, day_after = first if since is None else _ceil(first, DAY), floor_day(after)
    moved = [cut for cut in inner if day_first < cut < day_after and cut != floor_day(cut)]
    if day_first >= day_after or (moved and not (is_postgresql and _are_daily(moved))):
        moved, day_first, day_after = [], after, after
    ends = {first, day_first, day_after, max(first, after), *(cut for cut in inner if not day_first < cut < day_after)}
    hours, rests = _whole_hours(span for span in itertools.pairwise(sorted(ends)) if span[0] != day_first)
    if not hours and day_first == day_after:
        return Reading([_of_rows(log, filters.clause(log))], None)
    parts = []
    if day_first < day_after:
        days = _of_totals(totals.days, filters, [(day_first, day_after)], is_postgresql)
        noon = sa.type_coerce(days.at, sa.DateTime(timezone=True)) + DAY / 2
        parts.append(replace(days, at=noon) if moved else days)
    if hours:
        parts.append(_of_totals(totals.hours, filters, hours, is_postgresql))
    if moved:
        parts += _moved(log, totals.hours, filters, moved)
    at = log.c.created_at
    rest = [at >= after, *_within(at, rests)]
    if at.nullable and since is None and until is None:
        rest.append(at.is_(None))
    parts.append(_of_rows(log, sa.and_(filters.clause(log), sa.or_(*rest))))
    return Reading(parts, after)


def _are_daily(cuts: Sequence[datetime]) -> bool:
    """Return whether no day in UTC is cut twice, and all are cut in the same half."""
    return len({floor_day(cut) for cut in cuts}) == len(cuts) and len({_is_late(cut) for cut in cuts}) < 2


def _is_late(cut: datetime) -> bool:
    return cut - floor_day(cut) > DAY / 2


def _moved(log: sa.Table, hours: sa.Table, filters: Filters, cuts: Sequence[datetime]) -> list[Part]:
    """Return what lies between the `cuts` and the midnights next to them.

    So days in another zone are those in UTC but for a few hours: of the whole hours of three months a third at most is
    read for UTC+8, and a twenty-fourth for UTC+1.
    """
    way = -1 if _is_late(cuts[0]) else 1
    spans = [(cut, floor_day(cut) + DAY) if way < 0 else (floor_day(cut), cut) for cut in cuts]
    whole, rests = _whole_hours(spans)
    parts = [_of_totals(hours, filters, whole, True)] if whole else []
    if rests:
        parts.append(_of_rows(log, sa.and_(filters.clause(log), sa.or_(*_within(log.c.created_at, rests)))))
    return [replace(part, moved_from=way) for part in parts]


def _whole_hours(spans: Iterable[Span]) -> tuple[list[Span], list[Span]]:
    """Return the whole hours of each of `spans`, and what is left of them; each with those as one that touch."""
    hours, rests = [], []
    for begin, end in spans:
        first, after = _ceil(begin, HOUR), floor_hour(end)
        if first < after:
            hours.append((first, after))
            rests += [(begin, first), (after, end)]
        else:
            rests.append((begin, end))
    return merge_spans(hours), merge_spans(span for span in rests if span[0] < span[1])


def _within(at: sa.ColumnElement[Any], spans: Iterable[Span]) -> list[sa.ColumnElement[bool]]:
    return [sa.and_(at >= first, at < after) for first, after in spans]


def _ceil(time: datetime, unit: timedelta) -> datetime:
    floor: Callable[[datetime], datetime] = floor_hour if unit == HOUR else floor_day
    whole = floor(time)
    return whole if whole == time else whole + unit


def _are_known(filters: Filters) -> bool:
    """Return whether totals can tell which calls `filters` are of."""
    return filters.active_names <= {*_KNOWN, *_FLAGS, *_TIMES, "within"} and (
        filters.within is None or filters.within.active_names <= {*_KNOWN, *_FLAGS}
    )


def _of_rows(log: sa.Table, where: sa.ColumnElement[bool]) -> Part:
    return Part(log, where, log.c.created_at)


def _of_totals(totals: sa.Table, filters: Filters, spans: Sequence[Span], is_postgresql: bool) -> Part:
    at = totals.c.at
    return Part(totals, sa.and_(sa.or_(*_within(at, spans)), _clause(totals, filters)), at, True, is_postgresql)


def _clause(totals: sa.Table, filters: Filters) -> sa.ColumnElement[bool]:
    """Return the condition of `filters` on totals, but for its times."""
    c = totals.c
    given = [
        c[column] == (storable_id(value) or value if name == "agent" else value)
        for name, column in _KNOWN.items()
        if (value := filters.value(name)) is not None
    ]
    if filters.errors:
        given.append(c.success.is_(False))
    if filters.unattributed:
        given.append(sa.not_(sa.and_(c.has_session, c.has_user)))
        given.append(c.identity_reason.is_distinct_from(Reason.ERASED.value))
    if filters.within is not None:
        given.append(_clause(totals, filters.within))
    return sa.and_(sa.true(), *given)
