"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.settings import load
from llmctx.storage.engine import engine


@pytest.fixture
async def connection(any_database: str) -> AsyncIterator[AsyncConnection]:
    """A connection to an empty call log."""
    source = engine(load(database_url=any_database))
    async with source.connect() as opened:
        yield opened
    await source.dispose()
