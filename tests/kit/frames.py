"""Frames of rows on a broker, put there as applications do, and what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from llmctx.core.record import CallRecord
from llmctx.delivery.broker import frame, provision, refusals
from llmctx.delivery.broker.client import BrokerConnection
from llmctx.delivery.broker.lag import Lag, fetch_lag
from llmctx.delivery.broker.refusals import RefusedMessage
from llmctx.delivery.broker.session import open_broker
from llmctx.delivery.broker.shipper import BrokerShipper
from llmctx.delivery.broker.topology import CONSUMER, Topology
from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.delivery.journal.frames import pack_record
from llmctx.settings import Settings
from tests.kit.rows import record


class Post:
    """A broker with its streams made, for a test to put frames there."""

    def __init__(self, settings: Settings, connection: BrokerConnection, topology: Topology) -> None:
        self.settings = settings
        self.connection = connection
        self.topology = topology
        self._number = 0

    async def publish(self, data: bytes, identity: str | None = None) -> None:
        """Publish bytes, into one stream after another, and wait until the broker has them."""
        self._number += 1
        subject = self.topology.subject(self._number % self.topology.streams)
        headers = None if identity is None else {"Nats-Msg-Id": identity}
        await self.connection.jetstream.publish(subject, data, headers=headers)

    async def rows(self, frames: int, each: int, **fields: object) -> list[CallRecord]:
        """Publish frames of so many new rows each."""
        made = []
        for _ in range(frames):
            some = [record(**fields) for _ in range(each)]
            await self.publish(frame_of(some))
            made += some
        return made

    async def lag(self) -> Lag:
        return await fetch_lag(self.connection, self.topology)

    async def refused(self) -> list[RefusedMessage]:
        return [one async for one in refusals.read(self.connection.jetstream, self.topology)]


def frame_of(rows: Sequence[CallRecord]) -> bytes:
    return frame.encode([pack_record(row) for row in rows])


@asynccontextmanager
async def post(settings: Settings, *, ack_wait_s: float | None = None) -> AsyncIterator[Post]:
    """Make the streams. With `ack_wait_s`, frames of shippers that have died come again sooner than they do in life."""
    async with open_broker(settings) as (connection, topology):
        assert settings.transport_url is not None
        servers = provision.servers_of(connection, settings.transport_url)
        await provision.provision(connection, topology, servers, lambda what: None)
        if ack_wait_s is not None:
            await hasten(connection, topology, ack_wait_s)
        yield Post(settings, connection, topology)


async def hasten(connection: BrokerConnection, topology: Topology, ack_wait_s: float) -> None:
    config = topology.consumer_config()
    config.ack_wait = ack_wait_s
    for partition in range(topology.streams):
        await connection.jetstream.add_consumer(topology.stream(partition), config)
        assert (
            await connection.jetstream.consumer_info(topology.stream(partition), CONSUMER)
        ).config.ack_wait == ack_wait_s


@asynccontextmanager
async def shipping(settings: Settings) -> AsyncIterator[BrokerShipper]:
    """A shipper at work, in this loop; it is asked to end at the end."""
    shipper = BrokerShipper(SqlDestination(settings), settings)
    stopping = asyncio.Event()
    running = asyncio.create_task(shipper.run(stopping))
    try:
        yield shipper
    finally:
        stopping.set()
        await running


async def ship(settings: Settings) -> BrokerShipper:
    """Store what there is."""
    shipper = BrokerShipper(SqlDestination(settings), settings)
    with contextlib.suppress(asyncio.CancelledError):
        await shipper.run(asyncio.Event(), once=True)
    return shipper
