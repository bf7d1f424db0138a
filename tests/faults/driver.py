"""The driver: an application in a process of its own, which makes calls for many users until it is stopped, or dies.

Processes come from `multiprocessing`'s fork server, which has everything imported: a life begins in a few milliseconds,
so that two hundred can be ended. `Life` is the harness's end; `main` is what runs over there.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import multiprocessing
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Final
from uuid import UUID

from tests.faults.book import Call, Pen
from tests.kit.support import kept_by

WAYS: Final = ("ainvoke", "ainvoke", "astream", "astream", "to_thread", "thread", "graph", "http", "sse")
CANCELLABLE: Final = ("ainvoke", "astream", "graph", "http", "sse")
CUT_SHORT: Final = ("sibling", "step")
_IMPORTED: Final = [
    "__main__",
    *("tests.faults.driver", "tests.faults.application", "tests.faults.breaking", "tests.kit.uvicorn_server"),
    *("llmctx.calllog", "llmctx.delivery.spool", "asyncpg", "uvicorn", "uvicorn.protocols.http.auto"),
]
_AT_ONCE: Final = 200  # calls, where it is their pace that counts
_FORKED: Final = multiprocessing.get_context("forkserver")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a life is made of."""

    url: str
    book: str
    journal: str
    seed: int
    name: str
    users: int = 30
    pause_ms: int = 150
    ways: tuple[str, ...] = WAYS
    sizes: tuple[int, ...] = (100, 400, 400, 2000, 12_000)
    ms: int = 80
    """A call takes at most so long."""
    cancelled: float = 0.05
    """Of the calls that can be."""
    calls_per_s: float = 0.0
    """Not 0: so many calls in all, at their times, however long each takes; `users` and `pause_ms` do not count."""
    secrets: str = ""
    """Stand in every prompt."""
    settings: dict[str, Any] = field(default_factory=dict)


class Life:
    """One process, from the harness's side."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        ours, theirs = _FORKED.Pipe()
        self._pipe: Connection = ours
        _FORKED.set_forkserver_preload(_IMPORTED)
        self._process = _FORKED.Process(target=main, args=(plan, theirs), daemon=False)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    async def ask(self, what: str, *told: Any, patience_s: float = 60.0) -> Any:
        """Let it do something, and say what came of it."""
        with contextlib.suppress(BrokenPipeError):  # it has died: said below
            self._pipe.send((what, *told))
        deadline = time.monotonic() + patience_s
        while not self._pipe.poll():
            if not self.alive or time.monotonic() > deadline:
                raise TimeoutError(f"life {self.name} did not answer to {what}; its exit code: {self.exit_code}")
            await asyncio.sleep(0.01)
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    async def gone(self, patience_s: float = 60.0) -> float:
        """Wait until it has ended. Returns how long that took."""
        began = time.monotonic()
        while self.alive:
            if time.monotonic() > began + patience_s:
                self._process.kill()
                raise TimeoutError(f"life {self.name} would not end")
            await asyncio.sleep(0.005)
        self._process.join()
        self._pipe.close()
        return time.monotonic() - began

    async def kill(self) -> None:
        if self.alive:
            self.signal(signal.SIGKILL)
        await self.gone()


def main(plan: Plan, pipe: Connection) -> None:
    """One life."""
    faulthandler.enable()  # should it end in somebody's C
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    asyncio.run(_Driver(plan, pipe).live())


class _Driver:
    def __init__(self, plan: Plan, pipe: Connection) -> None:
        from llmctx.calllog import CallLog
        from tests.faults.application import Application

        self._plan = plan
        self._pipe = pipe
        self._pen = Pen(plan.book)
        self._app = Application(self._pen, plan.secrets)
        self._log = CallLog(plan.url, journal_dir=plan.journal, **plan.settings)
        self._going = asyncio.Event()
        self._going.set()
        self._busy = 0
        self._ending = asyncio.Event()
        self._extra = random.Random(f"{plan.seed}/{plan.name}/extra")
        self._tasks: set[asyncio.Task[Any]] = set()

    async def live(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ending.set)
        self._pen.life(self._plan.name, "begins")
        async with self._log:
            loop.add_reader(self._pipe.fileno(), self._told)
            async with self._served():
                users = [asyncio.create_task(self._live_as(number)) for number in range(self._plan.users)]
                if self._plan.calls_per_s:
                    users.append(asyncio.create_task(self._keep_pace()))
                await self._ending.wait()
                loop.remove_reader(self._pipe.fileno())
                for task in (*users, *self._tasks):
                    task.cancel()
                await asyncio.gather(*users, *self._tasks, return_exceptions=True)
        self._pen.life(self._plan.name, "ends")

    @contextlib.asynccontextmanager
    async def _served(self) -> AsyncIterator[None]:
        if not {"http", "sse"} & set(self._plan.ways):
            yield
            return
        import httpx

        from tests.kit.uvicorn_server import served

        limits = httpx.Limits(max_connections=200, max_keepalive_connections=0)  # a pause ends them, in mid-request
        async with served(self._app.asgi()) as url, httpx.AsyncClient(base_url=url, limits=limits) as self._app.http:
            yield

    async def _live_as(self, number: int) -> None:
        rng = random.Random(f"{self._plan.seed}/{self._plan.name}/{number}")
        while True:
            await asyncio.sleep(rng.expovariate(1000 / self._plan.pause_ms) if self._plan.pause_ms else 0)
            await self._going.wait()
            await self._make(self._drawn(rng, f"user-{number}", f"session-{number}-{rng.randrange(3)}"))

    async def _keep_pace(self) -> None:
        rng = random.Random(f"{self._plan.seed}/{self._plan.name}")
        due = time.monotonic()
        while True:
            due += 1 / self._plan.calls_per_s
            while self._busy > _AT_ONCE:  # the machine cannot do so much
                await asyncio.sleep(0.01)
                due = time.monotonic()
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if not self._going.is_set():
                await self._going.wait()
                due = time.monotonic()
            number = rng.randrange(200)
            task = asyncio.create_task(self._make(self._drawn(rng, f"user-{number}", f"session-{number}")))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _drawn(self, rng: random.Random, user: str, session: str) -> Call:
        plan = self._plan
        way = rng.choice(plan.ways)
        lot = rng.random()
        end = "fail" if lot < 0.05 else "cancel" if lot < 0.05 + plan.cancelled and way in CANCELLABLE else "ok"
        if way in CUT_SHORT:
            end = "cancel"
        run_id = str(UUID(int=rng.getrandbits(128), version=4))
        return Call(run_id, user, session, way, end, rng.choice(plan.sizes), plan.name, rng.randrange(plan.ms + 1))

    async def _make(self, call: Call) -> None:
        self._busy += 1
        try:
            await self._app.make(call)
        finally:
            self._busy -= 1

    # -- what the harness asks for ----------------------------------------------------------------------------------

    def _told(self) -> None:
        try:
            what, *told = self._pipe.recv()
        except (EOFError, OSError):  # the harness has gone: nothing may stay behind
            os._exit(70)
        task = asyncio.create_task(self._answer(what, told))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, what: str, told: list[Any]) -> None:
        try:
            answer = await getattr(self, f"on_{what}")(*told)
        except Exception as problem:
            answer = RuntimeError(repr(problem))
        self._pipe.send(answer)

    async def on_quiet(self) -> None:
        """No more calls, and none under way."""
        self._going.clear()
        while self._busy:
            await asyncio.sleep(0.005)

    async def on_go(self) -> None:
        self._going.set()

    async def on_stats(self) -> dict[str, Any]:
        stats = asdict(self._log.stats())
        told = {"incidents": dict(stats["incidents"]), "balanced": self._log.stats().balanced}
        return {**stats, **told, "kept": kept_by(self._log._recorder.open_calls)}

    async def on_flush(self, seconds: float) -> int:
        return await self._log.aflush(seconds)

    async def on_fresh(self) -> str:
        """A call like any other. Returns its run_id."""
        call = self._drawn(self._extra, "user-fresh", "session-fresh")
        call.end, call.way = "ok", "ainvoke"
        await self._make(call)
        return call.run_id

    async def on_break(self, seconds: float, seed: int) -> list[str]:
        """Whatever llmctx calls inside of itself fails now and then, for that long. Returns what was broken."""
        from tests.faults.breaking import broken

        with broken(random.Random(seed)) as names:
            await asyncio.sleep(seconds)
        return names

    async def on_rss(self) -> int:
        gc.collect()  # what nobody holds is not what the process needs: LangChain leaves circles behind
        with open("/proc/self/statm") as told:
            return int(told.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def on_fork(self, how: str, count: int) -> int:
        """A child that makes calls of its own, and leaves in its way. Returns its exit status."""
        calls = [self._drawn(self._extra, f"user-child-{how}", "session-child") for _ in range(count)]
        for call in calls:
            call.life, call.way = f"{self._plan.name}, a child that leaves by {how}", "here"
            call.end = "ok" if call.end == "cancel" else call.end
        if how == "while flushing":
            flushing = asyncio.create_task(asyncio.to_thread(self._log.flush, 1.0))
            await asyncio.sleep(self._extra.random() / 100)
            pid = self._fork(how, calls)
            await flushing
        elif how == "thread":
            pid = await asyncio.to_thread(self._fork, how, calls)
        else:
            pid = self._fork(how, calls)
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
            await asyncio.sleep(0.005)

    def _fork(self, how: str, calls: list[Call]) -> int:
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            if how == "grandchild" and (below := os.fork()):
                status = os.waitstatus_to_exitcode(os.waitpid(below, 0)[1])
            else:
                for call in calls:
                    self._app.make_here(call)
                status = 0
            if how == "flush":
                deadline = time.monotonic() + 30
                while self._log.flush() and time.monotonic() < deadline:
                    continue  # it waits by itself; on a busy machine its time may not be enough
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(status)

    async def on_stop_loop(self) -> None:
        """llmctx's own loop ends."""
        loop: Any = self._log._worker._loop
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

    async def on_kill_thread(self) -> None:
        """What runs in llmctx's own thread ends. (Not by an exception out of the blue: asyncpg's C dies of those.)"""

        def leave() -> None:
            raise SystemExit

        loop: Any = self._log._worker._loop
        if loop is not None:
            loop.call_soon_threadsafe(leave)

    async def on_disk_full(self, seconds: float) -> int:
        """The journal's disk has no room for that long, nor an inode. Returns how often it said so."""
        from tests.kit.disk import full_disk

        with full_disk() as refused:
            await asyncio.sleep(seconds)
        return len(refused)

    async def on_clock(self, jump_s: float, seconds: float) -> None:
        """The time of day is another one for that long."""
        clock = time.time
        time.time = lambda: clock() + jump_s
        try:
            await asyncio.sleep(seconds)
        finally:
            time.time = clock

    async def on_descriptors(self, seconds: float) -> int:
        """None are left for that long."""
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        held: list[int] = []
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        try:
            await asyncio.sleep(seconds)
        finally:
            for fd in held:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return len(held)
