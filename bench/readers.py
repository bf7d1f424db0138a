"""What readers of the dashboard cost the application: its writer of 500 rows/s and its queries, with and without them.

    python -m bench.readers --url URL [--readers 20] [--think 3] [--rounds 8] [--small]

The table at `--url` is one that `python -m bench.pages` has filled. Spans with readers and spans without take turns, so
that what else the machine does is in both; the medians of each are compared. A reader opens one of the dashboard's
pages, and reads it for `--think` seconds. The writer's rows stay in the table.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import statistics
import sys
import time
from multiprocessing.synchronize import Event
from typing import Any, Final
from urllib.parse import urlencode

import sqlalchemy as sa
from httpx import ASGITransport, AsyncClient
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.rows import records
from llmctx.calllog import CallLog
from llmctx.dashboard import Access, Dashboard
from llmctx.delivery.destination import Row
from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.settings import load
from llmctx.storage.engine import engine
from llmctx.storage.sanitize import storable_json

BAR: Final = 1.10
_SPAN_S: Final = 6.0
_BATCH: Final = 50
_BATCHES_PER_S: Final = 10
_ORDERS: Final = 100_000
_DEEP_DAYS: Final = {False: 60, True: 240}
_TIMES: Final = ("since=7d", "since=30d", "since=90d", "since=30d&tz=Asia/Shanghai")


def read(url: str, readers: int, think_s: float, small: bool, reading: Event, ended: Event) -> None:
    """Be `readers` people at once, in this process, for as long as `reading` is set."""
    asyncio.run(_read(url, readers, think_s, small, reading, ended))


async def _read(url: str, readers: int, think_s: float, small: bool, reading: Event, ended: Event) -> None:
    dashboard = Dashboard(CallLog(url), authorize=lambda _: Access("reader", texts=True))
    times: list[float] = []

    async def one(browser: AsyncClient, pages: list[str], chance: random.Random) -> None:
        await asyncio.sleep(think_s * chance.random())
        while not ended.is_set():
            if reading.is_set():
                page = chance.choice(pages)
                began = time.perf_counter()
                status = (await browser.get(page)).status_code
                times.append(time.perf_counter() - began)
                if status != 200:
                    print(f"{status}: {page}", file=sys.stderr)
            await asyncio.sleep(think_s)

    async with AsyncClient(transport=ASGITransport(dashboard), base_url="http://bench") as browser:
        pages = await _pages(browser, _DEEP_DAYS[small])
        await asyncio.gather(*(one(browser, pages, random.Random(number)) for number in range(readers)))
    await dashboard.aclose()
    print(f"{len(times)} pages read, median {statistics.median(times) * 1000:.0f} ms")


async def _pages(browser: AsyncClient, deep_days: int) -> list[str]:
    """Return the pages that are read, with the session and the user that were there last."""
    (session,) = (await browser.get("/sessions.json?n=1")).json()["data"]
    ids = {"session": urlencode({"id": session["session_id"]}), "user": urlencode({"id": session["user_id"]})}
    return [
        *(f"/usage/{panel}?{query}" for panel in ("time", "groups") for query in _TIMES),
        "/calls", "/calls?errors=1", "/calls?unattributed=1", "/calls?model=model-3", f"/calls?until={deep_days}d",
        "/sessions", f"/sessions?until={deep_days}d", f"/session?{ids['session']}",
        "/users?since=30d", "/users?since=7d&order=cost", f"/user?{ids['user']}",
        "/errors", "/coverage", "/coverage?since=30d", "/health",
    ]  # fmt: skip


async def measure(url: str, rounds: int, reading: Event) -> dict[str, dict[bool, list[float]]]:
    """Return the times of batches and of the application's queries, without readers and with them."""
    settings = load(database_url=url)
    destination, source = SqlDestination(settings), engine(settings)
    await destination.prepare()
    await _make_orders(source)
    found: dict[str, dict[bool, list[float]]] = {name: {False: [], True: []} for name in ("batch", "query")}
    for number in range(2 * rounds):
        with_readers = bool(number % 2)
        reading.set() if with_readers else reading.clear()
        await asyncio.sleep(2)  # for those who are reading still, and those who begin
        until = time.monotonic() + _SPAN_S
        batches, asked = await asyncio.gather(_write(destination, until), _ask(source, until))
        found["batch"][with_readers] += batches
        found["query"][with_readers] += asked
    await destination.close()
    await source.dispose()
    return found


async def _write(destination: SqlDestination, until: float) -> list[float]:
    times = []
    while (began := time.monotonic()) < until:
        batch = [Row(record, storable_json(record.attributes), 3000) for record in records(_BATCH)]
        start = time.perf_counter()
        await destination.store(batch)
        times.append(time.perf_counter() - start)
        await asyncio.sleep(max(0.0, began + 1 / _BATCHES_PER_S - time.monotonic()))
    return times


async def _make_orders(source: AsyncEngine) -> None:
    async with source.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE IF NOT EXISTS bench_orders (id int PRIMARY KEY, paid int)"))
        await connection.execute(
            sa.text("INSERT INTO bench_orders SELECT n, 0 FROM generate_series(1, :n) n ON CONFLICT DO NOTHING"),
            {"n": _ORDERS},
        )


async def _ask(source: AsyncEngine, until: float) -> list[float]:
    """Do what an application does beside: read an order, and change it."""
    times = []
    chance = random.Random(7)
    while time.monotonic() < until:
        order = {"id": chance.randrange(_ORDERS) + 1}
        start = time.perf_counter()
        async with source.begin() as connection:
            await connection.execute(sa.text("SELECT paid FROM bench_orders WHERE id = :id"), order)
            await connection.execute(sa.text("UPDATE bench_orders SET paid = paid + 1 WHERE id = :id"), order)
        times.append(time.perf_counter() - start)
        await asyncio.sleep(0.05)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.readers")
    parser.add_argument("--url", required=True)
    parser.add_argument("--readers", type=int, default=20)
    parser.add_argument("--think", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--small", action="store_true")
    given: Any = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    reading, ended = context.Event(), context.Event()
    people = context.Process(target=read, args=(given.url, given.readers, given.think, given.small, reading, ended))
    people.start()
    try:
        found = asyncio.run(measure(given.url, given.rounds, reading))
    finally:
        ended.set()
        people.join(60)
    for name, times in found.items():
        without, beside = (statistics.median(times[one]) * 1000 for one in (False, True))
        ratio = beside / without
        verdict = "met" if ratio <= BAR else "MISSED"
        print(f"{name:8} {without:7.2f} ms, beside readers {beside:7.2f} ms: {ratio:.2f}, {BAR:.2f} {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
