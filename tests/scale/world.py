"""Applications, brokers, shippers and a database under faults, and the judge: each row is in the table, once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from sqlalchemy.exc import DBAPIError

from llmctx.core.errors import LlmctxError
from llmctx.delivery.broker.lag import fetch_lag
from llmctx.delivery.broker.session import open_broker
from llmctx.settings import load
from tests.kit.brokers import Brokers
from tests.kit.frames import post
from tests.kit.rows import query
from tests.kit.standby import Pair
from tests.scale.faults import ACK_WAIT_S, FAULTS
from tests.scale.fleet import Fleet
from tests.scale.hosts import Host
from tests.scale.source import Frames, Source
from tests.scale.verdict import Verdict

PATIENCE_S: Final = 300.0
_DEAD_S: Final = 30.0
"""Within which the database has noticed that a client has died."""
_TABLE: Final = "biz_agent_llm_call_logs"


class World:
    """What a schedule acts on."""

    def __init__(
        self,
        database_url: str,
        transport: str | None,
        brokers: Brokers | None,
        hosts: Sequence[Host],
        source: Source,
        draw: random.Random,
        *,
        book: Path | None = None,
    ) -> None:
        """With a `book` the source is applications, whose sessions stand there."""
        self.database_url = database_url
        self.transport = transport
        self.brokers = brokers
        self.hosts = hosts
        self.source = source
        self.draw = draw
        self._book = book
        self._publishing = asyncio.create_task(source.run())
        self.pair: Pair | None = None
        self.crash_database: Callable[[], Awaitable[object]] = self._hang_up
        self.faults: Counter[str] = Counter()
        self.connections = 0

    @property
    def ships(self) -> list[Fleet]:
        """Return the shippers, by host."""
        return [host.ships for host in self.hosts if host.ships is not None]

    @property
    def cluster(self) -> Brokers:
        assert self.brokers is not None
        return self.brokers

    @property
    def possible(self) -> list[str]:
        """Return the names of the faults that can happen here."""
        has = {
            "": True,
            "applications": self._book is not None,
            "shippers": bool(self.ships),
            "brokers": self.brokers is not None,
            "standby": self.pair is not None,
            "disks": any(host.disk for host in self.hosts),
            "clocks": any(host.clock for host in self.hosts),
            "links": any(host.link for host in self.hosts),
        }
        return sorted(name for name, fault in FAULTS.items() if has[fault.needs])

    async def stored(self) -> int:
        ((count,),) = await self._ask(f"SELECT count(*) FROM {_TABLE}")
        return int(count)

    async def _ask(self, statement: str) -> list[tuple[object, ...]]:
        """Ask until it is answered: the database may have crashed a moment ago."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await query(self.database_url, statement)
            except (OSError, DBAPIError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)

    async def progress(self, rows: int = 50) -> None:
        """Wait until so many more rows are stored."""
        least = await self.stored() + rows
        await self._wait_for(least, f"{rows} more rows")

    async def settled(self) -> None:
        """Wait until all that was made so far is stored."""
        made = set(self.source.made)
        deadline = time.monotonic() + PATIENCE_S
        while made - {str(one) for (one,) in await self._ask(f"SELECT {self.source.column} FROM {_TABLE}")}:
            assert time.monotonic() < deadline, f"what was made was not stored within {PATIENCE_S:g} s"
            await asyncio.sleep(0.5)

    async def _wait_for(self, rows: int, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while await self.stored() < rows:
            assert time.monotonic() < deadline, f"{what} were not stored within {PATIENCE_S:g} s"
            await asyncio.sleep(0.05)

    async def count_connections(self, most: int | None = None) -> int:
        """Return how many llmctx holds at the database, when there are `most`: those of the dead may be there yet."""
        deadline = time.monotonic() + _DEAD_S
        while True:
            asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'llmctx'"
            ((count,),) = await self._ask(asked)
            held = int(str(count))
            if most is None or held <= most or time.monotonic() > deadline:
                self.connections = max(self.connections, held)
                return held
            await asyncio.sleep(0.2)

    async def _hang_up(self) -> None:
        """Cut all connections to the database, in the middle of whatever they do."""
        await query(
            self.database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )

    async def suffer(self, name: str) -> None:
        """Let the fault of this name happen, and wait until rows are stored again."""
        await FAULTS[name].happen(self)
        self.faults[name] += 1
        await self.progress()

    # -- the end --------------------------------------------------------------------------------------------------

    async def judge(self) -> Verdict:
        """Wait until all is stored, end the shippers, and hold the table against what was made."""
        begun = time.monotonic()
        self.source.stopping.set()
        await self._publishing
        made = self.source.made
        while await self.stored() < len(made) and time.monotonic() < begun + PATIENCE_S:
            await asyncio.sleep(0.05)
        left = 0 if self.transport is None else await self._left(begun + PATIENCE_S)
        verdict = Verdict(faults=self.faults, repeats=self.source.repeats, left_on_broker=left)
        verdict.exit_codes = await asyncio.to_thread(self.source.end)
        for ships in self.ships:
            verdict.exit_codes += await asyncio.to_thread(ships.end)
        rows = await self._ask(f"SELECT {self.source.column}, user_id FROM {_TABLE}")
        stored = [(str(one), str(user)) for one, user in rows]
        verdict.count(self.source.made, stored, has_users=self._book is not None)
        if self._book is not None:
            verdict.add_up(self.source.made, self._book.with_name(f"{self._book.name}.ledgers"))
        verdict.connections = self.connections
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
                async with open_broker(load(transport=self.transport)) as (connection, topology):
                    lag = await fetch_lag(connection, topology)
                    left = lag.sum("waiting") + lag.sum("in_hand") + lag.refused + len(lag.missing)
            if not left or time.monotonic() > until:
                return left
            await asyncio.sleep(0.1)


@asynccontextmanager
async def world(
    database_url: str, brokers: Brokers, draw: random.Random, *, streams: int, pause_s: float, rows: int = 20
) -> AsyncIterator[World]:
    """Make the streams, and let frames of at most `rows` flow through one shipper until the end of the block."""
    transport = f"{brokers.url}?streams={streams}"
    settings = load(database_url=database_url, transport=transport)
    async with post(settings, ack_wait_s=ACK_WAIT_S):
        pass
    with contextlib.ExitStack() as until_end:
        here = Host("here", {"LLMCTX_DATABASE_URL": database_url, "LLMCTX_TRANSPORT": transport})
        here.ships = here.run("tests.scale.ships", draw=draw, until_end=until_end)
        here.ships.begin()
        source = Frames(settings, draw, pause_s=pause_s, rows=rows)
        made = World(database_url, transport, brokers, [here], source, draw)
        try:
            yield made
        finally:
            await made.stop()
