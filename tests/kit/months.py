"""A day from which tests of retention count, and a partitioned table."""

from __future__ import annotations

import asyncio

from llmctx.migrate import commands as migrate
from llmctx.settings import Settings, load


async def fresh(url: str) -> Settings:
    settings = load(database_url=url)
    await asyncio.to_thread(migrate.upgrade, settings)
    return settings
