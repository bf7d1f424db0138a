"""Texts that stand in a table of their own: each is stored once, found by every reader, and dropped by the day."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.diagnostics import diagnostics
from llmctx.core.record import DEFAULT_TABLE, CallRecord
from llmctx.settings import load
from llmctx.storage import queries
from llmctx.storage.engine import reading
from llmctx.storage.filters import Filters
from llmctx.storage.reflection import reflect
from llmctx.storage.retention import Policy, retain
from llmctx.storage.texts_table import name_of
from tests.kit.databases import T
from tests.kit.rows import do, query, record, store, writing

TEXTS = name_of(DEFAULT_TABLE)
WHOLE = {"prompt_snapshot": '"p"', "response_snapshot": '"r"', "reasoning_snapshot": '"t"'}


async def held(url: str) -> tuple[int, int, int]:
    """Return how many rows there are, how many of them hold texts themselves, and how many texts stand apart."""
    ((rows, own),) = await query(url, f"SELECT count(*), count(prompt_snapshot) FROM {T}")
    ((apart,),) = await query(url, f"SELECT count(*) FROM {TEXTS}")
    return rows, own, apart


async def test_texts_are_stored_apart_and_found(texts_apart: str) -> None:
    """Each in one transaction with its row; a row without texts has none there."""
    settings = load(database_url=texts_apart)
    whole, bare, other = record(**WHOLE), record(), record(response_snapshot='"answer"')
    await store(settings, whole, bare, other)
    assert await held(texts_apart) == (3, 0, 2)
    async with reading(settings) as connection:
        table = await reflect(connection, settings)
        found = await queries.call(connection, table, str(whole.call_id))
        assert {name: found[name] for name in WHOLE} == WHOLE
        found = await queries.call(connection, table, str(bare.call_id))
        assert {found[name] for name in WHOLE} == {None}
        (one,) = await queries.calls(connection, table, Filters(text="ANSWER"), whole=True)
        assert (one["call_id"], one["prompt_snapshot"], one["response_snapshot"]) == (other.call_id, None, '"answer"')


async def test_older_and_newer_writers(texts_apart: str) -> None:
    """An older one stores texts in the row; rows that come twice, from either, stand there once with their texts."""
    settings = load(database_url=texts_apart)
    rows = [record(prompt_snapshot=f'"{number}"') for number in range(6)]
    await store(settings, *rows[:3])
    await do(texts_apart, f"ALTER TABLE {TEXTS} RENAME TO away")  # a writer that knows of no such table
    await store(settings, *rows[3:], rows[0])
    await do(texts_apart, f"ALTER TABLE away RENAME TO {TEXTS}")
    assert await held(texts_apart) == (6, 3, 3)
    await store(settings, *rows)
    assert await held(texts_apart) == (6, 3, 3)
    async with reading(settings) as connection:
        table = await reflect(connection, settings)
        found = await queries.calls(connection, table, whole=True, limit=10)
    assert sorted(one["prompt_snapshot"] for one in found) == [one.prompt_snapshot for one in rows]


async def test_a_text_does_not_come_back(texts_apart: str) -> None:
    """A row whose texts were taken out, and that is delivered once more, stays without."""
    settings, one = load(database_url=texts_apart), record(**WHOLE)
    await store(settings, one)
    await do(texts_apart, f"TRUNCATE {TEXTS}")
    await store(settings, one, record(**WHOLE))
    assert await held(texts_apart) == (2, 1, 0)


@pytest.mark.parametrize(
    "harm", [f"DROP TABLE {TEXTS} CASCADE", f"ALTER TABLE {TEXTS} ADD CHECK (prompt_snapshot IS NULL) NOT VALID"],
    ids=["gone", "refusing"],
)  # fmt: skip
async def test_a_row_is_stored_whatever_becomes_of_the_table_of_texts(empty_database: str, harm: str) -> None:
    """Its texts are in the row then, and it is counted."""
    from llmctx.migrate import commands as migrate
    import asyncio

    settings = load(database_url=empty_database)
    await asyncio.to_thread(migrate.upgrade, settings, texts_apart=True)
    diagnostics.reset()
    async with writing(empty_database) as writer:
        assert writer.submit(record(**WHOLE))
        assert await writer.drain(30) == 0
        await do(empty_database, harm)
        assert writer.submit(record(**WHOLE))
        assert await writer.drain(30) == 0
    assert await query(empty_database, f"SELECT count(*), count(prompt_snapshot) FROM {T}") == [(2, 1)]
    assert diagnostics.counts["texts_not_apart"] == 1
    assert (writer.written, writer.quarantined) == (2, 0)
