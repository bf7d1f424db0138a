"""What tests of the writer share: rows, a running writer, and a look at the table."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import uuid_utils
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from llmctx.core.record import DEFAULT_TABLE, SNAPSHOTS, CallRecord
from llmctx.delivery.batcher import Batcher
from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.settings import Settings, load
from llmctx.storage.texts_table import name_of
from tests.conftest import execute

PATIENCE = 60.0


def record(**fields: Any) -> CallRecord:
    """A row like any other."""
    given: dict[str, Any] = {
        "call_id": UUID(int=uuid_utils.uuid7().int),
        "created_at": datetime.now(UTC),
        "model": "m",
        "user_id": "u",
        "session_id": "s",
        "success": True,
        "status": "ok",
    }
    return CallRecord(**{**given, **fields})


def nobody(**values: Any) -> CallRecord:
    """A record without ids."""
    return record(
        **{"user_id": None, "session_id": None, "identity_source": "none", "identity_reason": "no_scope", **values}
    )


def batcher_of(url: str, **settings: Any) -> Batcher:
    """A batcher into the database."""
    loaded = load(database_url=url, **settings)
    return Batcher(SqlDestination(loaded), loaded)


@asynccontextmanager
async def writing(url: str, **settings: Any) -> AsyncIterator[Batcher]:
    """A running batcher into the database."""
    one = batcher_of(url, **settings)
    task = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def query(url: str, statement: str) -> list[Any]:
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            return list(await connection.execute(text(statement)))
    finally:
        await engine.dispose()


async def who(settings: Settings, one: CallRecord) -> tuple[Any, ...]:
    """Whose the row of `one` is: user, session, source, reason."""
    call_id = one.call_id.hex if not settings.is_postgresql else str(one.call_id)
    columns = "user_id, session_id, identity_source, identity_reason"
    ((*found,),) = await query(
        settings.database_url, f"SELECT {columns} FROM {DEFAULT_TABLE} WHERE call_id = '{call_id}'"
    )
    return tuple(found)


async def do(url: str, *statements: str) -> None:
    await asyncio.to_thread(execute, url, *statements)


async def stored(url: str) -> int:
    ((count,),) = await query(url, f"SELECT count(*) FROM {DEFAULT_TABLE}")
    return int(count)


def rows_of(url: str) -> list[Any]:
    """Return all rows, oldest first, read without llmctx and outside of any running loop."""
    return asyncio.run(query(url, f"SELECT * FROM {DEFAULT_TABLE} ORDER BY created_at"))


async def store(settings: Settings, *records: CallRecord) -> None:
    """Store `records`, as the writer does."""
    async with writing(settings.database_url, table=settings.table) as writer:
        for one in records:
            assert writer.submit(one)
        assert await writer.drain(60) == 0


async def set_texts_apart(url: str) -> None:
    """Take the texts out of all rows, and put them into the table that is there for them."""
    names = ", ".join(SNAPSHOTS)
    await do(
        url,
        f"INSERT INTO {name_of(DEFAULT_TABLE)} (call_id, created_at, {names}) "
        f"SELECT call_id, created_at, {names} FROM {DEFAULT_TABLE} WHERE num_nonnulls({names}) > 0",
        f"UPDATE {DEFAULT_TABLE} SET {', '.join(f'{name} = NULL' for name in SNAPSHOTS)}",
    )
