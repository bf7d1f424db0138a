"""The other end of a broker, as far as the publishing half needs one: its streams, and a reader of frames."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Self

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from llmctx.core.record import CallRecord
from llmctx.delivery.broker.frame import decode
from llmctx.delivery.broker.topology import CONSUMER, Topology
from llmctx.delivery.journal import unpack_record
from llmctx.settings.transport_url import TransportUrl, parse_transport

_FETCH_S = 0.5


def make_streams(url: str) -> None:
    """Make the streams and consumers of a transport; those that are there are removed."""

    async def make(js: JetStreamContext, topology: Topology) -> None:
        for partition in range(topology.streams):
            name = topology.stream(partition)
            with contextlib.suppress(NotFoundError):
                await js.delete_stream(name)
            await js.add_stream(topology.stream_config(partition))
            await js.add_consumer(name, topology.consumer_config())

    asyncio.run(_with(url, make))


def messages(url: str) -> int:
    """Return how many frames wait in the streams."""
    counted: list[int] = []

    async def count(js: JetStreamContext, topology: Topology) -> None:
        for partition in range(topology.streams):
            info = await js.stream_info(topology.stream(partition))
            counted.append(info.state.messages)

    asyncio.run(_with(url, count))
    return sum(counted)


async def connect(transport: TransportUrl) -> Client:
    """Connect as any client does."""
    servers = list(transport.servers)
    user, password = transport.user, transport.password
    return await nats.connect(servers, user=user, password=password, connect_timeout=30, max_reconnect_attempts=-1)


async def _with(url: str, work: object) -> None:
    transport = parse_transport(url)
    client = await connect(transport)
    try:
        await work(client.jetstream(timeout=30), Topology(transport))  # type: ignore[operator]  # one of the above
    finally:
        await client.close()


class FrameReader:
    """Reads frames in a thread, keeps their rows in place of a database, and acknowledges them then.

    With `is_away` as long as that is set none is acknowledged, as if the database were away.
    """

    def __init__(self, url: str, is_away: threading.Event | None = None) -> None:
        self._transport = parse_transport(url)
        self._stopping = threading.Event()
        self._is_away = is_away or threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.rows: list[CallRecord] = []
        self.ids: list[str] = []
        """Of the messages."""

    @property
    def models(self) -> list[str]:
        """Return the models of the rows, each call once, sorted."""
        return sorted({row.call_id: row.model for row in self.rows}.values())

    async def _run(self) -> None:
        topology = Topology(self._transport)
        client = await connect(self._transport)
        try:
            streams = [topology.stream(partition) for partition in range(topology.streams)]
            await asyncio.gather(*(self._read(client.jetstream(timeout=30), stream) for stream in streams))
        finally:
            await client.close()

    async def _read(self, js: JetStreamContext, stream: str) -> None:
        subscription = await js.pull_subscribe_bind(CONSUMER, stream)
        read: list[Msg] = []
        while not self._stopping.is_set():
            try:
                for message in await subscription.fetch(50, timeout=_FETCH_S):
                    self.ids.append((message.headers or {})["Nats-Msg-Id"])
                    self.rows += map(unpack_record, decode(message.data))
                    read.append(message)
                while read and not self._is_away.is_set():
                    await read.pop().ack()
            except TimeoutError:  # of asyncio, or of nats, which is one
                continue

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join(60)
