"""How many rows have their ids, by which source, and what the others have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Table, and_, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.record import Reason
from llmctx.identity.explanation import KEY
from llmctx.storage.filters import Filters, is_unattributed
from llmctx.storage.queries.aggregates import make_room
from llmctx.storage.reflection import attribute, column_expr, is_missing
from llmctx.storage.rollup.reading import Reading, reading_of

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The share of rows with both ids, the sources of these, and what the other rows have in common."""

    rows: int
    with_both: int
    erased: int = 0
    """Rows that `erase` has blanked. They are no loss, and counted nowhere else."""
    by_source: Sequence[Row]
    by_reason: Sequence[Row]
    misses: Sequence[Row]
    """The rows without both ids, grouped by reason, node, agent and route; most frequent first."""
    by_place: Sequence[Row] = ()
    """The same, and by `where`: the line of the application from which they were made, as far as the rows say; by
    `missing`: "session", "user" or "session, user"; by `lacks`, which is the same where a thread_id could be the
    session, and None of other rows; and by `sent`: "user" where an anonymous request came with one in its data.
    """
    missing_tokens: Sequence[Row] = ()
    """The rows without tokens, by `usage_source`."""
    source: str = "rows"
    """"rollup" where the sums are from totals; the misses always are from rows."""
    as_of: datetime | None = None
    """Until when totals were used; what came later was read from rows."""

    @property
    def share(self) -> float | None:
        """Return percent of rows with both ids; None when there are no rows."""
        return 100.0 * self.with_both / self.rows if self.rows else None


async def coverage(
    connection: AsyncConnection, table: Table, filters: Filters | None = None, *, limit: int = 10_000
) -> Coverage:
    """Return which share of the rows has its session and its user."""
    filters = filters or Filters()
    where = filters.clause(table)
    await make_room(connection)
    reading = await reading_of(connection, table, filters)
    groups = await _groups(connection, reading)
    erased = [group for group in groups if group["identity_reason"] == Reason.ERASED]
    groups = [group for group in groups if group["identity_reason"] != Reason.ERASED]
    kept = _summed(groups, "identity_source", "identity_reason")
    by_place = await _misses(connection, table, where, limit)
    return Coverage(
        rows=sum(row["rows"] for row in kept),
        with_both=sum(row["with_both"] for row in kept),
        erased=sum(group["rows"] for group in erased),
        by_source=_shown(kept, "identity_source"),
        by_reason=_shown(kept, "identity_reason"),
        misses=_together(by_place, ("identity_reason", "node", "agent_key", "route")),
        by_place=by_place,
        missing_tokens=[
            {"usage_source": row["usage_source"], "rows": row["missing"]}
            for row in sorted(_summed(groups, "usage_source"), key=_by_missing)
            if row["missing"]
        ],
        source=reading.source,
        as_of=reading.as_of,
    )


async def _groups(connection: AsyncConnection, reading: Reading) -> list[Row]:
    """Return all rows, in one pass, by source of the identity, what was odd, and by source of the tokens."""
    found: list[Row] = []
    for part in reading.parts:
        keys = {name: part.column(name) for name in ("identity_source", "identity_reason", "usage_source")}
        sums = part.sum_by(keys, only=("calls", "with_both", "unmetered")).limit(_MOST_GROUPS)
        for row in (await connection.execute(sums)).mappings():
            figures = {"rows": row["calls"], "with_both": row["with_both"], "missing": row["unmetered"]}
            found.append({**{name: row[name] for name in keys}, **{n: int(each) for n, each in figures.items()}})
    return found


def _by_missing(row: Row) -> tuple[int, bool, str]:
    """Return the place of a group: most rows first, those that do not say why last."""
    return -row["missing"], row["usage_source"] is None, str(row["usage_source"])


def _summed(groups: Sequence[Row], *keys: str) -> list[Row]:
    """Return `groups` by `keys` alone, most rows first."""
    found: dict[tuple[Any, ...], Row] = {}
    for group in groups:
        key = tuple(group[name] for name in keys)
        one = found.setdefault(key, {**dict(zip(keys, key, strict=True)), "rows": 0, "with_both": 0, "missing": 0})
        for figure in ("rows", "with_both", "missing"):
            one[figure] += group[figure]
    return sorted(found.values(), key=lambda one: (-one["rows"], [(one[k] is None, str(one[k])) for k in keys]))


def _shown(groups: Sequence[Row], key: str) -> list[Row]:
    """Return `groups` by one key, without what was counted on the way."""
    return [{name: row[name] for name in (key, "rows", "with_both")} for row in _summed(groups, key)]


async def _misses(connection: AsyncConnection, table: Table, where: ColumnElement[bool], limit: int) -> list[Row]:
    """Return the rows without both ids, grouped by all that may tell what they have in common."""
    # a subquery, so that a path into the JSON is one parameter: PostgreSQL would not group by another one
    missing = (
        select(*(column_expr(table, name) for name in ("identity_reason", "node", "agent_key")), table.c.created_at)
        .add_columns(*(attribute(table, KEY, name).label(name) for name in _NOTED))
        .add_columns(_missing(table).label("missing"), _instead(table).label("lacks"), _sent(table).label("sent"))
        .where(where, is_unattributed(table))
        .subquery()
    )
    keys = [column for column in missing.c if column.name != "created_at"]
    last = func.max(missing.c.created_at, type_=table.c.created_at.type).label("last")
    statement = select(*keys, func.count().label("rows"), last).group_by(*keys)
    found = await connection.execute(statement.order_by(func.count().desc(), *keys).limit(limit))
    return [dict(row) for row in found.mappings()]


def _missing(table: Table) -> ColumnElement[str]:
    """Return which of its ids a row lacks."""
    no_session, no_user = (is_missing(table, name) for name in ("session_id", "user_id"))
    return case((and_(no_session, no_user), "session, user"), (no_session, "session"), else_="user")


def _instead(table: Table) -> ColumnElement[str | None]:
    """Return what a row lacks that has a thread_id in place of its session; NULL of other rows."""
    threaded = and_(is_missing(table, "session_id"), column_expr(table, "thread_id").is_not(None))
    return case((threaded, _missing(table)), else_=None)


def _sent(table: Table) -> ColumnElement[str | None]:
    """Return "user" of rows of anonymous requests that came with one in their data; NULL of other rows."""
    anonymous = column_expr(table, "identity_reason") == Reason.ANONYMOUS_REQUEST
    return case((and_(anonymous, attribute(table, KEY, "refused").is_not(None)), "user"), else_=None)


def _together(groups: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """Return `groups` by fewer keys, most rows first."""
    found: dict[tuple[Any, ...], Row] = {}
    for group in groups:
        key = tuple(group[name] for name in keys)
        known = found.setdefault(key, {**dict(zip(keys, key, strict=True)), "rows": 0, "last": group["last"]})
        known["rows"] += group["rows"]
        known["last"] = max(filter(None, (known["last"], group["last"])), default=None)  # adopted rows may have none
    return sorted(found.values(), key=lambda group: -group["rows"])


_MOST_GROUPS: Final = 10_000
_NOTED: Final = ("route", "where")
