"""The transcript of a session: its calls in order, with their texts, and what it adds up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage.filters import Filters
from llmctx.storage.host_types import as_text
from llmctx.storage.queries.activity import SessionRow, session_sums
from llmctx.storage.queries.calls import Row, calls_in_order
from llmctx.storage.queries.page import Cursor
from llmctx.storage.reflection import column_expr, id_is_in

_MOST_LINKS: Final = 20
_PROMPT: Final = 16_384


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
    page = await calls_in_order(connection, table, filters, before=before, after=after, limit=limit, whole=True)
    is_whole = page.next is None and page.previous is None
    threads, traces = [
        _links_of(page.rows, name) if is_whole else await _links(connection, table, filters, name)
        for name in ("thread_id", "trace_id")
    ]
    return Transcript(
        session=head, rows=page.rows, next=page.next, previous=page.previous, threads=threads, traces=traces
    )


async def first_prompts(
    connection: AsyncConnection, table: sa.Table, sessions: Sequence[SessionRow], filters: Filters
) -> dict[str, str]:
    """Return the beginning of the prompt of the first call of each of `sessions`, by its id, as far as it has one."""
    if "prompt_snapshot" not in table.c or not sessions:
        return {}
    own, at = column_expr(table, "session_id"), table.c.created_at
    prompt = sa.func.substr(column_expr(table, "prompt_snapshot"), 1, _PROMPT)
    first = sa.and_(
        id_is_in(table, "session_id", [one.session_id for one in sessions]), at.in_([one.first for one in sessions])
    )
    found = sa.select(as_text(own), prompt).where(first, filters.clause(table), prompt.is_not(None))
    return {row[0]: row[1] for row in await connection.execute(found.limit(2 * len(sessions)))}


def _links_of(rows: Sequence[Row], name: str) -> list[str]:
    return sorted({str(row[name]) for row in rows if row[name] is not None})[:_MOST_LINKS]


async def _links(connection: AsyncConnection, table: sa.Table, filters: Filters, name: str) -> list[str]:
    if name not in table.c:
        return []
    link = as_text(column_expr(table, name))
    found = sa.select(link).where(filters.clause(table), link.is_not(None)).distinct().limit(_MOST_LINKS)
    return sorted(await connection.scalars(found))
