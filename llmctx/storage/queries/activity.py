"""Sessions and users: which were used last, to any depth, and which cost most.

The list is walked in spans of time, back from where the page begins: a user with a call in a span, and none after
it, was there last in it. So a page reads what happened around it, and then the calls of those whom it shows; those of
all others are not added up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Final, Generic, Literal, TypedDict, TypeVar, Unpack, cast

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage.distribution import is_distributed
from llmctx.storage.figures import has_no_tokens
from llmctx.storage.filters import Filters
from llmctx.storage.host_types import as_text
from llmctx.storage.queries.aggregates import make_room
from llmctx.storage.queries.counts import CAP, Count
from llmctx.storage.queries.page import (
    Cursor,
    Page,
    Span,
    newest_time,
    page_of,
    past_cursor,
    spans_after,
    spans_before,
)
from llmctx.storage.reflection import column_expr, id_is_in, overflow_column

Order = Literal["cost", "errors", "calls", "tokens", "ms"]
"""By what most: US dollars, failed calls, calls, tokens, or time spent in calls."""
ORDERS: Final[Mapping[Order, str]] = {
    "cost": "cost_usd", "errors": "errors", "calls": "calls", "tokens": "total_tokens", "ms": "total_ms",
}  # fmt: skip
MOST_DAYS: Final = timedelta(days=31)
"""How far back `top_sessions` and `top_users` look where they are not told: they read every row of the time."""
_MOST_MODELS: Final = 50
_FIRST_SPAN: Final = timedelta(minutes=15)
_CANDIDATES: Final = 500  # at once, where those that were used later are found by a question of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """The sums of some calls. What no row knows is None; `unpriced` calls have no cost, `unmetered` no tokens."""

    calls: int
    errors: int
    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None
    cost_usd: Decimal | None
    unpriced: int
    unmetered: int
    total_ms: int | None
    first: datetime | None
    last: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow(Activity):
    """A session."""

    session_id: str
    user_id: str | None
    """One of its users."""
    users: int
    models: Sequence[str] = ()
    """Most calls first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRow(Activity):
    """A user."""

    user_id: str
    sessions: int


class PageOptions(TypedDict, total=False):
    """The page of a list: the first, the one `before` a cursor or `after` one; of `limit` rows, 20 by default."""

    before: Cursor | None
    after: Cursor | None
    limit: int


R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Kind(Generic[R]):
    """The kind of list: the column of its ids, the other id that is counted, and the row that its sums become."""

    name: str
    other: str
    row: Callable[[Mapping[str, Any], dict[str, Any]], R]
    """Takes the row with `key`, `other` and `others`, and the figures."""


_SESSIONS: Final = _Kind(
    "session_id",
    "user_id",
    lambda row, figures: SessionRow(session_id=row["key"], user_id=row["other"], users=row["others"], **figures),
)
_USERS: Final = _Kind(
    "user_id", "session_id", lambda row, figures: UserRow(user_id=row["key"], sessions=row["others"], **figures)
)


async def sessions(
    connection: AsyncConnection, table: sa.Table, filters: Filters | None = None, **options: Unpack[PageOptions]
) -> Page[SessionRow]:
    """Return a page of the sessions, those used last first. Only calls that match are counted, and make a session."""
    page = await _page(connection, table, _SESSIONS, filters or Filters(), **options)
    return replace(page, rows=await _with_models(connection, table, page.rows, filters or Filters()))


async def users(
    connection: AsyncConnection, table: sa.Table, filters: Filters | None = None, **options: Unpack[PageOptions]
) -> Page[UserRow]:
    """Return a page of the users, those seen last first. Only calls that match are counted, and make a user."""
    return await _page(connection, table, _USERS, filters or Filters(), **options)


async def top_sessions(
    connection: AsyncConnection, table: sa.Table, filters: Filters | None = None, *, by: Order, limit: int = 20
) -> list[SessionRow]:
    """Return the sessions with the most of `by`, of `MOST_DAYS` unless `filters` say since when."""
    rows = await _top(connection, table, _SESSIONS, _bounded(filters), by, limit)
    return await _with_models(connection, table, rows, _bounded(filters))


async def top_users(
    connection: AsyncConnection, table: sa.Table, filters: Filters | None = None, *, by: Order, limit: int = 20
) -> list[UserRow]:
    """Return the users with the most of `by`, of `MOST_DAYS` unless `filters` say since when."""
    return await _top(connection, table, _USERS, _bounded(filters), by, limit)


async def count_users(
    connection: AsyncConnection, table: sa.Table, filters: Filters | None = None, *, cap: int = CAP
) -> Count:
    """Return how many users there were, of `MOST_DAYS` unless `filters` say since when, counted up to `cap`.

    From rows, for totals hold no user: every row of the time is read.
    """
    return await _count(connection, table, _USERS, _bounded(filters), cap)


async def count_sessions(
    connection: AsyncConnection, table: sa.Table, filters: Filters | None = None, *, cap: int = CAP
) -> Count:
    """Return how many sessions there were, as `count_users` does."""
    return await _count(connection, table, _SESSIONS, _bounded(filters), cap)


async def session_sums(
    connection: AsyncConnection, table: sa.Table, session: str, filters: Filters | None = None
) -> SessionRow | None:
    """Return what the calls of one session add up to; None where there are none that match."""
    found = list((await _added_up(connection, table, _SESSIONS, filters or Filters(), [session])).values())
    return next(iter(await _with_models(connection, table, found, filters or Filters())), None)


async def user_sums(
    connection: AsyncConnection, table: sa.Table, user: str, filters: Filters | None = None
) -> UserRow | None:
    """Return what the calls of one user add up to; None where there are none that match."""
    return next(iter((await _added_up(connection, table, _USERS, filters or Filters(), [user])).values()), None)


def _bounded(filters: Filters | None) -> Filters:
    filters = filters or Filters()
    end = filters.until or datetime.now(UTC)
    return filters if filters.since is not None else replace(filters, since=end - MOST_DAYS)


# -- walking ----------------------------------------------------------------------------------------------------------


async def _page(
    connection: AsyncConnection,
    table: sa.Table,
    kind: _Kind[R],
    filters: Filters,
    before: Cursor | None = None,
    after: Cursor | None = None,
    limit: int = 20,
) -> Page[R]:
    if kind.name not in table.c:
        return Page(rows=[])
    await make_room(connection)
    older = after is None
    place = before if older else after
    now = await newest_time(connection, table)
    if older:
        end = filters.until if place is None or place.at is None else place.at
        spans = spans_before(end, now, _FIRST_SPAN, filters.since)
    else:
        start = now if place is None or place.at is None else place.at
        spans = spans_after(start, datetime.now(UTC), _FIRST_SPAN, filters.until)
    # neither an id that stands in two columns can be looked up in the same statement, nor rows of other shards
    apart = overflow_column(table, kind.name) is not None or await is_distributed(connection, table)
    find = partial(_last_within, connection, table, kind, filters, place=place, older=older, apart=apart)
    found: list[Cursor] = []
    for span in spans:
        found += await find(span, limit + 1 - len(found))
        if len(found) > limit:
            break
    if not older:
        found.reverse()
    page = page_of(found, limit, found, before=older)
    by_id = await _added_up(connection, table, kind, filters, [str(one.id) for one in page.rows])
    return Page(
        rows=[by_id[one.id] for one in page.rows if one.id in by_id], next=page.next, previous=page.previous
    )  # one that has been erased meanwhile is not there


async def _last_within(
    connection: AsyncConnection,
    table: sa.Table,
    kind: _Kind[R],
    filters: Filters,
    span: Span,
    limit: int,
    *,
    place: Cursor | None,
    older: bool,
    apart: bool,
) -> list[Cursor]:
    """Return the ids whose last call lies in `span`, beyond `place`, the nearest first: with the time of that call.

    `apart`: those that were used after it are found by a statement of its own.
    """
    found: list[Cursor] = []
    at_once = max(limit, _CANDIDATES) if apart else limit
    while len(found) < limit:
        statement = _candidates(table, kind, filters, span, place, older=older, apart=apart).limit(at_once)
        some = [Cursor(last, key) for key, last in await connection.execute(statement)]
        later = await _used_later(connection, table, kind, filters, span, some) if apart else set[str | None]()
        found += [one for one in some if one.id not in later]
        if not later or len(some) < at_once:
            break
        place = some[-1]
    return found[:limit]


def _candidates(
    table: sa.Table, kind: _Kind[R], filters: Filters, span: Span, place: Cursor | None, *, older: bool, apart: bool
) -> sa.Select[Any]:
    """Return the ids that were used in `span`, each with its last time there; unless `apart` none used after it."""
    own = column_expr(table, kind.name)
    groups = (
        sa.select(own.label("own"), sa.func.max(table.c.created_at, type_=table.c.created_at.type).label("last"))
        .where(filters.clause(table), own.is_not(None), span.holds(table.c.created_at))
        .group_by(own)
        .subquery()
    )
    key, last = as_text(groups.c.own), groups.c.last
    later = table.alias("later")
    after = span.is_before(later.c.created_at)
    statement = sa.select(key.label("key"), last)
    if after is not None and not apart:
        used = sa.select(sa.literal(1)).where(
            column_expr(later, kind.name) == groups.c.own, after, filters.clause(later)
        )
        statement = statement.where(~used.exists())
    if place is not None:
        statement = statement.where(past_cursor(last, key, place, older=older))
    return statement.order_by(*((last.desc(), key.desc()) if older else (last, key)))


async def _used_later(
    connection: AsyncConnection, table: sa.Table, kind: _Kind[R], filters: Filters, span: Span, some: Sequence[Cursor]
) -> set[str | None]:
    """Return which of `some` were used after `span` as well."""
    after = span.is_before(table.c.created_at)
    if after is None or not some:
        return set()
    theirs = id_is_in(table, kind.name, [str(one.id) for one in some])
    used = (
        sa.select(column_expr(table, kind.name)).where(theirs, after, filters.clause(table)).distinct().limit(len(some))
    )
    return set(await connection.scalars(used))


# -- adding up --------------------------------------------------------------------------------------------------------


async def _added_up(
    connection: AsyncConnection, table: sa.Table, kind: _Kind[R], filters: Filters, ids: Sequence[str]
) -> dict[str | None, R]:
    if not ids or kind.name not in table.c:
        return {}
    where = sa.and_(filters.clause(table), id_is_in(table, kind.name, ids))
    rows = await connection.execute(_sums(table, kind, where).limit(len(ids)))
    return {row.key: _row(kind, row._mapping) for row in rows}


async def _top(
    connection: AsyncConnection, table: sa.Table, kind: _Kind[R], filters: Filters, by: Order, limit: int
) -> list[R]:
    if kind.name not in table.c:
        return []
    await make_room(connection)
    where = sa.and_(filters.clause(table), column_expr(table, kind.name).is_not(None))
    sums = _sums(table, kind, where)
    most = sums.selected_columns[ORDERS[by]]
    rows = await connection.execute(sums.order_by(most.desc().nulls_last(), sa.literal_column("key")).limit(limit))
    return [_row(kind, row._mapping) for row in rows]


async def _count(connection: AsyncConnection, table: sa.Table, kind: _Kind[R], filters: Filters, cap: int) -> Count:
    if kind.name not in table.c:
        return Count(0)
    await make_room(connection)
    own = column_expr(table, kind.name)
    ids = sa.select(own.label("id")).where(filters.clause(table), own.is_not(None)).distinct().limit(cap + 1).subquery()
    found = await connection.scalar(sa.select(sa.func.count()).select_from(ids)) or 0
    return Count(min(found, cap), capped=found > cap)


def _sums(table: sa.Table, kind: _Kind[R], where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Return the sums of the rows by id: by pairs of ids first, for counting different ones would sort every row."""
    at, time = table.c.created_at, table.c.created_at.type
    cost = column_expr(table, "cost_usd")
    own, other = column_expr(table, kind.name), column_expr(table, kind.other)
    counts = {
        "calls": sa.func.count(),
        "errors": sa.func.count(sa.case((column_expr(table, "success").is_(False), 1))),
        "unpriced": sa.func.count() - sa.func.count(cost),
        "unmetered": sa.func.count(sa.case((has_no_tokens(table), 1))),
        **{name: sa.func.sum(column_expr(table, name)) for name in _TOKENS},
        "total_ms": sa.func.sum(column_expr(table, "latency_ms")),
    }
    pairs = (
        sa.select(
            own.label("own"),
            other.label("other"),
            sa.func.sum(cost, type_=cost.type).label("cost_usd"),
            sa.func.min(at, type_=time).label("first"),
            sa.func.max(at, type_=time).label("last"),
            *(count.label(name) for name, count in counts.items()),
        )
        .where(where)
        .group_by(own, *([other] if kind.other in table.c else []))
        .subquery()
    )
    p = pairs.c
    sums = sa.select(
        as_text(p.own).label("key"),
        sa.func.count(p.other).label("others"),
        as_text(sa.func.max(as_text(p.other))).label("other"),
        sa.func.sum(p.cost_usd, type_=cost.type).label("cost_usd"),
        sa.func.min(p.first, type_=time).label("first"),
        sa.func.max(p.last, type_=time).label("last"),
        *(sa.func.sum(p[name]).label(name) for name in counts),
    ).group_by(p.own)
    return cast("sa.Select[Any]", sums)


_TOKENS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")
_FIGURES: Final = frozenset(field.name for field in fields(Activity))


def _row(kind: _Kind[R], row: Mapping[str, Any]) -> R:
    figures: dict[str, Any] = {
        name: value if value is None or not isinstance(value, Decimal) or name == "cost_usd" else int(value)
        for name, value in row.items()  # PostgreSQL's sum of sums is a decimal
        if name in _FIGURES
    }
    return kind.row(row, figures)


async def _with_models(
    connection: AsyncConnection, table: sa.Table, rows: Sequence[SessionRow], filters: Filters
) -> list[SessionRow]:
    """Return `rows` with the models that each has used."""
    if not rows:
        return []
    own, theirs = column_expr(table, "session_id"), id_is_in(table, "session_id", [row.session_id for row in rows])
    counted = sa.select(own, table.c.model, sa.func.count().label("calls")).where(filters.clause(table), theirs)
    models: dict[str, list[str]] = {}
    by_calls = counted.group_by(own, table.c.model).order_by(sa.literal_column("calls").desc(), table.c.model)
    for key, model, _ in await connection.execute(by_calls.limit(_MOST_MODELS * len(rows))):
        models.setdefault(str(key), []).append(model)
    return [replace(row, models=tuple(models.get(row.session_id, ()))) for row in rows]
