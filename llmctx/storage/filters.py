"""Filters of rows: one frozen value, and the condition that it is on a table, fresh or adopted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import ColumnElement, FromClause, String, Text, and_, case, cast, false, func, or_, true

from llmctx.core.columns import ColumnKind, ColumnSpec
from llmctx.core.record import SNAPSHOTS, SPECS, Reason
from llmctx.storage.reflection import column_expr, equals, equals_disjoint, is_missing
from llmctx.storage.texts_table import any_text_meets

_FILTERED: Final = [spec for spec in SPECS if spec.filter is not None]
_BEFORE_US: Final = {"ok": True, "error": False}
"""What `success` says of rows that have no status: they are older than llmctx."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """The rows asked for; what is None does not narrow. `since` is inclusive, `until` is not; both are aware."""

    since: datetime | None = None
    until: datetime | None = None
    user: str | None = None
    session: str | None = None
    thread: str | None = None
    trace: str | None = None
    agent: str | None = None
    model: str | None = None
    node: str | None = None
    status: str | None = None
    errors: bool = False
    """Only calls that failed or were cut off."""
    unattributed: bool = False
    """Only rows without a session or without a user; not those that `erase` has blanked."""
    text: str | None = None
    """Only rows whose prompt, response or error holds this, in any case."""
    unpriced: bool = False
    """Only calls whose cost is unknown."""
    min_cost: Decimal | None = None
    """Only calls that cost at least as many US dollars."""
    min_ms: int | None = None
    """Only calls that took at least as long."""
    more: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Values of further columns that may be filtered by, by the names that `ColumnSpec.filter` gives them."""
    within: Filters | None = None
    """What the reader may see at all: a row has to meet these filters as well."""

    @property
    def active_names(self) -> frozenset[str]:
        """Return the names of what narrows."""
        named = (
            one.name for one in fields(self) if one.name != "more" and getattr(self, one.name) not in (None, False)
        )
        return frozenset([*named, *self.more])

    def value(self, name: str) -> str | None:
        """Return the value that the column of filter `name` has to have; None where it may have any."""
        value: str | None = getattr(self, name, self.more.get(name))
        return value

    def clauses(self, table: FromClause) -> list[ColumnElement[bool]]:
        """Return conditions of which a row meets one at most, where an id may stand in either of two columns.

        An index of each column has its rows in the order of time; all rows of both would have to be sorted.
        """
        for name in ("user", "session"):
            value = getattr(self, name)
            if value is not None:
                others = (replace(self, user=None) if name == "user" else replace(self, session=None)).clause(table)
                return [and_(one, others) for one in equals_disjoint(table, f"{name}_id", value)]
        return [self.clause(table)]

    def clause(self, table: FromClause) -> ColumnElement[bool]:
        """Return the condition on `table`."""
        given: list[ColumnElement[bool]] = []
        for spec in _FILTERED:
            value = self.value(spec.filter or "")
            if value is not None:
                given.append(_has(table, spec, value))
        if self.since is not None:
            given.append(table.c.created_at >= self.since)
        if self.until is not None:
            given.append(table.c.created_at < self.until)
        if self.errors:
            given.append(column_expr(table, "success").is_(False))
        if self.unattributed:
            given.append(is_unattributed(table))
        if self.unpriced:
            given.append(column_expr(table, "cost_usd").is_(None))
        if self.min_cost is not None:
            given.append(column_expr(table, "cost_usd") >= self.min_cost)
        if self.min_ms is not None:
            given.append(column_expr(table, "latency_ms") >= self.min_ms)
        if self.text is not None:
            given.append(_holding(table, self.text))
        if self.within is not None:
            given.append(self.within.clause(table))
        return and_(true(), *given)


def lacks_an_id(table: FromClause) -> ColumnElement[bool]:
    """Return the condition of the partial index, word for word, so that the planner recognises it."""
    return or_(*(is_missing(table, name) for name in ("session_id", "user_id")))


def is_unattributed(table: FromClause) -> ColumnElement[bool]:
    """Return the condition of rows that lack an id which they should have: not of those that `erase` has blanked."""
    return and_(lacks_an_id(table), column_expr(table, "identity_reason").is_distinct_from(Reason.ERASED.value))


def _has(table: FromClause, spec: ColumnSpec, value: str) -> ColumnElement[bool]:
    if spec.name == "status":
        return _has_status(table, value)
    return equals(table, spec.name, value) if spec.kind is ColumnKind.ID else column_expr(table, spec.name) == value


def _has_status(table: FromClause, status: str) -> ColumnElement[bool]:
    column = column_expr(table, "status")
    if status not in _BEFORE_US:
        return column == status
    return or_(column == status, and_(column.is_(None), column_expr(table, "success").is_(_BEFORE_US[status])))


def status_expr(table: FromClause) -> ColumnElement[str]:
    """Return the status; of rows that are older than llmctx what `success` says."""
    success = column_expr(table, "success")
    return func.coalesce(column_expr(table, "status"), case((success.is_(True), "ok"), (success.is_(False), "error")))


def _holding(table: FromClause, text: str) -> ColumnElement[bool]:
    # Snapshots hold JSON, where a quote or a line break is written with a backslash; older ones may be plain.
    forms = dict.fromkeys((json.dumps(text, ensure_ascii=False)[1:-1], text))

    def holds(column: ColumnElement[Any]) -> ColumnElement[bool]:
        written = column if isinstance(column.type, (String, Text)) else cast(column, Text)
        return or_(*(written.icontains(form, autoescape=True) for form in forms))

    columns = [column for name in (*SNAPSHOTS, "error_message") if (column := table.c.get(name)) is not None]
    return or_(false(), *map(holds, columns), *any_text_meets(table, holds))
