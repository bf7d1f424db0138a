"""One call, whole; the latest; what a session said; and what has come in since one looked last."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.errors import LlmctxError
from llmctx.core.record import COLUMNS, SNAPSHOTS
from llmctx.storage.filters import Filters
from llmctx.storage.reflection import as_text, column_expr, either, everything

Row = dict[str, Any]

_HEX: Final = frozenset("0123456789abcdef")
_FIRST_WINDOW: Final = timedelta(hours=1)
_WINDOWS: Final = 9  # each four times as long as the one before: the last begins seven years ago
_OVERLAP: Final = timedelta(minutes=15)  # rows come in when their calls end


class NoSuchCall(LlmctxError):
    """There is no call of that id. List the latest with `llmctx calls`."""


class AmbiguousCall(LlmctxError):
    """Several calls begin with that id. Give more of it."""


def _columns(table: Table, *, whole: bool) -> list[sa.ColumnElement[Any]]:
    """Return our columns, as far as the table has them; if `whole` with texts, attributes, and what is its own."""
    hidden = () if whole else (*SNAPSHOTS, "attributes")
    own = [column for column in everything(table) if column.name not in COLUMNS] if whole else []
    return [*(column_expr(table, name) for name in COLUMNS if name not in hidden), *own]


def _newest_first(rows: sa.FromClause, *, nullable: bool) -> Sequence[sa.ColumnElement[Any]]:
    at = rows.c.created_at.desc()
    return at.nulls_last() if nullable else at, rows.c.call_id.desc()


def _latest(
    table: Table, conditions: Sequence[sa.ColumnElement[bool]], limit: int, *, whole: bool, timeless: bool = False
) -> sa.Select[Any]:
    """Return the newest rows that meet one of `conditions`, no row two; with `timeless` those without a time last."""
    columns, order = _columns(table, whole=whole), _newest_first(table, nullable=timeless)
    each = [sa.select(*columns).where(condition).order_by(*order).limit(limit) for condition in conditions]
    if len(each) == 1:
        return each[0]
    union = sa.union_all(*(sa.select(one.subquery()) for one in each)).subquery()
    return sa.select(union).order_by(*_newest_first(union, nullable=timeless)).limit(limit)


async def calls(
    connection: AsyncConnection,
    table: Table,
    filters: Filters | None = None,
    *,
    limit: int = 20,
    whole: bool = False,
) -> list[Row]:
    """Return the latest calls, newest first; without their texts and attributes, unless `whole`."""
    filters = filters or Filters()
    found: list[Row] = []
    for window in await _windows(connection, table, filters):
        conditions = [sa.and_(condition, window) for condition in filters.clauses(table)]
        rows = await connection.execute(_latest(table, conditions, limit - len(found), whole=whole))
        found += [dict(row) for row in rows.mappings()]
        if len(found) >= limit:
            break
    return found


async def _windows(connection: AsyncConnection, table: Table, filters: Filters) -> Sequence[sa.ColumnElement[bool]]:
    """Return spans of time, newest first, which together are all of it, where only a BRIN index knows the time: it
    finds a span quickly and sorts nothing. One, where another index has the rows in their order, or none would help.
    """
    sorted_by = filters.user, filters.session, filters.unattributed or None
    at = table.c.created_at
    # PostgreSQL takes what has no time for the newest
    timeless = [at.is_(None)] if at.nullable and filters.since is None and filters.until is None else []
    whole = [at.is_not(None), *timeless] if at.nullable else [sa.true()]
    if connection.dialect.name != "postgresql" or any(one is not None for one in sorted_by):
        return whole
    name = connection.dialect.identifier_preparer.format_table(table)
    if set(await connection.scalars(sa.text(_INDEXED), {"name": name})) != {"brin"}:
        return whole
    newest = min(filters.until or datetime.max.replace(tzinfo=UTC), await _newest(connection, table))
    return [*_spans(table, newest, filters.since), *timeless]


_INDEXED: Final = """
SELECT m.amname FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_am m ON m.oid = c.relam
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attname = 'created_at'
WHERE i.indrelid = pg_catalog.to_regclass(:name) AND i.indisvalid AND i.indpred IS NULL
"""


async def _newest(connection: AsyncConnection, table: Table) -> datetime:
    """About when the newest call was made: our ids begin with their time."""
    now = datetime.now(UTC)
    if not isinstance(table.c.call_id.type, sa.Uuid):
        return now
    last = await connection.scalar(sa.select(table.c.call_id).order_by(table.c.call_id.desc()).limit(1))
    if last is None or last.version != 7:
        return now
    return min(now, datetime.fromtimestamp((last.int >> 80) / 1000, UTC))


def _spans(table: Table, newest: datetime, since: datetime | None) -> Iterator[sa.ColumnElement[bool]]:
    at = table.c.created_at
    after = newest - _FIRST_WINDOW
    yield at >= after
    for _ in range(_WINDOWS):
        if since is not None and after <= since:
            return
        before, after = after, newest - 4 * (newest - after)
        yield sa.and_(at >= after, at < before)
    yield at < after


async def call(connection: AsyncConnection, table: Table, call_id: str) -> Row:
    """Return one call, whole, by its id, the beginning of it, or `beginning..end`, with or without dashes.

    The ends of ids differ where their beginnings, times in milliseconds, do not. Raises `NoSuchCall` or
    `AmbiguousCall`.
    """
    statement = sa.select(*_columns(table, whole=True)).where(_called(table, call_id))
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
        raise NoSuchCall(f"{call_id!r} is no call id: at least 4 hex digits, as `llmctx calls` shows them.")
    # A range rather than LIKE, so that the primary key serves it
    found: sa.ColumnElement[bool] = column.between(UUID(head.ljust(32, "0")), UUID(head.ljust(32, "f")))
    return sa.and_(found, sa.cast(column, sa.String).endswith(tail)) if tail else found


def _called_by_text(table: Table, given: str, head: str, tail: str) -> sa.ColumnElement[bool]:
    """Return ids of any kind, as the table's owner makes them; ours among them are written with dashes."""
    column = as_text(table.c.call_id)
    if len(given) < 4:
        raise NoSuchCall(f"{given!r} is too little of a call id: at least 4 characters, as `llmctx calls` shows them.")
    if not tail:
        return column.startswith(given, autoescape=True)
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
    conditions, timeless = either(table, "session_id", session), bool(table.c.created_at.nullable)
    rows = await connection.execute(_latest(table, conditions, limit, whole=True, timeless=timeless))
    return [dict(row) for row in reversed(rows.mappings().all())]


async def news(
    connection: AsyncConnection, table: Table, filters: Filters, since: datetime, known: Collection[Any]
) -> list[Row]:
    """Return calls that have ended since then and are not `known` by their ids, in the order of their ends."""
    ended = sa.func.coalesce(column_expr(table, "finished_at"), table.c.created_at, type_=table.c.created_at.type)
    wanted = sa.select(*_columns(table, whole=False)).where(
        filters.clause(table), table.c.created_at >= since - _OVERLAP, ended >= since
    )
    rows = await connection.execute(wanted.order_by(ended, table.c.call_id))
    return [dict(row) for row in rows.mappings() if row["call_id"] not in known]
