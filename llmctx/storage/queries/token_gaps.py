"""Calls without tokens: how many, why, and what would bring them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.record import UsageSource
from llmctx.core.text import counted
from llmctx.storage.figures import has_no_tokens
from llmctx.storage.filters import Filters
from llmctx.storage.reflection import column_expr

Row = dict[str, Any]
_MOST: Final = 100

REMEDIES: Final[Mapping[str | None, str]] = {
    UsageSource.NO_STREAM_USAGE: "are streams that brought no usage. With a base_url, LangChain's OpenAI client does "
    "not ask for it: ChatOpenAI(stream_usage=True), or init_chat_model(…, stream_usage=True). Where it is set already, "
    "a gateway swallows the last chunk: see its own settings.",
    UsageSource.UNFINISHED: "failed, or were not read to their end.",
    UsageSource.UNCERTAIN: "are streams whose chunks contradict each other, so that none of their figures is certain.",
    UsageSource.NOT_REPORTED: "are answers without usage from the provider, or a gateway.",
    None: "do not say why: they were not written by llmctx, or their process died.",
}
"""Why calls have no tokens, by `usage_source`, and what helps."""


async def missing_tokens(connection: AsyncConnection, table: Table, filters: Filters | None = None) -> list[Row]:
    """Return the rows without tokens: `usage_source`, `rows`; most rows first."""
    where = (filters or Filters()).clause(table)
    source = column_expr(table, "usage_source").label("usage_source")
    rows = select(source).where(where, has_no_tokens(table)).subquery()
    groups = select(rows.c.usage_source, func.count().label("rows")).group_by(rows.c.usage_source)
    found = await connection.execute(
        groups.order_by(func.count().desc(), rows.c.usage_source.nulls_last()).limit(_MOST)
    )
    return [dict(row) for row in found.mappings()]


def in_words(missing: Sequence[Row]) -> list[str]:
    """Return a sentence for each group of `missing_tokens`."""
    return [
        f"{counted(row['rows'], 'call')} without tokens ({row['usage_source'] or 'no reason'}): such calls "
        + REMEDIES.get(row["usage_source"], "have a reason of their own.")
        for row in missing
    ]
