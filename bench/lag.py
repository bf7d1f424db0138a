"""How late an event loop runs that makes many calls: without a recorder, and with llmctx in each state of its database.

The database is up, away, silent (it takes connections and never answers) or stopped. The lag is how much longer than a
millisecond `asyncio.sleep(0.001)` takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Final

from langchain_core.runnables import RunnableConfig

from bench.recorders import DequeHandler
from bench.workloads import MESSAGES, InstantModel
from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.kit.cluster import Cluster

ROUNDS: Final = 3
ROUND_S: Final = 2.0
RATES: Final = (500, 2000)  # calls a second
_TICK_S: Final = 0.01


async def _sample(lags: list[float]) -> None:
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(0.001)
        lags.append((time.perf_counter() - begin - 0.001) * 1e3)


async def _load(rate: int, config: RunnableConfig) -> tuple[float, float]:
    """The 99th percentile of the lag in ms, and how many calls a second there were."""
    model, lags, made = InstantModel(), list[float](), 0
    sampler = asyncio.create_task(_sample(lags))
    begin = time.perf_counter()
    due = begin
    with bind(session_id="s-1", user_id="u-1"):
        while (now := time.perf_counter()) - begin < ROUND_S:
            for _ in range(max(1, round(rate * _TICK_S))):
                await model.ainvoke(MESSAGES, config)
                await asyncio.sleep(0)
                made += 1
            due += _TICK_S
            await asyncio.sleep(max(0.0, due - now - (time.perf_counter() - now)))
    took = time.perf_counter() - begin
    sampler.cancel()
    return statistics.quantiles(lags, n=100)[98], made / took


@contextlib.contextmanager
def _silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        yield listener.getsockname()[1]


def _one(rate: int, url: str | None, config: RunnableConfig) -> tuple[float, float]:
    if url is None:
        return asyncio.run(_load(rate, config))
    with tempfile.TemporaryDirectory(prefix="llmctx-bench-") as journal:
        call_log = CallLog(url, capture="explicit", journal_dir=journal, shutdown_timeout_s=1.0)
        with call_log:
            return asyncio.run(_load(rate, {"callbacks": [call_log.handler]}))


def run(server: Cluster) -> dict[str, Any]:
    """For each rate and each state of the database: p99 of the lag in ms."""
    migrate.upgrade(load(database_url=server.url))
    found: dict[str, Any] = {"rounds": ROUNDS, "round_s": ROUND_S}
    with _silent_port() as port, tempfile.TemporaryDirectory() as nowhere:
        states: dict[str, str | None] = {
            "none": None,
            "deque": None,
            "up": server.url,
            "away": f"postgresql+asyncpg://u@/d?host={nowhere}",
            "silent": f"postgresql+asyncpg://u:p@127.0.0.1:{port}/d",
            "stopped": server.url,
        }
        for rate in RATES:
            rounds: dict[str, list[tuple[float, float]]] = {state: [] for state in states}
            for _ in range(ROUNDS):
                for state, url in states.items():
                    config: RunnableConfig = {"callbacks": [DequeHandler()]} if state == "deque" else {}
                    with server.stopped() if state == "stopped" else contextlib.nullcontext():
                        rounds[state].append(_one(rate, url, config))
            found[str(rate)] = {
                state: {
                    "p99_ms": statistics.median(lag for lag, _ in one),
                    "calls_per_s": statistics.median(made for _, made in one),
                }
                for state, one in rounds.items()
            }
    return found
