"""Rows of one noon for the tests of reading, and a connection that reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage.table import call_log_table

TABLE = call_log_table()


NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


NOBODY = dict.fromkeys(column.name for column in TABLE.columns)


def row(number: int, **values: Any) -> dict[str, Any]:
    """A row of call `number`: a minute after the one before, a second longer, Ada's unless said otherwise."""
    usual = {
        "call_id": UUID(int=(0x01A20000 + number << 96) + number),
        "created_at": NOON + timedelta(minutes=number),
        "model": "small",
        "session_id": "s-1",
        "user_id": "ada",
        "status": "ok",
        "success": True,
        "identity_source": "context",
        "latency_ms": 1000 * number,
    }
    return {**NOBODY, **usual, **values}


async def insert(connection: AsyncConnection, *rows: dict[str, Any]) -> None:
    await connection.execute(TABLE.insert(), rows)
    await connection.commit()
