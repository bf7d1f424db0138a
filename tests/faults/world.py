"""Everything that can be hurt: a PostgreSQL of its own, the way to it, the journal's directory, and the lives.

The application's role may INSERT and nothing else; what is done to its table is done by the administrator, directly.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import make_url

from llmctx.core.record import DEFAULT_TABLE as T
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.faults import book
from tests.faults.driver import Life, Plan
from tests.faults.judge import Verdict, judge, rows_of
from tests.kit.cluster import Cluster
from tests.kit.proxy import Proxy
from tests.kit.rows import do, query

ROLE: Final = "app"
_SAYS_LESS: Final = re.compile(r" under (None, None|(\S+), None instead of \2,)")
DRAIN_S: Final = 60.0
FRESH_S: Final = 5.0
LEAVE_S: Final = 5.0
"""`shutdown_timeout_s`."""
BUSY_S: Final = 6.0
"""What a busy machine takes besides."""


class World:
    """Of one seed. Made by `world`."""

    def __init__(self, cluster: Cluster, seed: int, folder: Path, settings: dict[str, Any]) -> None:
        self.cluster = cluster
        self.seed = seed
        self.folder = folder
        self.book = folder / "book"
        self.journal = folder / "journal"
        self.settings = settings
        name = f"seed_{seed}_{os.urandom(3).hex()}"
        self.admin = make_url(cluster.url).set(database=name).render_as_string(hide_password=False)
        self.name = name
        self.proxy = Proxy(make_url(self.admin).set(username=ROLE).render_as_string(hide_password=False))
        self.life: Life | None = None
        self.company: Life | None = None
        """Another worker, to which nothing is done."""
        self.killed: set[str] = set()
        self.numbers = 0
        self.poisoned = False
        """Rows have been refused for what they are; they are to be replayed."""
        self.notes: list[str] = []
        """What was seen besides: of a process that leaves too slowly, say."""

    async def make(self) -> None:
        await do(self.cluster.url, f"CREATE DATABASE {self.name}")
        await asyncio.to_thread(migrate.upgrade, load(database_url=self.admin))
        exists = await query(self.cluster.url, f"SELECT 1 FROM pg_roles WHERE rolname = '{ROLE}'")
        if not exists:
            await do(self.cluster.url, f"CREATE ROLE {ROLE} LOGIN")
        await self.reset()
        await self.proxy.open()

    async def remove(self) -> None:
        for life in filter(None, (self.life, self.company)):
            with contextlib.suppress(Exception):
                life.signal(signal.SIGCONT)
                await life.kill()
        await self.proxy.remove()
        with contextlib.suppress(Exception):
            await do(self.cluster.url, f"DROP DATABASE {self.name} WITH (FORCE)")

    async def reset(self) -> None:
        """The role as it is meant to be."""
        await self.administer(
            f"ALTER ROLE {ROLE} CONNECTION LIMIT -1",
            f"ALTER ROLE {ROLE} RESET ALL",
            f"GRANT INSERT ON {T} TO {ROLE}",
        )

    async def administer(self, *statements: str) -> None:
        """As the administrator, as soon as the server lets us."""
        deadline = time.monotonic() + 30
        while True:
            try:
                await do(self.admin, *statements)
                return
            except Exception:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)

    async def hang_up(self) -> None:
        """End the connections of the role."""
        await self.administer(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'")

    # -- lives ------------------------------------------------------------------------------------------------------

    def begin_life(self, **plan: Any) -> Life:
        self.numbers += 1
        settings = {"shutdown_timeout_s": LEAVE_S, **self.settings, **plan.pop("settings", {})}
        given = {"url": self.proxy.url, "book": str(self.book), "journal": str(self.journal), **plan}
        self.life = Life(Plan(seed=self.seed, name=f"life-{self.numbers}", settings=settings, **given))
        return self.life

    def begin_company(self) -> None:
        """A second worker beside the first, which goes through all of it, and takes over what the first one leaves."""
        life = self.life
        self.company = self.begin_life(users=8)
        self.life = life

    async def living(self) -> Life:
        """The present life, once it makes calls."""
        life = self.life
        assert life is not None
        await life.ask("stats")
        return life

    async def kill(self) -> None:
        assert self.life is not None
        self.killed.add(self.life.name)
        await self.life.kill()

    async def terminate(self) -> float:
        """SIGTERM. Returns how long it took to leave, and complains if that was too long."""
        life = self.life
        assert life is not None
        life.signal(signal.SIGTERM)
        took = await life.gone()
        if took > LEAVE_S + BUSY_S:
            self.notes.append(f"{life.name} took {took:.1f} s to leave")
        if life.exit_code != 0:
            self.notes.append(f"{life.name} ended with {life.exit_code}")
        return took

    async def busy(self, count: int, patience_s: float = 60.0) -> None:
        """Wait until so many more calls have begun."""
        wanted, deadline = book.read(self.book).began + count, time.monotonic() + patience_s
        while book.read(self.book).began < wanted:
            assert time.monotonic() < deadline, f"{count} calls did not begin"
            await asyncio.sleep(0.05)

    # -- judging ----------------------------------------------------------------------------------------------------

    async def verdict(self, *, texts: bool = True) -> Verdict:
        return judge(book.read(self.book), await rows_of(self.admin), killed=self.killed, texts=texts)

    async def settled(self, *, texts: bool = True, whole: bool = True) -> Verdict:
        """Heal has been done: quiesce, drain, replay, count, and see that a fresh call lands. The whole judgement.

        Without `whole`, llmctx was broken from inside: what could not be recorded may be missing, or say less,
        or be nobody's; never somebody else's.
        """
        life = await self.living()
        began = time.monotonic()
        fresh = await self._fresh(life)
        await life.ask("quiet")
        if self.company is not None:
            await self.company.ask("quiet")
            beside = await self._drained(self.company)
            if not beside["balanced"] or beside["waiting"] or beside["dropped"]:
                self.notes.append(f"the other worker's ledger: {beside}")
        stats = await self._drained(life, DRAIN_S if whole else 3.0)
        drained = time.monotonic() - began
        if self.poisoned:
            await asyncio.to_thread(self.replay)
        patience = DRAIN_S if whole else 0.0
        verdict = await self._until(lambda found: not found.missing and not self._left(), began + patience, texts)
        verdict.drained_s, verdict.fresh_s = drained, fresh
        if fresh > FRESH_S + BUSY_S:
            verdict.odd.append(f"the first fresh call took {fresh:.1f} s to land")
        again = await self._fresh(life) if whole else 0.0
        verdict.fresh_again_s = again
        if again > FRESH_S + BUSY_S:
            verdict.odd.append(f"a fresh call took {again:.1f} s to land")
        stats = await self._drained(life) if whole else stats
        if not whole:
            verdict.missing.clear()
            verdict.odd.clear()
            verdict.wrong = [one for one in verdict.wrong if not _SAYS_LESS.search(one)]  # never somebody else's
        elif not stats["balanced"] or stats["waiting"] or stats["dropped"] or stats["kept"]:
            verdict.odd.append(f"the ledger: {stats}")
        if left := self._left():
            verdict.odd.append(f"left in the journal: {left}")
        verdict.odd += self.notes
        verdict.incidents = stats["incidents"]
        return verdict

    async def _fresh(self, life: Life) -> float:
        began = time.monotonic()
        run_id = await life.ask("fresh")
        while time.monotonic() < began + DRAIN_S:
            if await query(self.admin, f"SELECT 1 FROM {T} WHERE run_id = '{run_id}'"):
                return time.monotonic() - began
            await asyncio.sleep(0.05)
        return time.monotonic() - began

    async def _drained(self, life: Life, patience_s: float = DRAIN_S) -> dict[str, Any]:
        """The ledger when nothing waits any more, or when time is up."""
        deadline = time.monotonic() + patience_s
        while True:
            stats: dict[str, Any] = await life.ask("stats")
            if (not stats["waiting"] and not stats["kept"]) or time.monotonic() > deadline:
                return stats
            await asyncio.sleep(0.05)

    async def _until(self, truth: Callable[[Verdict], bool], deadline: float, texts: bool) -> Verdict:
        while True:
            verdict = await self.verdict(texts=texts)
            if truth(verdict) or time.monotonic() > deadline:
                return verdict
            await asyncio.sleep(0.3)

    def _left(self) -> list[str]:
        """What dead processes have left, that nobody has taken over yet."""
        homes = [path for path in self.journal.glob("*/*") if path.name != "quarantine"]
        # what a process was making when it was killed, before there was anything in it
        homes = [path for path in homes if not path.name.startswith(".new-") or {*os.listdir(path)} - {"lock"}]
        ours = [f"{life.pid}-" for life in (self.life, self.company) if life is not None]
        left = [path for path in homes if not path.name.startswith(tuple(ours))]
        return [f"{path.name}: {[file.name for file in path.glob('*')]}" for path in left]

    def replay(self) -> None:
        """`llmctx journal replay --yes`, as the administrator of an application would."""
        environment = {**os.environ, "LLMCTX_DATABASE_URL": self.proxy.url, "LLMCTX_JOURNAL_DIR": str(self.journal)}
        done = subprocess.run(
            [sys.executable, "-m", "llmctx", "journal", "replay", "--yes"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            self.notes.append(f"replay: {done.stdout} {done.stderr}"[:500])


@asynccontextmanager
async def world(cluster: Cluster, seed: int, **settings: Any) -> AsyncIterator[World]:
    """A database, a proxy, a folder for journal and book."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    one = World(cluster, seed, folder, settings)
    try:
        await one.make()
        yield one
    finally:
        await one.remove()
        shutil.rmtree(folder, ignore_errors=True)
