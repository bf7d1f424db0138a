"""What it costs to store rows and to end their texts: in the rows, and apart (`llmctx migrate --texts-apart`)."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import text

from bench.fleet import server_cpu_s
from bench.rows import records
from llmctx.delivery.batcher import Batcher
from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.migrate import commands as migrate
from llmctx.settings import Settings, load
from llmctx.storage.engine import reading
from llmctx.storage.retention import Policy, retain
from tests.kit.cluster import Cluster

ROWS: Final = 100_000
_AT_ONCE: Final = 2_000
_LATER: Final = timedelta(days=10)


async def _wal(settings: Settings) -> int:
    async with reading(settings) as connection:
        found = await connection.scalar(text("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))
        return int(found or 0)


async def _store(settings: Settings) -> float:
    """Store the rows. Return the CPU time of this thread, without that of making them."""
    writer = Batcher(SqlDestination(settings), settings)
    task = asyncio.create_task(writer.run())
    used = 0.0
    for _ in range(ROWS // _AT_ONCE):
        batch = records(_AT_ONCE)
        begun = time.thread_time()
        for one in batch:
            writer.submit(one)
        if await writer.drain(120):
            raise RuntimeError("rows are not stored")
        used += time.thread_time() - begun
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return used


async def _measure(database: Cluster, settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {}
    before, wal = server_cpu_s(database), await _wal(settings)
    found["client_us_a_row"] = await _store(settings) / ROWS * 1e6
    found["server_us_a_row"] = (server_cpu_s(database) - before) / ROWS * 1e6
    found["wal_bytes_a_row"] = (await _wal(settings) - wal) / ROWS
    before, wal, begun = server_cpu_s(database), await _wal(settings), time.perf_counter()
    report = await retain(settings, Policy(snapshots=5, ahead=0), do=True, now=datetime.now(UTC) + _LATER)
    found["retain_s"] = time.perf_counter() - begun
    found["retain_server_us_a_row"] = (server_cpu_s(database) - before) / ROWS * 1e6
    found["retain_wal_bytes_a_row"] = (await _wal(settings) - wal) / ROWS
    found["steps"] = report.steps
    return found


def run(database: Cluster) -> dict[str, Any]:
    """Store and retain both ways, one after the other."""
    result = {}
    for name, apart in (("whole", False), ("apart", True)):
        settings = load(database_url=database.url, table=f"texts_{name}")
        migrate.upgrade(settings, texts_apart=apart)
        result[name] = asyncio.run(_measure(database, settings))
        migrate.downgrade(settings)
    return {**result, "rows": ROWS}
