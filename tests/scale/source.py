"""Where rows come from: frames that are published here, or applications that record calls."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from llmctx.delivery.broker import frame
from llmctx.delivery.broker.client import BrokerConnection
from llmctx.delivery.broker.topology import Topology
from llmctx.settings import Settings
from tests.kit.frames import frame_of
from tests.kit.rows import record
from tests.scale.fleet import Fleet

_TEXT = "How is my blood pressure today? " * 40


class Source(ABC):
    """Makes rows until it is told to stop. Belongs to one event loop."""

    column: str
    """That tells its rows apart."""
    repeats = 0
    """Publishes that had to be repeated, as far as is known."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()

    @property
    @abstractmethod
    def made(self) -> set[str]:
        """Return the values of `column` that are to be in the table."""

    @abstractmethod
    async def run(self) -> None:
        """Make rows until `stopping`."""

    def again(self) -> None:  # noqa: B027  journals do it by themselves
        """Send everything again: the broker's store has gone."""

    def kill(self) -> None:  # noqa: B027  frames have no process
        """Kill what makes rows, and let it begin anew."""

    def end(self) -> list[int]:
        """End what makes rows, when all are stored. Return exit codes."""
        return []


class Applications(Source):
    """Processes that record calls, so many on each host."""

    column = "session_id"

    def __init__(self, fleets: Sequence[Fleet], book: Path, count: int, draw: random.Random) -> None:
        super().__init__()
        self._fleets = fleets
        self._book = book
        self._count = count
        self._draw = draw

    @property
    def made(self) -> set[str]:
        return set(self._book.read_text().split()) if self._book.exists() else set()

    async def run(self) -> None:
        for one in self._fleets:
            one.begin(self._count)
        await self.stopping.wait()
        for one in self._fleets:
            one.quiet()

    def kill(self) -> None:
        one = self._draw.choice(self._fleets)
        one.kill()
        one.begin()

    def end(self) -> list[int]:
        return [code for one in self._fleets for code in one.end()]


class Frames(Source):
    """Frames as applications publish them: each is sent until the broker has it, all again when that has lost them."""

    column = "call_id"

    def __init__(self, settings: Settings, draw: random.Random, *, pause_s: float, rows: int) -> None:
        super().__init__()
        assert settings.transport_url is not None
        self._connection = BrokerConnection(settings.transport_url, connect_s=5, timeout_s=5)
        self._topology = Topology(settings.transport_url)
        self._draw = draw
        self._pause_s = pause_s
        self._rows = rows
        self._sent: list[tuple[bytes, str]] = []
        self._todo: list[tuple[bytes, str]] = []
        self._made: set[str] = set()

    @property
    def made(self) -> set[str]:
        return self._made

    async def run(self) -> None:
        try:
            while self._todo or not self.stopping.is_set():
                if not self._todo:
                    self._todo.append(self._new())
                await self._publish(self._todo[0])
                self._sent.append(self._todo.pop(0))
                if not self.stopping.is_set():
                    await asyncio.sleep(self._pause_s * self._draw.random() * 2)
        finally:
            await self._connection.close()

    def again(self) -> None:
        self._todo += self._sent
        self._sent = []

    def _new(self) -> tuple[bytes, str]:
        rows = [record(prompt_snapshot=_TEXT) for _ in range(self._draw.randint(1, self._rows))]
        self._made |= {str(row.call_id) for row in rows}
        return frame_of(rows), frame.message_id(row.call_id.bytes for row in rows)

    async def _publish(self, one: tuple[bytes, str]) -> None:
        data, identity = one
        while True:
            subject = self._topology.subject(self._draw.randrange(self._topology.streams))
            try:
                await self._connection.open()
                await self._connection.jetstream.publish(subject, data, headers={"Nats-Msg-Id": identity})
            except Exception:
                self.repeats += 1  # maybe into another stream: then the same rows come twice
                await asyncio.sleep(0.1)
            else:
                return
