"""What a session said: its calls in order, with their texts, and what it adds up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage.filters import Filters
from llmctx.storage.queries.activity import SessionRow, session_sums
from llmctx.storage.queries.calls import Row, call_page
from llmctx.storage.queries.page import Cursor
from llmctx.storage.reflection import as_text, column_expr

_BEGINNING: Final = Cursor(datetime.min.replace(tzinfo=UTC))
_MOST_LINKS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """Some calls of a session, oldest first, whole; and the session."""

    session: SessionRow
    """Of all its calls, not of those here alone."""
    rows: Sequence[Row]
    next: str | None
    """The cursor of what was said next, for `after`."""
    previous: str | None
    """The cursor of what was said before, for `before`."""
    threads: Sequence[str]
    traces: Sequence[str]


async def transcript(
    connection: AsyncConnection,
    table: sa.Table,
    session: str,
    *,
    before: Cursor | None = None,
    after: Cursor | None = None,
    within: Filters | None = None,
    limit: int = 200,
) -> Transcript | None:
    """Return what `session` said from its beginning on, or from a cursor; None where there is no such session."""
    filters = Filters(session=session, within=within)
    head = await session_sums(connection, table, session, within)
    if head is None:
        return None
    if before is not None:
        page = await call_page(connection, table, filters, before=before, limit=limit, whole=True)
        later, earlier = page.previous, page.next
    else:
        page = await call_page(connection, table, filters, after=after or _BEGINNING, limit=limit, whole=True)
        later = page.previous if len(page.rows) == limit else None
        earlier = page.next if after is not None else None
    threads, traces = [await _links(connection, table, filters, name) for name in ("thread_id", "trace_id")]
    return Transcript(
        session=head, rows=list(reversed(page.rows)), next=later, previous=earlier, threads=threads, traces=traces
    )


async def _links(connection: AsyncConnection, table: sa.Table, filters: Filters, name: str) -> list[str]:
    if name not in table.c:
        return []
    link = as_text(column_expr(table, name))
    found = sa.select(link).where(filters.clause(table), link.is_not(None)).distinct().limit(_MOST_LINKS)
    return sorted(await connection.scalars(found))
