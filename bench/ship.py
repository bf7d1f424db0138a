"""Rows through a broker and `llmctx ship`, beside the same rows from an application's own pipeline, by turns.

Each way has a process of its own for all rounds: `python -m bench.ship WAY`. It is warm when the clock starts, but
connects anew in each round. Rows a second count until PostgreSQL has all of them; CPU is that of all threads and
children of the process until everything is done that follows: acknowledged, struck off the journal, closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import operator
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import asyncpg

from bench.prose import ROOT, records
from bench.rows import connect
from llmctx.cli import app
from llmctx.core.record import CallRecord
from llmctx.delivery.batch_row import row_of
from llmctx.delivery.destination import Row
from llmctx.delivery.destinations.nats import NatsDestination
from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.delivery.journal import pack_record
from llmctx.delivery.spool import Spool
from llmctx.settings import load
from tests.kit.brokers import brokers
from tests.kit.frame_reader import make_streams

ROUNDS: Final = 5
ROWS: Final = 20_000
_WARM: Final = 1000
_CHUNK: Final = 50
"""Records that the pipeline hands over at once."""
_AHEAD: Final = 2000
"""Rows that wait at most: the database is the bottleneck, and the journal is not to be read back."""
_AT_ONCE: Final = 500
_TIMEOUT_S: Final = 300


async def _spool(batch: list[CallRecord]) -> None:
    """What `CallLog` does with records, in their journal or without one, as the settings say."""
    settings = load()
    spool = Spool(SqlDestination(settings), settings)
    spool.open()
    running = asyncio.create_task(spool.run())
    for at in range(0, len(batch), _CHUNK):
        while spool.waiting > _AHEAD:
            await asyncio.sleep(0.005)
        assert not spool.submit_all(batch[at : at + _CHUNK])
        await asyncio.sleep(0)
    assert not await spool.drain(_TIMEOUT_S)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    spool.close()


async def _publish(rows: list[Row]) -> None:
    settings = load()
    assert settings.transport_url is not None
    destination = NatsDestination(settings.transport_url, settings)
    await destination.prepare()
    for at in range(0, len(rows), _AT_ONCE):
        await destination.store(rows[at : at + _AT_ONCE])
    await destination.close()


def _ship(_: list[Any]) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        app(args=["ship", "--once"], prog_name="llmctx", standalone_mode=False)


_WAYS: Final[dict[str, Callable[[list[Any]], None]]] = {
    "direct": lambda batch: asyncio.run(_spool(batch)),
    "batcher": lambda batch: asyncio.run(_spool(batch)),
    "publish": lambda batch: asyncio.run(_publish(batch)),
    "ship": _ship,
}


def cpu_s() -> float:
    """Return the CPU of all threads of this process, and of children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main(way: str) -> None:
    """Make rows for a line with their number, pass them on at the next one, and print the CPU of that."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        batch: list[Any] = records(int(line))
        if way == "publish":
            batch = [row_of(record, pack_record(record)) for record in batch]  # as the journal has them
        gc.collect()
        gc.freeze()  # rows that wait for their turn are the benchmark's, not the pipeline's
        answers.write("\n")
        sys.stdin.readline()
        before = cpu_s()
        _WAYS[way](batch)
        answers.write(f"{cpu_s() - before}\n")
        gc.unfreeze()


class _Process:
    """One way, as the benchmark sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def prepare(self, count: int) -> None:
        self._ask(f"{count}")
        self._answer()

    def begin(self) -> None:
        self._ask("")

    def cpu_s(self) -> float:
        """Wait until it is done, and return its CPU."""
        return float(self._answer())

    def _ask(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError("a process of the benchmark has ended: see above")
        return line


@contextlib.contextmanager
def _process(way: str, **environment: str) -> Iterator[_Process]:
    command = [sys.executable, "-m", "bench.ship", way]
    environment = {**os.environ, **environment}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        try:
            yield _Process(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()


async def _until_stored(connection: asyncpg.Connection, table: str, rows: int) -> float:
    """Wait until the table has all rows. Return how long that took."""
    begun = time.perf_counter()
    while await connection.fetchval(f'SELECT count(*) FROM "{table}"') < rows:
        if time.perf_counter() - begun > _TIMEOUT_S:
            raise TimeoutError("not all rows are stored")
        await asyncio.sleep(0.02)
    return time.perf_counter() - begun


async def _measure(processes: dict[str, _Process], url: str, transport: str) -> dict[str, Any]:
    settings = load(database_url=url)
    connection = await connect(settings)
    cpu: dict[str, list[float]] = {way: [] for way in processes}
    wall: dict[str, list[float]] = {way: [] for way in processes}
    for number in range(-1, ROUNDS):  # the first is not counted
        rows = ROWS if number >= 0 else _WARM
        await asyncio.to_thread(make_streams, transport)
        for way, process in processes.items():
            process.prepare(0 if way == "ship" else rows)
            await connection.execute(f'TRUNCATE "{settings.table}"')
            process.begin()
            stored_s = 0.0 if way == "publish" else await _until_stored(connection, settings.table, rows)
            spent = await asyncio.to_thread(process.cpu_s)
            if number >= 0:
                wall[way].append(stored_s)
                cpu[way].append(spent / rows * 1e6)
    await connection.close()
    ways = {way: {"cpu_us_a_row": statistics.median(spent)} for way, spent in cpu.items()}
    for way in ("direct", "batcher", "ship"):
        ways[way]["rows_per_s"] = ROWS / statistics.median(wall[way])
    return {
        "ways": ways,
        "ship_beside": {
            way: {
                "cpu": statistics.median(map(operator.truediv, cpu["ship"], cpu[way])),
                "rows_per_s": statistics.median(map(operator.truediv, wall[way], wall["ship"])),
            }
            for way in ("direct", "batcher")
        },
        "load": os.getloadavg()[0],
        "rounds": ROUNDS,
        "rows_a_round": ROWS,
    }


def run(url: str) -> dict[str, Any]:
    """Return CPU of a row and rows a second, and ratios of each round's pair."""
    with contextlib.ExitStack() as until_end:
        broker = until_end.enter_context(brokers())
        folder = until_end.enter_context(tempfile.TemporaryDirectory(prefix="llmctx-bench-"))
        transport = f"{broker.url}?max_bytes=2147483648"
        known = {"LLMCTX_DATABASE_URL": url, "LLMCTX_JOURNAL_DIR": folder}
        own: dict[str, dict[str, str]] = {
            "direct": {},
            "batcher": {"LLMCTX_DURABILITY": "memory"},
            "publish": {"LLMCTX_TRANSPORT": transport},
            "ship": {"LLMCTX_TRANSPORT": transport},
        }
        processes = {way: until_end.enter_context(_process(way, **known, **more)) for way, more in own.items()}
        return asyncio.run(_measure(processes, url, transport))


if __name__ == "__main__":
    main(*sys.argv[1:])
