"""How much machinery a number of calls a second takes: `python -m bench.sizing --calls 1000 --text-days 7`.

What a row costs is measured here and now, with texts like those of a chat, or with your own (`--texts FILE`, one prompt
a line). The rest is arithmetic. Peaks are taken for twice the mean, and a database's questions for as much work as its
rows. Prices are assumptions: name your own.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from sqlalchemy import text

from bench import prose
from bench.fleet import server_cpu_s
from llmctx.cli.demo.postgres import make_directory
from llmctx.core.record import DEFAULT_TABLE, CallRecord
from llmctx.delivery.batch_row import row_of
from llmctx.delivery.broker import frame
from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.delivery.journal.frames import pack_record
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from llmctx.storage.engine import read_connection
from tests.kit.cluster import Cluster

_ROWS: Final = 20_000
_SHIPPED: Final = 500
"""Rows of a host's shipper, in a batch."""
_FRAMED: Final = 5_000
"""Those of a broker's."""
_GATHERING_S: Final = 1.5
"""For so long the rows of a process with few calls wait for one another."""
_DAY_S: Final = 86_400
_PEAK: Final = 2
_QUESTIONS: Final = 2


def _rows(own: list[str]) -> list[CallRecord]:
    rows = prose.records(_ROWS)
    if not own:
        return rows
    draw = random.Random(1)
    return [replace(one, prompt_snapshot=draw.choice(own), response_snapshot=draw.choice(own)) for one in rows]


async def _store(database: Cluster, rows: list[CallRecord], batch: int) -> tuple[float, float]:
    """Store `rows` in a fresh table. Return the server's microseconds and the bytes on disk of each."""
    settings = load(database_url=database.url, table=f"{DEFAULT_TABLE}_{batch}_{time.monotonic_ns() % 10**6}")
    migrate.upgrade(settings)
    destination = SqlDestination(settings)
    await destination.prepare()
    try:
        await destination.store([row_of(rows[0])])
        before = server_cpu_s(database)
        for at in range(1, len(rows), batch):
            await destination.store([row_of(one) for one in rows[at : at + batch]])
        used = server_cpu_s(database) - before
    finally:
        await destination.close()
    async with read_connection(settings) as connection:
        size = await connection.scalar(
            text("SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree(CAST(:name AS regclass))"),
            {"name": settings.table},
        )
    return used / len(rows) * 1e6, float(size or 0) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sizing", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calls", type=float, default=1000, help="a second, in the mean")
    parser.add_argument("--processes", type=int, default=100)
    parser.add_argument("--hosts", type=int, default=10)
    parser.add_argument("--text-days", type=float, default=7)
    parser.add_argument("--row-days", type=float, default=90)
    parser.add_argument("--vcpu", type=float, default=40.0, help="$ a month")
    parser.add_argument("--disk", type=float, default=0.10, help="$ a GB and month")
    parser.add_argument("--texts", type=Path, help="a file of prompts, one a line")
    asked = parser.parse_args()
    own = asked.texts.read_text().splitlines() if asked.texts else []
    full = _rows(own)
    bare = [replace(one, prompt_snapshot=None, response_snapshot=None) for one in full]
    framed = [frame.encode([pack_record(one) for one in full[at : at + frame.ROWS]]) for at in range(0, 2000, 200)]
    frame_bytes = sum(map(len, framed)) / 2000
    database = Cluster(make_directory())
    try:
        database.start()
        alone = min(_SHIPPED, max(1, round(asked.calls / asked.processes * _GATHERING_S)))
        measured = {batch: asyncio.run(_store(database, full, batch)) for batch in (alone, _SHIPPED, _FRAMED)}
        bare_us, bare_bytes = asyncio.run(_store(database, bare, 500))
    finally:
        database.remove()
    _print(asked, measured, bare_us, bare_bytes, frame_bytes)


def _print(
    asked: argparse.Namespace, measured: dict[int, tuple[float, float]], bare_us: float, bare_bytes: float, frame: float
) -> None:
    calls, size = asked.calls, measured[_SHIPPED][1]
    print(
        f"A row: {size:,.0f} bytes on disk with its indexes, {bare_bytes:,.0f} without texts, {frame:,.0f} in a frame."
    )
    words = ", ".join(f"{us:.0f} µs in batches of {batch:,}" for batch, (us, _) in measured.items())
    print(f"The server's CPU for it: {words}; {bare_us:.0f} µs without texts.\n")
    print("| | connections | the database's vCPU | a month, $ a million calls |\n|---|---:|---:|---:|")
    texts_gb = calls * _DAY_S * max(0.0, size - bare_bytes) * asked.text_days / 1e9
    rows_gb = calls * _DAY_S * bare_bytes * asked.row_days / 1e9
    names = ("each process writes", "a shipper on each host", "a broker between")
    connections = (asked.processes, asked.hosts, 2)
    for name, count, (us, _) in zip(names, connections, measured.values(), strict=True):
        vcpu = calls * us / 1e6 * _PEAK * _QUESTIONS
        dollars = vcpu * asked.vcpu + (texts_gb + rows_gb) * asked.disk
        print(f"| {name} | {count:,} | {vcpu:.1f} | {dollars / (calls * _DAY_S * 30 / 1e6):.2f} |")
    print(f"\nOn disk: {texts_gb:,.0f} GB of texts and {rows_gb:,.0f} GB of rows; twice with a standby.")
    print(f"An hour in which the database is away: {calls * 3600 * frame / 1e9:,.1f} GB on each server of the broker.")


if __name__ == "__main__":
    main()
