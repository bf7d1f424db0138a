"""The state of the table, from the catalogue and its newest rows: how fresh and how large it is, and what is missing.

What one process knows, its ledger and its journal, is not here: `CallLog.stats` says it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage.distribution import size_function, total_bytes
from llmctx.storage.queries.calls import call_page
from llmctx.storage.queries.counts import Count, estimate_rows
from llmctx.storage.retention import partitions
from llmctx.storage.rollup.rollup import state_of
from llmctx.storage.rollup.tables import has_privilege, totals_of
from llmctx.storage.texts_table import texts_of

_SAMPLE: Final = 50
_MONTHS_AHEAD: Final = 1
_MOST_MARKS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """A partition, or a table that has none."""

    name: str
    first: datetime | None
    after: datetime | None
    is_default: bool
    rows: int | None
    """About how many; None where the database has not looked yet."""
    bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalsState:
    """The state of the totals that `llmctx rollup` keeps."""

    until: datetime
    made_at: datetime | None
    stale: Count
    """Spans of hours that are to be made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The health of the table."""

    as_of: datetime
    newest: datetime | None
    """When the newest call was made."""
    finished: datetime | None
    """When the newest of the last calls ended: what is older than that is stored."""
    rows: Count | None
    bytes: int | None
    partitions: Sequence[PartitionState]
    """Oldest first; empty for a table that is not partitioned by month."""
    missing_months: Sequence[datetime]
    """Months that have no partition, of this one and the next: their rows would go to the default partition."""
    totals: TotalsState | None
    """None where no totals are kept, or the role may not read them."""


async def health(connection: AsyncConnection, table: sa.Table, *, now: datetime | None = None) -> Health:
    """Return the state of the table."""
    as_of = now or datetime.now(UTC)
    last = (await call_page(connection, table, limit=_SAMPLE)).rows
    times, ends = ([row[name] for row in last if row[name]] for name in ("created_at", "finished_at"))
    parts, missing = [], []
    size: int | None = None
    if connection.dialect.name == "postgresql":
        found = await partitions.list_partitions(connection, table)
        sized = await size_function(connection, table)
        missing = [] if found is None else partitions.months_without_partition(found, as_of, _MONTHS_AHEAD)
        for part in found or []:
            relation = {"name": part.name}
            weight = await connection.scalar(sa.text(f"SELECT {sized}(to_regclass(:name))"), relation)
            parts.append(
                PartitionState(
                    name=part.name, first=part.lower, after=part.upper, is_default=part.is_default,
                    rows=part.rows if part.rows >= 0 else None, bytes=weight,
                )
            )  # fmt: skip
        texts = texts_of(table)
        for each in (table,) if texts is None else (table, texts):
            size = (size or 0) + await total_bytes(connection, each)
    else:
        pages = await connection.scalar(
            sa.text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        )
        size = int(pages or 0)
    return Health(
        as_of=as_of, newest=max(times, default=None), finished=max(ends, default=None),
        rows=await estimate_rows(connection, table), bytes=size, partitions=parts,
        missing_months=[month.first for month in missing], totals=await _totals(connection, table),
    )  # fmt: skip


async def _totals(connection: AsyncConnection, table: sa.Table) -> TotalsState | None:
    totals = totals_of(table, postgresql=connection.dialect.name == "postgresql")
    state = await state_of(connection, totals)
    if state is None:
        return None
    stale = 0
    if await has_privilege(connection, totals.marks, "SELECT"):
        some = sa.select(totals.marks.c.id).limit(_MOST_MARKS + 1).subquery()
        stale = await connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0
    count = Count(min(stale, _MOST_MARKS), capped=stale > _MOST_MARKS)
    return TotalsState(until=state.until, made_at=state.made_at, stale=count)
