"""Pages of a list that is sorted by time: cursors, the rows beyond one, and the spans of time in which to look.

A page ends where its last row stands: at its time and its id. The next one begins there, however deep in the list that
is and whatever has been added meanwhile; nothing is counted, and no row is read to be passed over.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.errors import ConfigError
from llmctx.storage.convert import Lossy, to_column
from llmctx.storage.filters import Filters

T = TypeVar("T")

_GROWS: Final = 4
_WINDOWS: Final = 9
"""Each four times as long as the one before: from an hour on, the last begins seven years ago."""
_LONGEST: Final = 65_536


class InvalidCursor(ConfigError):
    """That is no cursor of a list. Take it from `next` or `previous` of a page."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a list: the time of a row and its id.

    Without an id it is a moment: before all rows of that time. Without a time it is a row of an adopted table that has
    none; these come last.
    """

    at: datetime | None
    id: str | None = None

    def __str__(self) -> str:
        """Return the form that goes into URLs and options."""
        said = json.dumps([self.at and self.at.astimezone(UTC).isoformat(), self.id], ensure_ascii=False)
        return base64.urlsafe_b64encode(said.encode()).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the cursor that `text` spells. Raises `InvalidCursor`."""
        try:
            if len(text) > _LONGEST:
                raise ValueError
            decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            at, row_id = json.loads(decoded)
            if not isinstance(row_id, (str, type(None))) or (at is None and row_id is None):
                raise ValueError
            if row_id is not None and "\0" in row_id.encode().decode():  # nor lone surrogates: no database has these
                raise ValueError
            time = None if at is None else datetime.fromisoformat(at)
            if time is not None and time.tzinfo is None:
                raise ValueError
            return cls(time and time.astimezone(UTC), row_id)
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise InvalidCursor from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Some rows of a list, newest first, and the cursors of its neighbours."""

    rows: Sequence[T]
    next: str | None = None
    """The cursor of older rows, for `before`; None where there are none."""
    previous: str | None = None
    """The cursor of newer rows, for `after`; None for a page without rows. There may be none yet."""


def page_of(rows: Sequence[T], limit: int, cursors: Sequence[Cursor], *, before: bool) -> Page[T]:
    """Return the page of `rows`, newest first, of which one more than `limit` was asked for; `cursors` are theirs.

    Args:
        before: older rows were asked for, or the first ones; else newer ones, whose surplus stands in front.
    """
    more = len(rows) > limit
    kept = slice(0, limit) if before else slice(len(rows) - limit if more else 0, len(rows))
    rows, cursors = rows[kept], cursors[kept]
    if not rows:
        return Page(rows=rows)
    has_next = more if before else True  # what a newer page was asked for from is older
    return Page(rows=rows, next=str(cursors[-1]) if has_next else None, previous=str(cursors[0]))


def id_of(column: sa.ColumnElement[Any], text: str) -> Any:
    """Return an id out of a cursor as `column` compares it. Raises `InvalidCursor`."""
    try:
        return UUID(text) if isinstance(column.type, sa.Uuid) else to_column(column, text)
    except (ValueError, Lossy):
        raise InvalidCursor from None


def past_cursor(
    at: sa.ColumnElement[Any], row_id: sa.ColumnElement[Any], cursor: Cursor, *, older: bool
) -> sa.ColumnElement[bool]:
    """Return the condition of rows on the other side of `cursor`, with a bound of the time alone for its index."""
    if cursor.at is None:
        assert cursor.id is not None
        value = id_of(row_id, cursor.id)
        return sa.and_(at.is_(None), row_id < value) if older else sa.or_(at.is_not(None), row_id > value)
    if cursor.id is None:
        return at < cursor.at if older else at >= cursor.at
    value = id_of(row_id, cursor.id)
    if older:
        return sa.and_(at <= cursor.at, sa.or_(at < cursor.at, row_id < value))
    return sa.and_(at >= cursor.at, sa.or_(at > cursor.at, row_id > value))


@dataclass(frozen=True, slots=True)
class Span:
    """From `first` up to `last`, or beyond where one of them is None. `last` is exclusive unless `closed`."""

    first: datetime | None
    last: datetime | None
    closed: bool = False

    def holds(self, at: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
        """Return the condition that a time lies within."""
        bounds = [] if self.first is None else [at >= self.first]
        if self.last is not None:
            bounds.append(at <= self.last if self.closed else at < self.last)
        return sa.and_(sa.true(), *bounds)

    def is_before(self, at: sa.ColumnElement[Any]) -> sa.ColumnElement[bool] | None:
        """Return the condition that a time comes after the span; None where nothing can."""
        if self.last is None:
            return None
        return at > self.last if self.closed else at >= self.last


def spans_before(end: datetime | None, now: datetime, shortest: timedelta, since: datetime | None) -> Iterator[Span]:
    """Yield spans back from `end`, or from `now` and whatever comes later, each four times as long as the one before.

    `end` itself is within. They begin at `since`, or have no beginning.
    """
    newest = now if end is None else min(end, now)
    length, last, closed = shortest, end, True
    for _ in range(_WINDOWS):
        first = _shifted(newest, -length)
        if first is None or (since is not None and first <= since):
            break
        yield Span(first, last, closed)
        last, closed, length = first, False, length * _GROWS
    yield Span(since, last, closed)


def spans_after(start: datetime, now: datetime, shortest: timedelta, until: datetime | None) -> Iterator[Span]:
    """Yield spans on from `start`, each four times as long as the one before, until `until`, or without an end."""
    length, first = shortest, start
    while (last := _shifted(first, length)) is not None and last < now and (until is None or last < until):
        yield Span(first, last)
        first, length = last, length * _GROWS
    yield Span(first, until)


def _shifted(time: datetime, by: timedelta) -> datetime | None:
    try:
        return time + by
    except OverflowError:
        return None


async def newest_time(connection: AsyncConnection, table: sa.Table) -> datetime:
    """Return about when the newest call was made: ids of llmctx begin with their time. Otherwise it is now."""
    now = datetime.now(UTC)
    if not isinstance(table.c.call_id.type, sa.Uuid):
        return now
    last = await connection.scalar(sa.select(table.c.call_id).order_by(table.c.call_id.desc()).limit(1))
    if last is None or last.version != 7:
        return now
    return min(now, datetime.fromtimestamp((last.int >> 80) / 1000, UTC))


async def is_sorted_by_time(connection: AsyncConnection, table: sa.Table, filters: Filters) -> bool:
    """Return whether an index has the rows of `filters` in the order of time.

    A BRIN index has not: it finds a span of time quickly, and then every row of the span is sorted.
    """
    by_index = filters.user, filters.session, filters.unattributed or None
    if connection.dialect.name != "postgresql" or any(one is not None for one in by_index):
        return True
    name = connection.dialect.identifier_preparer.format_table(table)
    return set(await connection.scalars(sa.text(_INDEXED), {"name": name})) != {"brin"}


_INDEXED: Final = """
SELECT m.amname FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_am m ON m.oid = c.relam
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attname = 'created_at'
WHERE i.indrelid = pg_catalog.to_regclass(:name) AND i.indisvalid AND i.indpred IS NULL
"""
