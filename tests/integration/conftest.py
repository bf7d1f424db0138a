"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.kit.proxy import Proxy


@pytest.fixture
def own_database(any_empty_database: str) -> str:
    """A migrated database of this test's own, whose schema it may change."""
    migrate.upgrade(load(database_url=any_empty_database))
    return any_empty_database


@pytest.fixture
async def gate(database: str) -> AsyncIterator[Proxy]:
    gate = Proxy(database)
    try:
        yield gate
    finally:
        await gate.remove()


@pytest.fixture
def own(empty_database: str) -> str:
    """A migrated PostgreSQL database of this test's own."""
    migrate.upgrade(load(database_url=empty_database))
    return empty_database
