"""What every verb and every page costs on a table that is ten times as large: a table of times, in Markdown.

    python -m bench.growth SMALL_URL LARGE_URL [--rounds 5]

Both tables are filled by `python -m bench.pages --url …`, without texts (`--small`), which makes their totals too; one
server of this machine has both. The two take turns. A verb is a process of its own, as a user starts it; a page is
asked for without a server between, and its bytes are those of the wire, compressed. Times are medians, and CPU is that
of the client and the server: on a machine with other work it is what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

import httpx
import psutil
from sqlalchemy import text

from bench.fleet import cpu_s
from llmctx.calllog import CallLog
from llmctx.dashboard import Access, Dashboard
from llmctx.settings import load
from llmctx.storage import queries
from llmctx.storage.engine import read_connection
from llmctx.storage.reader import Reader

BAR: Final = 1.5
"""How many times its cost something may take where the table is ten times as large, save what must read all."""
_READS_ALL: Final = " (reads all of it)"


@dataclass(frozen=True, slots=True)
class Ids:
    """Of a call of the table: what verbs and pages are asked for."""

    call: str
    session: str
    user: str
    trace: str


async def ids_of(url: str) -> Ids:
    """Return those of a call with all of them, of the session that was used last."""
    reader = Reader(load(database_url=url))
    async with reader.question() as (connection, table):
        page = await queries.call_page(connection, table, limit=200)
    await reader.close()
    row = next(row for row in page.rows if row["session_id"] and row["user_id"])
    return Ids(*(str(row[name]) for name in ("call_id", "session_id", "user_id", "trace_id")))


def verbs(ids: Ids) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the name of each verb in the table, and its words."""
    yield "--version: a process that asks nothing", ("--version",)
    yield "calls", ("calls",)
    yield "calls --user", ("calls", "--user", ids.user)
    yield "calls --errors", ("calls", "--errors")
    yield "calls --unattributed", ("calls", "--unattributed")
    yield "calls --before, months back", ("calls", "--before", "240d")
    yield "show", ("show", ids.call)
    yield "sessions", ("sessions",)
    yield "sessions SESSION", ("sessions", ids.session)
    yield "users", ("users",)
    yield "stats", ("stats",)
    yield "stats --by day --since 90d", ("stats", "--by", "day", "--since", "90d")
    yield "coverage", ("coverage",)
    yield "prices", ("prices",)
    yield "erase --user", ("erase", "--user", ids.user)
    yield "erase --session", ("erase", "--session", ids.session)
    yield "export --user", ("export", "--user", ids.user)
    yield "export, its first thousand rows", ("export",)
    yield "retain", ("retain",)
    yield "retain --rows 180", ("retain", "--rows", "180")
    yield "journal", ("journal",)
    yield "doctor", ("doctor",)
    yield "migrate --plan", ("migrate", "--plan")
    yield "migrate check", ("migrate", "check")
    yield "rollup, of what is new", ("rollup",)
    yield "stats --by user --since 7d" + _READS_ALL, ("stats", "--by", "user", "--since", "7d")
    yield "recompute --since 1d" + _READS_ALL, ("recompute", "--since", "1d")
    yield "backfill" + _READS_ALL, ("backfill",)
    yield "rollup --verify" + _READS_ALL, ("rollup", "--verify")


async def server_of(url: str) -> psutil.Process:
    """Return the process that the server's backends are children of."""
    async with read_connection(load(database_url=url)) as connection:
        backend = psutil.Process(await connection.scalar(text("SELECT pg_backend_pid()")))
        server = backend.parent()
    assert server is not None
    return server


@dataclass(slots=True)
class Cost:
    """What one thing takes at one size, over all rounds."""

    times: list[float] = field(default_factory=list)
    cpu_s: float = 0.0

    @contextlib.contextmanager
    def of(self, server: psutil.Process) -> Iterator[None]:
        """Add what is done in the block, in this process, its children and the server."""
        before, began = self._spent(server), time.perf_counter()
        yield
        self.times.append((time.perf_counter() - began) * 1000)
        self.cpu_s += self._spent(server) - before

    def _spent(self, server: psutil.Process) -> float:
        own = os.times()
        return cpu_s(server) + own.user + own.system + own.children_user + own.children_system

    @property
    def ms(self) -> float:
        """Return the median of the times."""
        return statistics.median(self.times)

    @property
    def cpu_ms(self) -> float:
        """Return the mean of the CPU, whose clock ticks slowly."""
        return self.cpu_s / len(self.times) * 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One thing at both sizes; `size` is that of the larger one's answer, in bytes."""

    name: str
    small: Cost
    large: Cost
    size: int | None = None

    @property
    def line(self) -> str:
        """Return a line of the table."""
        ratio = self.large.cpu_ms / max(1.0, self.small.cpu_ms)
        mark = " !" if ratio > BAR and not self.name.endswith(_READS_ALL) else ""
        sent = "" if self.size is None else f"{self.size / 1000:,.1f}"
        figures = (f"{cost:,.0f}" for cost in (self.small.ms, self.large.ms, self.small.cpu_ms, self.large.cpu_ms))
        return f"| `{self.name}` | {' | '.join(figures)} | {ratio:.2f}{mark} | {sent} |"


def run_verb(url: str, words: Sequence[str], journals: str) -> None:
    """Run a verb, whatever it finds; of `export` only the first rows are read."""
    environment = {**os.environ, "LLMCTX_DATABASE_URL": url, "LLMCTX_JOURNAL_DIR": journals, "LLMCTX_CURRENCY": ""}
    with subprocess.Popen(
        [sys.executable, "-m", "llmctx", *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        if words == ("export",):
            for _ in range(1000):
                process.stdout.readline()
            process.stdout.close()
        else:
            _, said = process.communicate()
            if process.returncode not in (0, 1):
                raise SystemExit(f"llmctx {' '.join(words)}: {said.decode()}")


def pages(ids: Ids) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each page, and what its URL asks for."""
    yield "usage/time", {"since": "7d"}
    yield "usage/time", {"since": "30d", "tz": "Asia/Shanghai"}
    yield "usage/time", {"since": "90d"}
    yield "usage/groups", {"since": "90d"}
    for name in ("sessions", "users", "calls", "errors", "coverage", "health"):
        yield name, {}
    yield "calls", {"errors": 1}
    yield "coverage", {"since": "30d"}
    yield "session", {"id": ids.session}
    yield "user", {"id": ids.user}
    yield "call", {"id": ids.call}
    yield "trace", {"id": ids.trace}


async def ask_page(client: httpx.AsyncClient, name: str, asked: Mapping[str, Any]) -> int:
    """Ask for a page. Return its bytes as they are sent."""
    async with client.stream("GET", f"/{name}?{urlencode(asked)}") as answer:
        size = sum([len(part) async for part in answer.aiter_raw()])
    if answer.status_code != 200:
        raise SystemExit(f"{name} {asked}: {answer.status_code}")
    return size


async def measure_pages(urls: Sequence[str], rounds: int) -> AsyncIterator[Row]:
    """Yield what each page takes, in each of its forms."""
    logs = [CallLog(database_url=url, journal_dir="") for url in urls]
    access = Access("bench", texts=True, export=True)
    clients = [
        httpx.AsyncClient(
            transport=httpx.ASGITransport(Dashboard(log, authorize=lambda _: access)), base_url="http://bench"
        )
        for log in logs
    ]
    server = await server_of(urls[0])
    asked = [list(pages(await ids_of(url))) for url in urls]
    for small, large in zip(*asked, strict=True):
        for form in ("", ".json", ".csv"):
            costs, size = (Cost(), Cost()), 0
            for number in range(rounds + 1):
                for client, (name, given), cost in zip(clients, (small, large), costs, strict=True):
                    with cost.of(server) if number else contextlib.nullcontext():  # the first looks at the table
                        size = await ask_page(client, name + form, given)
            words = "&".join(f"{key}={value}" for key, value in large[1].items() if key != "id")
            yield Row(f"{large[0]}{form}{'?' + words if words else ''}", *costs, size)
    for client, log in zip(clients, logs, strict=True):
        await client.aclose()
        await log.aclose()


async def measure_verbs(urls: Sequence[str], rounds: int) -> AsyncIterator[Row]:
    """Yield what each verb takes."""
    server = await server_of(urls[0])
    asked = [list(verbs(await ids_of(url))) for url in urls]
    with tempfile.TemporaryDirectory(prefix="llmctx-growth-") as journals:
        for (name, small), (_, large) in zip(*asked, strict=True):
            costs = (Cost(), Cost())
            for _ in range(1 if name.endswith(_READS_ALL) else rounds):
                for url, words, cost in zip(urls, (small, large), costs, strict=True):
                    with cost.of(server):
                        run_verb(url, words, journals)
            yield Row(f"llmctx {name}", *costs)


async def measure(urls: Sequence[str], rounds: int, only: str) -> None:
    """Print the table."""
    print(f"load {os.getloadavg()[0]:.1f} at the start\n")
    print("| | small, ms | large, ms | small, CPU ms | large, CPU ms | CPU | kB on the wire |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for things in (measure_pages, measure_verbs):
        if only in ("", things.__name__.removeprefix("measure_")):
            async for row in things(urls, rounds):
                print(row.line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.growth")
    parser.add_argument("small")
    parser.add_argument("large")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("", "pages", "verbs"), default="")
    given = parser.parse_args()
    asyncio.run(measure((given.small, given.large), given.rounds, given.only))
    return 0


if __name__ == "__main__":
    sys.exit(main())
