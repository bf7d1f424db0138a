"""Questions of pages can neither change anything nor take long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from llmctx.core.errors import DatabaseUnavailable, MigrationsPending
from llmctx.settings import load
from llmctx.storage import queries
from llmctx.storage.reader import QuestionTooLarge, Reader

_ENDLESS = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
async def reader(any_database: str) -> AsyncIterator[Reader]:
    reader = Reader(load(database_url=any_database), patience_s=0.3, aggregate_patience_s=0.3)
    yield reader
    await reader.close()


async def test_a_question_is_read_only_and_bounded(reader: Reader) -> None:
    """Nothing is written; what takes long is given up, and the next question is answered."""
    async with reader.question() as (connection, table):
        assert await queries.calls(connection, table) == []
        if reader.settings.is_postgresql:
            shown = ("jit", "transaction_read_only", "application_name")
            limits = [await connection.scalar(text(f"SHOW {name}")) for name in shown]
            assert limits == ["off", "on", "llmctx-ui"]
    with pytest.raises(Exception, match=r"read-only|readonly"):
        async with reader.question() as (connection, table):
            await connection.execute(table.delete())
    for aggregate in (False, True):
        with pytest.raises(QuestionTooLarge, match="llmctx rollup"):
            async with reader.question(aggregate=aggregate) as (connection, _):
                await connection.execute(text(_ENDLESS))
    async with reader.question() as (connection, table):
        assert await queries.calls(connection, table) == []


async def test_two_questions_at_a_time_add_up(any_database: str) -> None:
    """The second begins where the first takes long, the third waits; others do not wait for them."""
    reader = Reader(load(database_url=any_database))
    running, most, both = 0, 0, asyncio.Event()

    async def ask() -> None:
        nonlocal running, most
        async with reader.question(aggregate=True):
            running += 1
            most = max(most, running)
            if running == 2:
                both.set()
            await both.wait()
            async with reader.question():
                running -= 1

    await asyncio.wait_for(asyncio.gather(ask(), ask(), ask(), ask()), 60)
    await reader.close()
    assert most == 2


async def test_what_is_soon_done_adds_up_one_after_another(any_database: str) -> None:
    """The application keeps its share of the server's processors."""
    reader = Reader(load(database_url=any_database))
    running = most = 0

    async def ask() -> None:
        nonlocal running, most
        async with reader.question(aggregate=True) as (connection, table):
            running += 1
            most = max(most, running)
            await queries.calls(connection, table)
            running -= 1

    await asyncio.wait_for(asyncio.gather(ask(), ask(), ask(), ask()), 60)
    await reader.close()
    assert most == 1


async def test_only_a_question_without_company_has_several_processes(database: str) -> None:
    """The server may share the work of one out; two that are asked at once leave processors to the application."""
    show = text("SHOW max_parallel_workers_per_gather")
    reader = Reader(load(database_url=database))
    async with reader.question(aggregate=True) as (connection, _):
        alone = await connection.scalar(show)
        async with reader.question() as (other, _):
            assert await other.scalar(show) == "0"
    async with reader.question() as (connection, _):
        assert await connection.scalar(show) == alone
    await reader.close()
    assert alone != "0"


async def test_what_is_not_there_is_said(any_empty_database: str) -> None:
    """A table that was never made, and a database that is away, each with its remedy."""
    settings = load(database_url=any_empty_database)
    reader = Reader(settings)
    with pytest.raises((MigrationsPending, DatabaseUnavailable), match="llmctx migrate"):
        async with reader.question():
            pass
    await reader.close()
