"""Frames as applications publish them: each is sent until the broker has it, and all again when that has lost them."""

from __future__ import annotations

import asyncio
import random
from uuid import UUID

from llmctx.delivery.broker import frame
from llmctx.delivery.broker.client import BrokerConnection
from llmctx.delivery.broker.topology import Topology
from llmctx.settings import Settings
from tests.kit.frames import frame_of
from tests.kit.rows import record

_TEXT = "How is my blood pressure today? " * 40


class Source:
    """Publishes until it is told to stop. Belongs to one event loop."""

    def __init__(self, settings: Settings, draw: random.Random, *, pause_s: float, rows: int) -> None:
        assert settings.transport_url is not None
        self._connection = BrokerConnection(settings.transport_url, connect_s=5, timeout_s=5)
        self._topology = Topology(settings.transport_url)
        self._draw = draw
        self._pause_s = pause_s
        self._rows = rows
        self._sent: list[tuple[bytes, str]] = []
        self._todo: list[tuple[bytes, str]] = []
        self.made: set[UUID] = set()
        self.repeats = 0
        """Publishes that had to be repeated."""
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Make frames of one to `rows` rows, with a pause after each."""
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
        """Send everything again, as journals do that wait for the database: the broker's store has gone."""
        self._todo += self._sent
        self._sent = []

    def _new(self) -> tuple[bytes, str]:
        rows = [record(prompt_snapshot=_TEXT) for _ in range(self._draw.randint(1, self._rows))]
        self.made |= {row.call_id for row in rows}
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
