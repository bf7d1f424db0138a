"""What the broker has is stored when a shipper says so; what it may have lost, or is about to drop, is given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import uuid4

import pytest

from llmctx.delivery.broker.client import BrokerConnection, StreamMissing
from llmctx.delivery.broker.frame import MESSAGE_ID
from llmctx.delivery.broker.topology import CONSUMER, Topology
from llmctx.delivery.broker.unconfirmed import SentFrame, Unconfirmed, now_s
from llmctx.settings.transport_url import parse_transport
from tests.kit.brokers import Brokers, brokers
from tests.kit.frame_reader import make_streams

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def server() -> Iterator[Brokers]:
    with brokers() as one:
        yield one


class Published:
    """Frames in one stream, and what was said of them."""

    def __init__(self, connection: BrokerConnection, topology: Topology, unconfirmed: Unconfirmed) -> None:
        self.connection = connection
        self.topology = topology
        self.unconfirmed = unconfirmed
        self.stored: list[bytes] = []
        self.returned: list[bytes] = []
        unconfirmed.on_stored = self.stored.extend
        unconfirmed.on_returned = self.returned.extend

    async def publish(self) -> SentFrame:
        call_id = uuid4().bytes
        await self.unconfirmed.begin(0)
        ack = await self.connection.jetstream.publish(
            self.topology.subject(0), b"a frame", headers={MESSAGE_ID: call_id.hex()}
        )
        sent = SentFrame(ack.seq, call_id.hex(), call_id, now_s())
        self.unconfirmed.add(0, sent, is_new=True)
        return sent

    async def ship(self, count: int) -> None:
        subscription = await self.connection.jetstream.pull_subscribe_bind(CONSUMER, self.topology.stream(0))
        for message in await subscription.fetch(count, timeout=30):
            await message.ack_sync(timeout=30)

    async def reconnect(self) -> None:
        await self.connection.close()
        await self.connection.open()


@asynccontextmanager
async def published(server: Brokers, name: str, max_age_s: float = 3600) -> AsyncIterator[Published]:
    url = f"{server.url}?streams=1&max_bytes=33554432&prefix={name}"
    await asyncio.to_thread(make_streams, url)
    connection = BrokerConnection(parse_transport(url), connect_s=30, timeout_s=30)
    await connection.open()
    topology = Topology(parse_transport(url))
    try:
        yield Published(connection, topology, Unconfirmed(topology, connection, max_age_s))
    finally:
        await connection.close()


async def test_what_was_acknowledged_is_stored(server: Brokers) -> None:
    """Up to the floor, and no further."""
    async with published(server, "stored") as frames:
        sent = [await frames.publish() for _ in range(3)]
        await frames.unconfirmed.poll()
        assert (frames.stored, frames.returned) == ([], [])
        await frames.ship(2)
        await frames.unconfirmed.poll()
        assert frames.stored == [one.call_ids for one in sent[:2]]
        assert (frames.unconfirmed.frames, frames.returned) == (1, [])


async def test_what_is_there_after_a_connection_was_lost_is_not_published_again(server: Brokers) -> None:
    """What is not there is: acknowledged meanwhile, or lost with the server, nobody knows."""
    async with published(server, "lost") as frames:
        sent = [await frames.publish() for _ in range(3)]
        await frames.reconnect()
        await frames.unconfirmed.poll()
        assert (frames.stored, frames.returned) == ([], [])
        other = replace(sent[2], sequence=sent[2].sequence + 1)
        frames.unconfirmed.add(0, other, is_new=True)
        await frames.reconnect()
        await frames.unconfirmed.poll()
        assert frames.returned == [other.call_ids]
        assert frames.unconfirmed.frames == 3


async def test_numbers_that_go_back_are_of_another_store(server: Brokers) -> None:
    """What had such a number before is not there any more."""
    async with published(server, "back") as frames:
        sent = [await frames.publish() for _ in range(3)]
        frames.unconfirmed.add(0, replace(sent[0], sequence=2), is_new=False)  # the broker had it already
        assert frames.returned == []
        frames.unconfirmed.add(0, replace(sent[0], sequence=3), is_new=True)
        assert frames.returned == [sent[2].call_ids]


async def test_a_frame_is_published_again_before_the_broker_drops_it_for_its_age(server: Brokers) -> None:
    """Also where the floor has passed it: that goes on when frames are dropped."""
    async with published(server, "aged", max_age_s=0.0) as frames:
        sent = await frames.publish()
        await frames.ship(1)
        await frames.unconfirmed.poll()
        assert (frames.stored, frames.returned) == ([], [sent.call_ids])


async def test_a_stream_that_is_missing_is_named(server: Brokers) -> None:
    """With the command that makes it."""
    async with published(server, "missing") as frames:
        await frames.connection.jetstream.delete_stream(frames.topology.stream(0))
        with pytest.raises(StreamMissing, match="MISSING_CALLS_0 is missing: run `llmctx migrate --transport`"):
            await frames.unconfirmed.begin(0)
