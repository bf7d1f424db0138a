"""Frames of this process that the broker has, and the database may not have yet.

A shipper acknowledges a frame when its rows are stored. So the rows are stored when the ack floor of the stream's
consumer, up to which everything is acknowledged, has passed the frame; one question a stream answers that for all.
Where the broker may have lost a frame instead, it is published again, which does no harm to rows that are stored:

- the consumer is another one by its birth, or the stream's numbers have gone back: the store is a new one;
- the connection was lost, or the floor has gone back, and the frame is not there: a server may have lost what it had;
- the frame is so old that the broker may have dropped it for its age.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from llmctx.core.diagnostics import diagnostics
from llmctx.delivery.broker.client import BrokerConnection, BrokerUnavailable, StreamMissing
from llmctx.delivery.broker.frame import MESSAGE_ID
from llmctx.delivery.broker.topology import CONSUMER, Topology
from llmctx.delivery.journal.frames import ID_BYTES

_SETTLED_S: Final = 30.0
"""So long the server that answers may lag behind the one that took a frame."""
_PROBES: Final = 50
"""Frames that are looked for one by one after a connection was lost, at most."""


def now_s() -> float:
    """Return the time on a clock that no user sets, in seconds; where there is one that also runs while the machine
    sleeps, on that.
    """
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(slots=True, frozen=True)
class SentFrame:
    """A frame that the broker has acknowledged: positions alone, its rows are in the journal."""

    sequence: int
    message_id: str
    call_ids: bytes
    """Of `ID_BYTES` each, one behind the other."""
    at: float


@dataclass(slots=True)
class _Stream:
    partition: int
    sent: list[SentFrame] = field(default_factory=list)
    created_at: datetime | None = None
    floor: int = 0
    connection: int = 0
    """The number of the connection by which it was looked at last."""


class Unconfirmed:
    """The frames that are not confirmed, by stream. Belongs to one event loop at a time."""

    def __init__(self, topology: Topology, connection: BrokerConnection, max_age_s: float) -> None:
        self._topology = topology
        self._connection = connection
        self._max_age_s = max_age_s
        self._streams = [_Stream(partition) for partition in range(topology.streams)]
        self._asking = asyncio.Lock()  # an answer that is older than another one would look like a store that is new
        self.on_stored: Callable[[Sequence[bytes]], None] | None = None
        """Called with calls whose rows the database has."""
        self.on_returned: Callable[[Sequence[bytes]], None] | None = None
        """Called with calls whose rows have to be published again."""

    @property
    def frames(self) -> int:
        """Return how many frames are not confirmed."""
        return sum(len(stream.sent) for stream in self._streams)

    def clear(self) -> None:
        """Forget all frames: they are another process's."""
        self._streams = [_Stream(one.partition) for one in self._streams]

    def detach(self) -> None:
        """Prepare for another event loop."""
        self._asking = asyncio.Lock()

    async def begin(self, partition: int) -> None:
        """See whose store it is before a frame goes there. Raise `StreamMissing` if there is none."""
        stream = self._streams[partition]
        async with self._asking:
            is_known = stream.created_at is not None and stream.connection == self._connection.connect_count
            if not is_known and not await self._update(stream):
                raise StreamMissing(
                    f"the stream {self._topology.stream(partition)} is missing: run `llmctx migrate --transport`"
                )

    def add(self, partition: int, sent: SentFrame, *, is_new: bool) -> None:
        """Note a frame that the broker has acknowledged; `is_new` if it was not there before."""
        stream = self._streams[partition]
        if is_new:  # numbers rise, unless the store is a new one
            self._give_back(stream, [one for one in stream.sent if one.sequence >= sent.sequence])
        stream.sent.append(sent)

    async def poll(self) -> None:
        """Ask how far the shippers are, of each stream that has frames of ours. Raise what the last one failed with."""
        problem: Exception | None = None
        for stream in self._streams:
            if stream.sent:
                try:
                    async with self._asking:
                        await self._update(stream)
                except BrokerUnavailable:
                    raise
                except Exception as failure:  # noqa: BLE001  a stream without a leader is no reason to pass over others
                    problem = failure
        if problem is not None:
            raise problem

    async def _update(self, stream: _Stream) -> bool:
        """Ask the stream's consumer. Return False if there is none."""
        from nats.js.errors import NotFoundError

        connection, jetstream = self._connection.connect_count, self._connection.jetstream
        try:
            info = await jetstream.consumer_info(self._topology.stream(stream.partition), CONSUMER)
        except NotFoundError:
            return False
        floor = 0 if info.ack_floor is None else info.ack_floor.stream_seq
        delivered = 0 if info.delivered is None else info.delivered.stream_seq
        if info.created != stream.created_at:
            self._give_back(stream, stream.sent)
        elif stream.connection != connection or floor < stream.floor:
            self._give_back(stream, await self._missing(stream))
        stream.created_at, stream.floor, stream.connection = info.created, floor, connection
        now, last = now_s(), max(delivered, floor) + (info.num_pending or 0)
        overdue = [
            one for one in stream.sent
            if now - one.at > self._max_age_s / 2 or (one.sequence > last and now - one.at > _SETTLED_S)
        ]  # fmt: skip
        self._give_back(stream, overdue)
        stored = [one for one in stream.sent if one.sequence <= floor]
        stream.sent = [one for one in stream.sent if one.sequence > floor]
        if stored and self.on_stored is not None:
            self.on_stored(_ids(stored))
        return True

    async def _missing(self, stream: _Stream) -> list[SentFrame]:
        """Return the frames that are not there after a connection was lost: the newest, which a server may lose."""
        missing: list[SentFrame] = []
        for one in sorted(stream.sent, key=lambda sent: sent.sequence, reverse=True):
            if len(missing) >= _PROBES:
                return list(stream.sent)
            if await self._is_there(stream, one):  # and so is what is older, unless it is stored by now
                break
            missing.append(one)
        return missing

    async def _is_there(self, stream: _Stream, sent: SentFrame) -> bool:
        from nats.js.errors import NotFoundError

        name = self._topology.stream(stream.partition)
        try:
            message = await self._connection.jetstream.get_msg(name, sent.sequence)
        except NotFoundError:
            return False
        return (message.headers or {}).get(MESSAGE_ID) == sent.message_id

    def _give_back(self, stream: _Stream, frames: Iterable[SentFrame]) -> None:
        gone = list(frames)
        if not gone:
            return
        lost = set(map(id, gone))
        stream.sent = [one for one in stream.sent if id(one) not in lost]
        call_ids = _ids(gone)
        diagnostics.count(
            "published_again",
            "the broker may have lost %d of the rows before they were stored: published again",
            len(call_ids),
        )
        if self.on_returned is not None:
            self.on_returned(call_ids)


def _ids(frames: Iterable[SentFrame]) -> list[bytes]:
    return [sent.call_ids[at : at + ID_BYTES] for sent in frames for at in range(0, len(sent.call_ids), ID_BYTES)]
