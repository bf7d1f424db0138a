"""A day from which tests of retention count, and a partitioned table."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.settings import Settings, load
from tests.kit.rows import query

PARTS = f"""SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = '{DEFAULT_TABLE}'::regclass"""


NOW = datetime(2031, 3, 15, 12, tzinfo=UTC)


async def fresh(url: str) -> Settings:
    settings = load(database_url=url)
    await asyncio.to_thread(migrate.upgrade, settings)
    return settings


async def partitions(settings: Settings) -> set[str]:
    return {row[0].removeprefix(f"{DEFAULT_TABLE}_") for row in await query(settings.database_url, PARTS)}


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)
