"""One call, whole; the latest; what a session said; and what has come in since one looked last."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.errors import LlmctxError
from llmctx.core.record import COLUMNS, SNAPSHOTS
from llmctx.storage.filters import Filters
from llmctx.storage.host_types import as_text
from llmctx.storage.queries.page import (
    Cursor,
    Page,
    is_sorted_by_time,
    newest_time,
    page_of,
    past_cursor,
    spans_after,
    spans_before,
)
from llmctx.storage.reflection import all_columns, column_expr, equals_disjoint

Row = dict[str, Any]

_HEX: Final = frozenset("0123456789abcdef")
_FIRST_WINDOW: Final = timedelta(hours=1)
_OVERLAP: Final = timedelta(minutes=15)  # rows come in when their calls end


class NoSuchCall(LlmctxError):
    """There is no call of that id. List the latest with `llmctx calls`."""


class AmbiguousCall(LlmctxError):
    """Several calls begin with that id. Give more of it."""


def _columns(table: Table, *, whole: bool) -> list[sa.ColumnElement[Any]]:
    """Return our columns, as far as the table has them; if `whole` with texts, attributes, and what is its own."""
    hidden = () if whole else (*SNAPSHOTS, "attributes")
    own = [column for column in all_columns(table) if column.name not in COLUMNS] if whole else []
    return [*(column_expr(table, name) for name in COLUMNS if name not in hidden), *own]


def _in_order(rows: sa.FromClause, *, newest_first: bool, timeless: bool) -> Sequence[sa.ColumnElement[Any]]:
    at, row_id = rows.c.created_at, sort_id(rows)
    if not newest_first:
        return at, row_id
    return at.desc().nulls_last() if timeless else at.desc(), row_id.desc()


def sort_id(rows: sa.FromClause) -> sa.ColumnElement[Any]:
    """Return what tells calls of one time apart: their ids, or in an adopted table an empty one where there is none."""
    row_id = rows.c.call_id
    return sa.func.coalesce(as_text(row_id), "", type_=sa.Text()) if row_id.nullable else row_id


def _first_of(
    table: Table,
    conditions: Sequence[sa.ColumnElement[bool]],
    limit: int,
    *,
    whole: bool,
    newest_first: bool = True,
    timeless: bool = False,
) -> sa.Select[Any]:
    """Return the first rows in order of those that meet one of `conditions`; no row meets two.

    With `timeless`, rows without a time come last: no index has them there.
    """
    in_order = partial(_in_order, newest_first=newest_first, timeless=timeless)
    columns, order = _columns(table, whole=whole), in_order(table)
    each = [sa.select(*columns).where(condition).order_by(*order).limit(limit) for condition in conditions]
    if len(each) == 1:
        return each[0]
    union = sa.union_all(*(sa.select(one.subquery()) for one in each)).subquery()
    return sa.select(union).order_by(*in_order(union)).limit(limit)


async def calls(
    connection: AsyncConnection,
    table: Table,
    filters: Filters | None = None,
    *,
    limit: int = 20,
    whole: bool = False,
) -> list[Row]:
    """Return the latest calls, newest first; without their texts and attributes, unless `whole`."""
    return list((await call_page(connection, table, filters, limit=limit, whole=whole)).rows)


async def call_page(
    connection: AsyncConnection,
    table: Table,
    filters: Filters | None = None,
    *,
    before: Cursor | None = None,
    after: Cursor | None = None,
    limit: int = 20,
    whole: bool = False,
) -> Page[Row]:
    """Return a page of the calls, newest first: the latest, those `before` a cursor, or the next ones `after` one.

    Texts and attributes are left out, unless `whole`. Calls of an adopted table that have no time come last.
    """
    filters, older = filters or Filters(), after is None
    place = before if older else after
    place_condition = [] if place is None else [past_cursor(table.c.created_at, sort_id(table), place, older=older)]
    found: list[Row] = []
    for span in await _spans(connection, table, filters, place, older=older):
        conditions = [sa.and_(condition, span, *place_condition) for condition in filters.clauses(table)]
        statement = _first_of(table, conditions, limit + 1 - len(found), whole=whole, newest_first=older)
        found += [dict(row) for row in (await connection.execute(statement)).mappings()]
        if len(found) > limit:
            break
    if not older:
        found.reverse()
    cursors = [Cursor(row["created_at"], str(row["call_id"] or "")) for row in found]
    return page_of(found, limit, cursors, before=older)


async def calls_in_order(
    connection: AsyncConnection,
    table: Table,
    filters: Filters,
    *,
    before: Cursor | None = None,
    after: Cursor | None = None,
    limit: int = 200,
    whole: bool = False,
) -> Page[Row]:
    """Return a page of the calls, oldest first: from the beginning on, on from `after`, or back from `before`.

    `next` is the cursor of later calls, for `after`, and `previous` of earlier ones, for `before`.
    """
    if before is not None:
        page = await call_page(connection, table, filters, before=before, limit=limit, whole=whole)
        later, earlier = page.previous, page.next
    else:
        start = after or Cursor(filters.since or datetime.min.replace(tzinfo=UTC))
        page = await call_page(connection, table, filters, after=start, limit=limit, whole=whole)
        later = page.previous if len(page.rows) == limit else None
        earlier = page.next if after is not None else None
    return Page(rows=list(reversed(page.rows)), next=later, previous=earlier)


async def _spans(
    connection: AsyncConnection, table: Table, filters: Filters, place: Cursor | None, *, older: bool
) -> Sequence[sa.ColumnElement[bool]]:
    """Return conditions that together are all rows beyond `place`, the nearest first: spans of time, or one that is all
    of it where an index has the rows in their order."""
    at = table.c.created_at
    whole: list[sa.ColumnElement[bool]]
    timeless: list[sa.ColumnElement[bool]] = (
        [at.is_(None)] if at.nullable and filters.since is None and filters.until is None else []
    )
    if older and place is not None and place.at is None:
        return timeless
    if await is_sorted_by_time(connection, table, filters):
        whole = [at.is_not(None)] if at.nullable else [sa.true()]
    elif older:
        end = place.at if place is not None else filters.until
        spans = spans_before(end, await newest_time(connection, table), _FIRST_WINDOW, filters.since)
        whole = [span.holds(at) for span in spans]
    else:
        start = (place.at if place is not None else None) or datetime.min.replace(tzinfo=UTC)
        whole = [span.holds(at) for span in spans_after(start, datetime.now(UTC), _FIRST_WINDOW, filters.until)]
    if older:
        return [*whole, *timeless]
    return [*timeless, *whole] if place is None or place.at is None else whole


async def call(connection: AsyncConnection, table: Table, call_id: str, filters: Filters | None = None) -> Row:
    """Return one call, whole, by its id, the beginning of it, or `beginning..end`, with or without dashes.

    With `filters` a call that does not meet them does not exist.

    The ends of ids differ where their beginnings, times in milliseconds, do not. Raises `NoSuchCall` or
    `AmbiguousCall`.
    """
    wanted = sa.and_(_called(table, call_id), (filters or Filters()).clause(table))
    statement = sa.select(*_columns(table, whole=True)).where(wanted)
    found = await connection.execute(statement.order_by(table.c.call_id, table.c.created_at).limit(2))
    rows = [dict(row) for row in found.mappings()]
    if not rows:
        raise NoSuchCall(f"There is no call {call_id}. List the latest with `llmctx calls`.")
    if len(rows) > 1 and rows[0]["call_id"] != rows[1]["call_id"]:
        raise AmbiguousCall(f"Several calls begin with {call_id}, such as {rows[0]['call_id']}. Give more of the id.")
    return rows[0]  # where a table has an id twice, its first row


def _called(table: Table, call_id: str) -> sa.ColumnElement[bool]:
    column = table.c.call_id
    head, _, tail = call_id.strip().replace("-", "").lower().partition("..")
    is_hex = 4 <= len(head) <= 32 and len(tail) <= 12 and set(head + tail) <= _HEX
    if not isinstance(column.type, sa.Uuid):
        return _called_by_text(table, call_id.strip(), head if is_hex else "", tail)
    if not is_hex:
        raise NoSuchCall(f"{call_id!r} is not a call id: give at least 4 hex digits, as `llmctx calls` shows them.")
    # A range rather than LIKE, so that the primary key serves it
    found: sa.ColumnElement[bool] = column.between(UUID(head.ljust(32, "0")), UUID(head.ljust(32, "f")))
    return sa.and_(found, sa.cast(column, sa.String).endswith(tail)) if tail else found


def _called_by_text(table: Table, text: str, head: str, tail: str) -> sa.ColumnElement[bool]:
    """Return ids of any kind, as the table's owner makes them; ours among them are written with dashes."""
    column = as_text(table.c.call_id)
    if len(text) < 4:
        raise NoSuchCall(
            f"{text!r} is too short for a call id: give at least 4 characters, as `llmctx calls` shows them."
        )
    if not tail:
        return column.startswith(text, autoescape=True)
    start = "-".join(filter(None, (head[:8], head[8:12], head[12:16], head[16:20], head[20:])))
    return sa.and_(column.startswith(start, autoescape=True), column.endswith(tail, autoescape=True))


def handle(call_id: UUID | str | None) -> str:
    """Return a short form of `call_id` for `call`: its millisecond, and enough of its end to be the only one."""
    if call_id is None:  # in a host's own table
        return "(no id)"
    if isinstance(call_id, str):
        try:
            ours = UUID(call_id)
        except ValueError:
            return call_id
        if str(ours) != call_id or ours.version != 7:
            return call_id
        call_id = ours
    return f"{call_id.hex[:12]}..{call_id.hex[-5:]}"


async def conversation(connection: AsyncConnection, table: Table, session: str, *, limit: int = 200) -> list[Row]:
    """Return the calls of a session, whole, in their order; of a longer one the last."""
    conditions, timeless = equals_disjoint(table, "session_id", session), bool(table.c.created_at.nullable)
    rows = await connection.execute(_first_of(table, conditions, limit, whole=True, timeless=timeless))
    return [dict(row) for row in reversed(rows.mappings().all())]


async def calls_ended_since(
    connection: AsyncConnection,
    table: Table,
    filters: Filters,
    since: datetime,
    seen_ids: Collection[Any],
    *,
    limit: int = 1000,
) -> list[Row]:
    """Return calls that have ended since then and are not `seen_ids` by their ids, in the order of their ends.

    At least the first `limit` of them: the others come when these are known.
    """
    ended = sa.func.coalesce(column_expr(table, "finished_at"), table.c.created_at, type_=table.c.created_at.type)
    wanted = sa.select(*_columns(table, whole=False)).where(
        filters.clause(table), table.c.created_at >= since - _OVERLAP, ended >= since
    )
    rows = await connection.execute(wanted.order_by(ended, table.c.call_id).limit(limit + len(seen_ids)))
    return [dict(row) for row in rows.mappings() if row["call_id"] not in seen_ids]
