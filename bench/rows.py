"""Rows a second from the queue into PostgreSQL, against a bare asyncpg COPY of the same rows into the same table."""

from __future__ import annotations

import asyncio
import statistics
import time
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

import asyncpg
import uuid_utils
from sqlalchemy.engine import make_url

from llmctx.core.record import COLUMNS, CallRecord
from llmctx.delivery.batcher import Batcher
from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.settings import Settings, load
from llmctx.storage.sanitize import storable_json

ROUNDS = 20
ROWS = 2000


def records(count: int) -> list[CallRecord]:
    """Rows of about 3 kB, as an application makes them."""
    now = datetime.now(UTC)
    text = '[{"role": "user", "content": "' + "How is my blood pressure today? " * 50 + '"}]'
    return [
        CallRecord(
            call_id=UUID(int=uuid_utils.uuid7().int),
            created_at=now,
            finished_at=now,
            model="gpt-4o-mini",
            session_id=f"s-{number % 97}",
            user_id=f"u-{number % 31}",
            prompt_tokens=812,
            completion_tokens=120,
            total_tokens=932,
            latency_ms=740,
            success=True,
            status="ok",
            identity_source="context",
            prompt_snapshot=text,
            response_snapshot=text,
            attributes={"tags": ["seq:step:1"]},
        )
        for number in range(count)
    ]


async def connect(settings: Settings) -> asyncpg.Connection:
    """Connect without anything of llmctx."""
    url = make_url(settings.database_url)
    where: dict[str, Any] = {"host": url.host or url.query.get("host"), "port": url.port}
    connection = await asyncpg.connect(
        user=url.username, password=url.password, database=url.database, **{k: v for k, v in where.items() if v}
    )
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", format="binary", encoder=lambda v: b"\x01" + v.encode(), decoder=bytes
    )
    return connection


async def _copy(connection: asyncpg.Connection, table: str, batch: list[CallRecord]) -> float:
    values = attrgetter(*COLUMNS)
    at = COLUMNS.index("attributes")
    start = time.perf_counter()
    for offset in range(0, len(batch), 1000):
        rows = [values(record) for record in batch[offset : offset + 1000]]
        rows = [(*row[:at], storable_json(row[at]), *row[at + 1 :]) for row in rows]
        await connection.copy_records_to_table(table, records=rows, columns=COLUMNS)
    return time.perf_counter() - start


async def _write(writer: Batcher, batch: list[CallRecord]) -> float:
    start = time.perf_counter()
    for record in batch:
        writer.submit(record)
    left = await writer.drain(60)
    assert left == 0
    return time.perf_counter() - start


async def _measure(settings: Settings) -> dict[str, Any]:
    connection = await connect(settings)
    writer = Batcher(SqlDestination(settings), settings)
    task = asyncio.create_task(writer.run())
    copied: list[float] = []
    written: list[float] = []
    cpu: list[float] = []
    for number in range(ROUNDS + 2):
        await connection.execute(f'TRUNCATE "{settings.table}"')
        copy_s = await _copy(connection, settings.table, records(ROWS))
        await connection.execute(f'TRUNCATE "{settings.table}"')
        batch = records(ROWS)
        before = time.thread_time()
        write_s = await _write(writer, batch)
        if number >= 2:
            copied.append(copy_s)
            written.append(write_s)
            cpu.append(time.thread_time() - before)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await connection.close()
    copy_rate, write_rate = (ROWS / statistics.median(times) for times in (copied, written))
    return {
        "copy_rows_per_s": copy_rate,
        "writer_rows_per_s": write_rate,
        "share_of_copy": write_rate / copy_rate,
        "cpu_us_a_row": statistics.median(cpu) / ROWS * 1e6,
        "rounds": ROUNDS,
        "rows_a_round": ROWS,
    }


def run(database_url: str) -> dict[str, Any]:
    """Rows a second both ways, and the share."""
    return asyncio.run(_measure(load(database_url=database_url)))
