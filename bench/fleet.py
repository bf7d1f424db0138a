"""Many processes with few calls each on one PostgreSQL, beside full batches; and a server with few connections.

Believe the CPU of a row, and counts. The machine's other work is in neither; rows a second are not measured.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from typing import Any, Final

import asyncpg
import psutil
from sqlalchemy import make_url

from llmctx.core.record import DEFAULT_TABLE
from tests.kit.cluster import Cluster
from tests.kit.crowd import crowd

PROCESSES: Final = 16
CALLS: Final = 200
EVERY_S: Final = 0.1
FULL: Final = 8000
FEW: Final = 17
APPLICATIONS: Final = 12
"""Connections that the application itself wants at once, of those few."""


def server_cpu_s(database: Cluster) -> float:
    """The CPU of the server and of all processes that it has had."""
    assert database.pid is not None
    return cpu_s(psutil.Process(database.pid))


def cpu_s(server: psutil.Process) -> float:
    """The CPU of a process and of all that it has started."""
    times = [server.cpu_times()]
    used = times[0].user + times[0].system + times[0].children_user + times[0].children_system
    for child in server.children():
        try:
            used += sum(child.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return used


def _cost(database: Cluster, url: str, processes: int, rows: int, pause_s: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="llmctx-bench-") as journal:
        with crowd(url, processes, rows, pause_s, warm=True, LLMCTX_JOURNAL_DIR=journal) as those:
            begin = those.ledgers()
            begun, before = [one["cpu_s"] for one in begin], server_cpu_s(database)
            those.ledgers()
            ended = those.let_go()
        server_s = server_cpu_s(database) - before
    stored = sum(one["written"] for one in ended) - sum(one["written"] for one in begin)
    client_s = sum(one["cpu_s"] for one in ended) - sum(begun)
    return {"rows": stored, "server_us": server_s / stored * 1e6, "client_us": client_s / stored * 1e6}


async def _crowded(url: str) -> dict[str, Any]:
    """Thirty processes of a role that may have few connections, of which the application wants most."""
    to = make_url(url)
    where: dict[str, Any] = {"host": to.query["host"], "database": to.database}
    owner = await asyncpg.connect(user=to.username, **where)
    await owner.execute(f"CREATE ROLE few LOGIN CONNECTION LIMIT {FEW}; GRANT INSERT ON {DEFAULT_TABLE} TO few")
    await owner.execute(f"TRUNCATE {DEFAULT_TABLE}")
    stopping = asyncio.Event()
    tried = refused = 0

    async def ask() -> None:
        nonlocal tried, refused
        while not stopping.is_set():
            tried += 1
            try:
                connection = await asyncpg.connect(user="few", timeout=60, **where)
                await connection.fetchval("SELECT 1")
                await connection.close()
            except asyncpg.TooManyConnectionsError:
                refused += 1
            await asyncio.sleep(0.1)

    asking = [asyncio.create_task(ask()) for _ in range(APPLICATIONS)]
    with tempfile.TemporaryDirectory(prefix="llmctx-bench-") as journal:
        limited = to.set(username="few").render_as_string(hide_password=False)
        with crowd(limited, 30, 6, 0.5, LLMCTX_JOURNAL_DIR=journal) as those:
            for _ in ("begun", "recorded"):
                await asyncio.to_thread(those.ledgers)
            until = time.monotonic() + 120
            while (stored := await owner.fetchval(f"SELECT count(*) FROM {DEFAULT_TABLE}")) < 180:
                if time.monotonic() > until:
                    break
                await asyncio.sleep(0.2)
            stopping.set()
            await asyncio.gather(*asking)
            await asyncio.sleep(35)
            held = await owner.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = 'few'")
            await asyncio.to_thread(those.let_go)
    await owner.close()
    return {"stored": stored, "tried": tried, "refused": refused, "held_when_idle": held}


def run(database: Cluster) -> dict[str, Any]:
    """CPU of a row in microseconds, both ways; and what the application got of a server's few connections."""
    full = _cost(database, database.url, 1, FULL, 0.0)
    few = _cost(database, database.url, PROCESSES, CALLS, EVERY_S)
    return {
        "full": full,
        "few": few,
        "server_times_full": few["server_us"] / full["server_us"],
        "client_times_full": few["client_us"] / full["client_us"],
        "crowded": asyncio.run(_crowded(database.url)),
    }
