"""The tables of totals, beside the call log: by hour, by day (UTC), the marks of hours to make anew, and how far it is.

They hold no user and no session, so nothing in them has to be erased. The role that writes rows may only INSERT marks;
the role that makes the totals owns the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.record import DEFAULT_TABLE
from llmctx.storage.catalog import qualify_name
from llmctx.storage.figures import SUMS
from llmctx.storage.table import UtcTime

KEYS: Final[Mapping[str, sa.types.TypeEngine[Any]]] = {
    "model": sa.Text(), "provider": sa.Text(), "agent_key": sa.Text(), "status": sa.Text(), "success": sa.Boolean(),
    "has_session": sa.Boolean(), "has_user": sa.Boolean(), "identity_source": sa.Text(), "identity_reason": sa.Text(),
    "error_code": sa.Text(), "usage_source": sa.Text(),
}  # fmt: skip
"""What the totals are of, beside their time."""


HISTOGRAM: Final = ("latency_from", "latency_calls")
"""PostgreSQL's columns of the histogram: the smallest latency of each of its buckets, and how many calls it holds."""


@dataclass(frozen=True, slots=True)
class Totals:
    """The tables of totals of one call log."""

    hours: sa.Table
    days: sa.Table
    marks: sa.Table
    state: sa.Table

    @property
    def metadata(self) -> sa.MetaData:
        return self.hours.metadata


def names_of(table: str) -> tuple[str, str, str, str]:
    """Return the names of the tables of totals of the call log `table`: hours, days, marks and state."""
    suffix = "" if table == DEFAULT_TABLE else f"_{table}"
    hours, days, marks, state = (f"llmctx_{name}{suffix}" for name in ("hours", "days", "stale_hours", "rollup"))
    return hours, days, marks, state


def totals_of(log: sa.Table, *, postgresql: bool) -> Totals:
    """Return the tables of totals of the call log `log`."""
    metadata = sa.MetaData()
    hours, days, marks, state = names_of(log.name)
    return Totals(
        _sums(hours, log.schema, metadata, postgresql=postgresql),
        _sums(days, log.schema, metadata, postgresql=postgresql),
        sa.Table(
            marks,
            metadata,
            # no key but a number: a mark that is there already must not keep another transaction's from being made
            sa.Column(
                "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=True), primary_key=True
            ),
            sa.Column("first", UtcTime(), nullable=False),
            sa.Column("after", UtcTime(), nullable=False),
            schema=log.schema,
        ),
        sa.Table(
            state,
            metadata,
            sa.Column("until", UtcTime(), nullable=False),
            sa.Column("made_at", UtcTime(), nullable=False),
            sa.Column("verified_at", UtcTime()),
            schema=log.schema,
        ),
    )


def _sums(name: str, schema: str | None, metadata: sa.MetaData, *, postgresql: bool) -> sa.Table:
    """Return a table of sums; the histogram is two arrays of latencies and counts, or on SQLite a JSON object."""
    figures = sa.ARRAY(sa.Integer)
    histogram: list[sa.Column[Any]] = [sa.Column("latencies", sa.Text)]
    if postgresql:
        histogram = [sa.Column(name, figures) for name in HISTOGRAM]
    return sa.Table(
        name,
        metadata,
        sa.Column("at", UtcTime(), nullable=False, index=True),
        *(sa.Column(key, kind) for key, kind in KEYS.items()),
        *(sa.Column(figure, kind) for figure, kind in SUMS.items()),
        *histogram,
        schema=schema,
    )


async def has_privilege(connection: AsyncConnection, table: sa.Table, right: str) -> bool:
    """Return whether `table` is there, and the role may do that with it: SELECT, INSERT, …"""
    if connection.dialect.name != "postgresql":
        found = sa.text("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name")
        return bool(await connection.scalar(found, {"name": table.name}))
    name = {"name": qualify_name(table.name, table.schema), "right": right}
    return bool(await connection.scalar(sa.text(_MAY), name))


_MAY: Final = "SELECT pg_catalog.has_table_privilege(pg_catalog.to_regclass(:name)::oid, :right)"
"""NULL where there is no such table."""
