"""Brokers, shippers and a database under faults, and the judge: each row that was made is in the table, once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from llmctx.core.errors import LlmctxError
from llmctx.delivery.broker.lag import look
from llmctx.delivery.broker.visit import visit
from llmctx.settings import load
from tests.kit.brokers import Brokers
from tests.kit.frames import post
from tests.kit.rows import query
from tests.scale.fleet import Fleet, fleet
from tests.scale.source import Applications, Frames, Source

ACK_WAIT_S: Final = 2.0
PATIENCE_S: Final = 300.0
_TABLE: Final = "biz_agent_llm_call_logs"


@dataclass(slots=True)
class Verdict:
    """What is wrong, and what was counted."""

    made: int = 0
    rows: int = 0
    distinct: int = 0
    missing: int = 0
    unknown: int = 0
    left_on_broker: int = 0
    exit_codes: list[int] = field(default_factory=list)
    repeats: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def findings(self) -> list[str]:
        """Return what is wrong, each in a sentence."""
        found = [f"{self.missing} rows are missing"] if self.missing else []
        found += [f"{self.rows - self.distinct} rows are double"] if self.rows != self.distinct else []
        found += [f"{self.unknown} rows were never made"] if self.unknown else []
        found += [f"{self.left_on_broker} frames are left on the broker"] if self.left_on_broker else []
        found += [f"a shipper ended with {code}" for code in self.exit_codes if code]
        return found


class World:
    """What a schedule acts on."""

    def __init__(self, database_url: str, transport: str, brokers: Brokers, ships: Fleet, source: Source) -> None:
        self.database_url = database_url
        self.transport = transport
        self._brokers = brokers
        self._source = source
        self._publishing = asyncio.create_task(source.run())
        self.ships = ships
        self.crash_database: Callable[[], Awaitable[object]] = self._hang_up
        self.faults: Counter[str] = Counter()

    async def stored(self) -> int:
        ((count,),) = await query(self.database_url, f"SELECT count(*) FROM {_TABLE}")
        return int(count)

    async def progress(self, rows: int = 50) -> None:
        """Wait until so many more rows are stored."""
        least = await self.stored() + rows
        deadline = time.monotonic() + PATIENCE_S
        while await self.stored() < least:
            assert time.monotonic() < deadline, f"{rows} more rows were not stored within {PATIENCE_S:g} s"
            await asyncio.sleep(0.05)

    # -- faults ---------------------------------------------------------------------------------------------------

    async def kill_shippers(self) -> None:
        """All of them; others begin."""
        count = len(self.ships.pids)
        self.ships.kill(count)
        self.ships.begin(count)

    async def kill_one_shipper(self) -> None:
        """As many go on."""
        self.ships.kill()
        self.ships.begin()

    async def scale_out(self) -> None:
        """Four shippers."""
        self.ships.begin(max(0, 4 - len(self.ships.pids)))

    async def scale_in(self) -> None:
        """One of them is left."""
        self.ships.kill(len(self.ships.pids) - 1)

    async def kill_application(self) -> None:
        """In the middle of a call; its host has others, and another one begins."""
        self._source.kill()

    async def kill_leader(self) -> None:
        """The server that leads a stream, and serves some of the connections."""
        leader = await asyncio.to_thread(self._brokers.leader, "LLMCTX_CALLS_0")
        leader.kill()
        await self.progress(20)
        await asyncio.to_thread(leader.start)

    async def freeze_leader(self) -> None:
        """It neither answers nor hangs up."""
        leader = await asyncio.to_thread(self._brokers.leader, "LLMCTX_CALLS_0")
        leader.send(signal.SIGSTOP)
        try:
            await self.progress(20)
        finally:
            leader.send(signal.SIGCONT)

    async def kill_brokers(self) -> None:
        """All of them at once."""
        self._brokers.kill()
        await asyncio.to_thread(self._brokers.start)

    async def wipe_brokers(self) -> None:
        """All of them, with all that they have kept: the streams are made anew, and journals send their rows again."""
        self._brokers.kill()
        self._brokers.wipe()
        await asyncio.to_thread(self._brokers.start)
        async with post(load(transport=self.transport), ack_wait_s=ACK_WAIT_S):
            self._source.again()

    async def crash(self) -> None:
        """The database."""
        await self.crash_database()

    async def _hang_up(self) -> None:
        """Cut all connections to the database, in the middle of whatever they do."""
        await query(
            self.database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )

    async def suffer(self, name: str) -> None:
        """Let the fault of this name happen, and wait until rows are stored again."""
        await FAULTS[name](self)
        self.faults[name] += 1
        await self.progress()

    # -- the end --------------------------------------------------------------------------------------------------

    async def judge(self) -> Verdict:
        """Wait until all is stored, end the shippers, and hold the table against what was made."""
        begun = time.monotonic()
        self._source.stopping.set()
        await self._publishing
        made = self._source.made
        while await self.stored() < len(made) and time.monotonic() < begun + PATIENCE_S:
            await asyncio.sleep(0.05)
        left = await self._left(begun + PATIENCE_S)
        verdict = Verdict(made=len(made), faults=self.faults, repeats=self._source.repeats, left_on_broker=left)
        verdict.exit_codes = await asyncio.to_thread(self._source.end) + await asyncio.to_thread(self.ships.end)
        column = self._source.column
        ids = [str(row[0]) for row in await query(self.database_url, f"SELECT {column} FROM {_TABLE}")]
        verdict.rows, verdict.distinct = len(ids), len(set(ids))
        verdict.missing, verdict.unknown = len(made - set(ids)), len(set(ids) - made)
        verdict.seconds = time.monotonic() - begun
        return verdict

    async def stop(self) -> None:
        """Make no more rows."""
        self._publishing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._publishing

    async def _left(self, until: float) -> int:
        """Wait until the broker has nothing any more; what is asked of a stream without a leader is never answered."""
        while True:
            left = -1
            with contextlib.suppress(LlmctxError):
                async with visit(load(transport=self.transport)) as (connection, topology):
                    lag = await look(connection, topology)
                    left = lag.sum("waiting") + lag.sum("in_hand") + lag.refused + len(lag.missing)
            if not left or time.monotonic() > until:
                return left
            await asyncio.sleep(0.1)


FAULTS: Final[dict[str, Callable[[World], Awaitable[None]]]] = {
    "application": World.kill_application,
    "one shipper": World.kill_one_shipper,
    "all shippers": World.kill_shippers,
    "four shippers": World.scale_out,
    "one is left": World.scale_in,
    "leader": World.kill_leader,
    "leader frozen": World.freeze_leader,
    "brokers": World.kill_brokers,
    "brokers wiped": World.wipe_brokers,
    "database": World.crash,
}


@asynccontextmanager
async def world(
    database_url: str,
    brokers: Brokers,
    draw: random.Random,
    *,
    streams: int,
    pause_s: float,
    rows: int = 20,
    applications: int = 0,
    book: Path | None = None,
) -> AsyncIterator[World]:
    """Make the streams, and let rows flow through one shipper until the end of the block: frames of at most `rows`, or
    calls of so many `applications`, which stand in `book`.
    """
    transport = f"{brokers.url}?streams={streams}"
    settings = load(database_url=database_url, transport=transport)
    async with post(settings, ack_wait_s=ACK_WAIT_S):
        pass
    with contextlib.ExitStack() as until_end:
        source: Source = Frames(settings, draw, pause_s=pause_s, rows=rows)
        if applications:
            assert book is not None
            arguments = (transport, str(book), str(pause_s))
            processes = until_end.enter_context(fleet("tests.scale.applications", *arguments))
            source = Applications(processes, book, applications)
        ships = until_end.enter_context(fleet("tests.scale.ships", database_url, transport))
        ships.begin()
        made = World(database_url, transport, brokers, ships, source)
        try:
            yield made
        finally:
            await made.stop()
