"""Faults that want a play of their own: two hundred deaths, a long outage, servers that are told to leave, forks.

Each returns a verdict; what it was, and how long it may last, is said by its arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx

from tests.faults.book import Call, Pen, answer_to
from tests.faults.judge import Verdict
from tests.faults.world import BUSY_S, LEAVE_S, World
from tests.kit.proxy import COMMITS

Progress = Callable[[str], None]
ROOT: Final = Path(__file__).resolve().parent.parent.parent
_MIB: Final = 1024 * 1024


def _silent(line: str) -> None: ...


async def kills(world: World, count: int, longest_s: float = 1.0, say: Progress = _silent) -> Verdict:
    """kill -9 at any moment of a life: while it begins, works, adopts what the last one left, talks to the database."""
    rng = random.Random(world.seed)
    for number in range(count):
        life = world.begin_life(users=20, pause_ms=60)
        if number % 5:  # else it may die before it has made a call
            await life.ask("stats")
        await asyncio.sleep(rng.uniform(0, longest_s))
        if number % 4 == 3:
            await committed(world, 2.0)
        await world.kill()
        if number % 20 == 19:
            say(f"{number + 1} of {count} killed")
    world.proxy.cut_reply_to = ()
    world.begin_life(users=5)
    return await world.settled()


async def committed(world: World, patience_s: float = 60.0) -> None:
    """Return at the moment in which the database has a batch, and its client has not heard of it."""
    world.proxy.cut_reply_to = COMMITS
    cuts, deadline = world.proxy.cuts, time.monotonic() + patience_s
    while world.proxy.cuts == cuts and time.monotonic() < deadline:
        await asyncio.sleep(0.001)


async def kills_at_commit(world: World, count: int) -> Verdict:
    """kill -9 between the commit and the note in the journal that it was done."""
    for _ in range(count):
        life = world.begin_life(users=20, pause_ms=30, ways=("ainvoke", "thread"))
        await life.ask("stats")
        await committed(world)
        await world.kill()
    assert world.proxy.cuts >= count
    world.proxy.cut_reply_to = ()
    world.begin_life(users=5)
    return await world.settled()


async def outage(
    world: World, minutes: float, calls_per_s: float, size: int, cap_bytes: int, say: Progress = _silent
) -> Verdict:
    """The database is away: memory stays bounded, the journal fills, texts go, rows stay, the newest are refused."""
    life = world.begin_life(
        users=0, calls_per_s=calls_per_s, sizes=(size,), ms=20, ways=("ainvoke",), settings={"memory_bytes": cap_bytes}
    )
    begun = time.monotonic()
    await world.busy(int(3 * calls_per_s))
    await life.ask("quiet")
    before = await life.ask("rss")
    await world.proxy.close()
    await life.ask("go")
    most, until, stats = before, time.monotonic() + minutes * 60, await life.ask("stats")
    # a busy machine makes fewer calls in that time, and is to see as much of them
    wanted, patience_s = stats["started"] + minutes * 60 * calls_per_s * 0.7, 60
    while time.monotonic() < until or (stats["started"] < wanted and time.monotonic() < until + patience_s):
        await asyncio.sleep(min(5.0, max(0.1, until - time.monotonic())))
        most = max(most, await life.ask("rss"))
        stats = await life.ask("stats")
        counts = f"{stats['waiting']} wait, {stats['open']} of them open, {stats['dropped']} refused"
        say(f"{counts}, {(most - before) / _MIB:.0f} MiB more than before")
    await life.ask("quiet")
    rate = (await life.ask("stats"))["started"] / (time.monotonic() - begun)
    await world.proxy.open()
    began = time.monotonic()
    while stats["waiting"] and time.monotonic() < began + 120 + minutes * 60:
        await asyncio.sleep(0.05)
        stats = await life.ask("stats")
    took = time.monotonic() - began
    say(f"{rate:.0f} calls/s; {stats['written']} rows, drained in {took:.1f} s, {stats['written'] / took:.0f} rows/s")
    dropped: int = stats["dropped"]
    verdict = await world.verdict(texts=False)
    if len(verdict.missing) <= dropped:  # each of them counted; some were cancelled before the book knew of them
        verdict.missing.clear()
    else:
        verdict.odd.append(f"{dropped} calls were refused, by the ledger")
    if not stats["balanced"] or stats["waiting"]:
        verdict.odd.append(f"the ledger: {stats}")
    if dropped and not verdict.stripped:
        verdict.odd.append("calls were refused while texts were kept")
    verdict.rss_growth = most - before
    if most - before > cap_bytes * 1.2:
        verdict.odd.append(f"the process grew by {(most - before) / _MIB:.0f} MiB; its cap is {cap_bytes / _MIB:.0f}")
    verdict.incidents, verdict.drained_s = stats["incidents"], took
    return verdict


async def forks(world: World, count: int, say: Progress = _silent) -> Verdict:
    """Children at any moment, with rows pending and the parent's threads at work; they leave in every way."""
    rng = random.Random(world.seed)
    life = world.begin_life(users=20, pause_ms=30)
    await life.ask("stats")
    for number in range(count):
        how = rng.choice(["flush", "at once", "kill", "thread", "grandchild", "while flushing"])
        if how != "flush":
            world.killed.add(f"{life.name}, a child that leaves by {how}")
        began = time.monotonic()
        status = await life.ask("fork", how, rng.randint(0, 4))
        if status != (signal.SIGKILL if how == "kill" else 0):
            world.notes.append(f"a child that was to leave by {how} left with {status}")
        if time.monotonic() - began > LEAVE_S + BUSY_S:
            world.notes.append(f"a child that left by {how} took {time.monotonic() - began:.1f} s")
        if number % 20 == 19:
            say(f"{number + 1} of {count} forked")
    return await world.settled()


async def no_descriptors(world: World, count: int = 3) -> Verdict:
    """None can be had, while connections end and files grow full."""
    life = world.begin_life(ways=("ainvoke", "astream", "thread", "graph"), sizes=(12_000,), pause_ms=60)
    await world.busy(20)
    for _ in range(count):
        holding = asyncio.create_task(life.ask("descriptors", 3.0))
        await world.busy(100)
        world.proxy.abort()
        await holding
        await world.busy(10)
    return await world.settled()


# -- servers --------------------------------------------------------------------------------------------------------


class Server:
    """A real one, in a process of its own."""

    def __init__(self, world: World, command: list[str], **environment: str) -> None:
        self.world = world
        self.pen = Pen(world.book)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = (world.folder / "server.log").open("ab")
        env = {
            **os.environ,
            "FAULTS_BOOK": str(world.book),
            "LLMCTX_DATABASE_URL": world.proxy.url,
            "LLMCTX_JOURNAL_DIR": str(world.journal),
            "LLMCTX_SHUTDOWN_TIMEOUT_S": str(LEAVE_S),
            "PYTHONPATH": str(ROOT),
            **environment,
        }
        (world.folder / "watched").mkdir(exist_ok=True)
        arguments = [part.format(port=self.port, folder=world.folder) for part in command]
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=env,
            cwd=world.folder,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,  # so that its workers can be ended as well
        )
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        self._rng = random.Random(world.seed)
        self.count = 0

    async def up(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.HTTPError):
                await self.http.get("/")
                return
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            await asyncio.sleep(0.05)

    @property
    def said(self) -> str:
        return (self.world.folder / "server.log").read_text(errors="replace")[-3000:]

    def call(self, way: str, end: str, ms: int = 10) -> Call:
        self.count += 1
        run_id = str(UUID(int=self._rng.getrandbits(128), version=4))
        user = f"user-{self.count % 7}"
        return Call(run_id, user, f"session-{user}", way, end, 400, "server", ms)

    async def post(self, path: str, call: Call) -> str:
        """What the server answers, or how it does not."""
        self.pen.issued(call)
        try:
            answer = await self.http.post(path, **request(call))
        except httpx.HTTPError as problem:
            return type(problem).__name__
        if answer.text == answer_to(call.run_id):
            self.pen.ended(call.run_id, time.time())
        elif answer.status_code == 200:
            self.pen.harmed(f"{path}: {answer.status_code} {answer.text[:100]}")
        return answer.text

    async def posts(self, count: int, ms: int = 20) -> list[str]:
        """So many at once."""
        return await asyncio.gather(*(self.post("/chat", self.call("http", "ok", ms)) for _ in range(count)))

    async def worker(self) -> int:
        """The process id of one that answers; 0 while none does."""
        try:
            return int((await self.http.get("/")).json()["pid"])
        except httpx.HTTPError:
            return 0

    async def gone(self, patience_s: float) -> float:
        began = time.monotonic()
        while self.process.poll() is None:
            if time.monotonic() > began + patience_s:
                self.kill()
            await asyncio.sleep(0.01)
        return time.monotonic() - began

    def kill(self) -> None:
        """With its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def remove(self) -> None:
        await self.http.aclose()
        self.kill()
        self.process.wait(30)
        self.log.close()


def request(call: Call) -> dict[str, Any]:
    told = asdict(call)
    return {"json": told, "headers": {"x-user": call.user or "", "x-session": call.session or ""}}


@asynccontextmanager
async def serving(world: World, command: list[str], **environment: str) -> AsyncIterator[Server]:
    one = Server(world, command, **environment)
    try:
        await one.up()
        yield one
    finally:
        await one.remove()


UVICORN: Final = ["uvicorn", "tests.faults.server:app", "--port", "{port}", "--log-level", "warning"]
UVICORN_IMPATIENT: Final = [*UVICORN, "--timeout-graceful-shutdown", "2"]
UVICORN_WORKERS: Final = [*UVICORN, "--workers", "2"]
UVICORN_RELOADS: Final = [*UVICORN, "--reload", "--reload-dir", "{folder}/watched"]
UVICORN_RECYCLES: Final = [*UVICORN_WORKERS, "--limit-max-requests", "15"]
GUNICORN_PATIENCE_S: Final = 3.0
GUNICORN: Final = [
    *("gunicorn", "tests.faults.server:app", "-b", "127.0.0.1:{port}", "--log-level", "warning"),
    *("-w", "2", "--graceful-timeout", f"{GUNICORN_PATIENCE_S:.0f}", "-k", "uvicorn.workers.UvicornWorker"),
]
GUNICORN_PRELOADS: Final = [*GUNICORN, "--preload"]
GUNICORN_RECYCLES: Final = [*GUNICORN, "--max-requests", "15", "--max-requests-jitter", "5"]


async def leaves(world: World, command: list[str], how: str, *, black_hole: bool = False, started: str = "") -> Verdict:
    """SIGTERM for a server that is idle, busy, or has an endless stream open; SIGKILL when it would not go.

    `started="at import"`: the call log, rather than with the lifespan.
    """
    async with serving(world, command, FAULTS_STARTED=started) as server:
        answers = await server.posts(20)
        assert all(answer.startswith("answer to") for answer in answers), answers[:3]
        tasks: list[asyncio.Task[Any]] = []
        if black_hole:
            world.proxy.flowing.clear()
            await server.posts(20)
        if how == "busy":
            tasks = [asyncio.create_task(server.post("/chat", server.call("http", "ok", 300))) for _ in range(20)]
        elif how == "endless":
            for path, way in (("/stream", "sse"), ("/endless", "http")):
                call = server.call(way, "cancel", 60_000 if path == "/endless" else 10)
                tasks.append(asyncio.create_task(server.post(path, call)))
        began = world.numbers
        if tasks:
            wanted = 40 + 20 * black_hole if how == "busy" else 22 + 20 * black_hole
            await _begun(world, wanted)
        server.process.send_signal(signal.SIGTERM)
        patience = LEAVE_S + (7.0 if how == "endless" else 3 * BUSY_S)
        took = await server.gone(patience)
        if took >= patience or (how == "endless" and command[0] == "gunicorn"):  # which kills what would not go
            world.killed.add("server")
        # what it waits for is its own affair; for us it waits as long as we have said, and a busy machine takes more
        if how != "endless" and took > LEAVE_S + BUSY_S:
            world.notes.append(f"the server took {took:.1f} s to leave: {server.said}")
        for task in tasks:
            await task
        assert began == world.numbers
    world.proxy.flowing.set()
    world.begin_life(users=5)
    verdict = await world.settled()
    verdict.left_s = took
    return verdict


async def _begun(world: World, count: int) -> None:
    from tests.faults import book

    deadline = time.monotonic() + 60
    while book.read(world.book).began < count:
        assert time.monotonic() < deadline, "the calls did not begin"
        await asyncio.sleep(0.02)


async def aborted(world: World) -> Verdict:
    """gunicorn loses patience with a worker that holds up its loop: SIGABRT, and no hook of any kind runs."""
    command = [part if part != "2" else "1" for part in GUNICORN] + ["--timeout", "2"]
    async with serving(world, command) as server:
        await server.posts(20)
        world.killed.add("server")
        told = await server.post("/block", server.call("here", "ok"))
        assert told == "RemoteProtocolError", told
        await server.up()
        await server.posts(5)
        server.process.send_signal(signal.SIGTERM)
        await server.gone(60)
    world.begin_life(users=5)
    return await world.settled()


async def _sent_away(world: World, server: Server) -> float:
    """SIGTERM. Returns how many seconds the server took to leave; a note if they are too many."""
    server.process.send_signal(signal.SIGTERM)
    took = await server.gone(LEAVE_S + 3 * BUSY_S)
    if took > LEAVE_S + BUSY_S:
        world.notes.append(f"the server took {took:.1f} s to leave: {server.said}")
    return took


async def _settled_after(world: World, took: float) -> Verdict:
    """What another life finds when the server has left."""
    world.begin_life(users=5)
    verdict = await world.settled()
    verdict.left_s = took
    return verdict


async def recycled(world: World, command: list[str]) -> Verdict:
    """Workers that leave after some requests, and others that take their places, under load."""
    async with serving(world, command) as server:
        workers: set[int] = set()
        deadline = time.monotonic() + 60
        while len(workers - {0}) < 5:
            assert time.monotonic() < deadline, f"{workers}: {server.said}"
            await server.posts(10, 5)
            workers.add(await server.worker())
        took = await _sent_away(world, server)
    return await _settled_after(world, took)


async def reloaded(world: World, times: int = 2) -> Verdict:
    """A developer's server: it begins anew when a file changes, in the middle of what it does."""
    async with serving(world, UVICORN_RELOADS) as server:
        for _ in range(times):
            before = await server.worker()
            busy = asyncio.create_task(server.posts(20, 300))
            deadline = time.monotonic() + 60
            while await server.worker() in (0, before):
                assert time.monotonic() < deadline, server.said
                (world.folder / "watched" / "changed.py").touch()
                await asyncio.sleep(1.0)
            await busy
        took = await _sent_away(world, server)
    return await _settled_after(world, took)
