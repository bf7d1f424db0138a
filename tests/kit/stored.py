"""Rows that are in the table because the writer has stored them."""

from __future__ import annotations

from llmctx.core.record import CallRecord
from llmctx.settings import Settings
from tests.kit.rows import writing


async def store(settings: Settings, *records: CallRecord) -> None:
    """Store `records`, as the writer does."""
    async with writing(settings.database_url, table=settings.table) as writer:
        for one in records:
            assert writer.submit(one)
        assert await writer.drain(20) == 0
