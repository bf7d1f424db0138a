"""What it costs to store rows and to end their texts: in the rows, and apart (`llmctx migrate --texts-apart`)."""

from __future__ import annotations

import asyncio
import statistics
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
from llmctx.storage.engine import read_connection
from llmctx.storage.retention import Policy, retain
from tests.kit.cluster import Cluster

ROUNDS: Final = 50
ROWS: Final = 2_000  # a round
_LATER: Final = timedelta(days=10)


class _Way:
    """One of both ways to store texts, and what it has used."""

    def __init__(self, database: Cluster, name: str, *, apart: bool) -> None:
        self._database = database
        self._settings = load(database_url=database.url, table=f"texts_{name}")
        migrate.upgrade(self._settings, texts_apart=apart)
        self._client: list[float] = []
        self._server: list[float] = []
        self._wal = 0

    async def store(self, writer: Batcher) -> None:
        """Store a round of rows."""
        batch = records(ROWS)
        wal, server, client = await self._wal_bytes(), server_cpu_s(self._database), time.thread_time()
        for one in batch:
            writer.submit(one)
        if await writer.drain(120):
            raise RuntimeError("rows are not stored")
        self._client.append(time.thread_time() - client)
        self._server.append(server_cpu_s(self._database) - server)
        self._wal += await self._wal_bytes() - wal

    async def end(self) -> dict[str, Any]:
        """Let the texts expire. Return the figures."""
        wal, server, begun = await self._wal_bytes(), server_cpu_s(self._database), time.perf_counter()
        await retain(self._settings, Policy(snapshots=5, ahead=0), do=True, now=datetime.now(UTC) + _LATER)
        took, rows = time.perf_counter() - begun, ROUNDS * ROWS
        wal = await self._wal_bytes() - wal  # meanwhile the server notes what its process has used
        return {
            "client_us_a_row": statistics.median(self._client) / ROWS * 1e6,
            "server_us_a_row": statistics.median(self._server) / ROWS * 1e6,
            "wal_bytes_a_row": self._wal / rows,
            "retain_s": took,
            "retain_server_us_a_row": (server_cpu_s(self._database) - server) / rows * 1e6,
            "retain_wal_bytes_a_row": wal / rows,
        }

    @property
    def settings(self) -> Settings:
        return self._settings

    async def _wal_bytes(self) -> int:
        async with read_connection(self._settings) as connection:
            found = await connection.scalar(text("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))
            return int(found or 0)


async def _measure(ways: dict[str, _Way]) -> dict[str, Any]:
    writers = {name: Batcher(SqlDestination(way.settings), way.settings) for name, way in ways.items()}
    tasks = [asyncio.create_task(writer.run()) for writer in writers.values()]
    for _ in range(ROUNDS):
        for name, way in ways.items():
            await way.store(writers[name])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {name: await way.end() for name, way in ways.items()}


def run(database: Cluster) -> dict[str, Any]:
    """Store in turn both ways, then let the texts expire."""
    ways = {name: _Way(database, name, apart=name == "apart") for name in ("whole", "apart")}
    found = asyncio.run(_measure(ways))
    for way in ways.values():
        migrate.downgrade(way.settings)
    return {**found, "rows": ROUNDS * ROWS}
