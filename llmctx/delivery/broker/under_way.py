"""The rows that lie in the streams of frames, for a reader that takes none away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from llmctx.core.record import CallRecord
from llmctx.delivery.broker import frame
from llmctx.delivery.broker.topology import Topology
from llmctx.delivery.packed_row import read_row

if TYPE_CHECKING:
    from nats.js import JetStreamContext


async def rows_under_way(jetstream: JetStreamContext, topology: Topology) -> AsyncIterator[CallRecord]:
    """Yield the rows that are in the streams now, also those that shippers have in hand.

    What cannot be read is left out. Raise what the client library raises.
    """
    for partition in range(topology.streams):
        async for data in _messages(jetstream, topology.stream(partition), topology.subject(partition)):
            try:
                payloads = frame.decode(data)
            except Exception:  # noqa: BLE001, S112  a reader believes nothing: shippers set it aside
                continue
            for payload in payloads:
                try:
                    record = read_row(payload).record
                except Exception:  # noqa: BLE001, S112  as above
                    continue
                yield record


async def _messages(jetstream: JetStreamContext, stream: str, subject: str) -> AsyncIterator[bytes]:
    """Yield the messages that a stream has now, the oldest first."""
    from nats.js.errors import NotFoundError

    try:
        state = (await jetstream.stream_info(stream)).state
        number = max(1, state.first_seq)
        while number <= state.last_seq:
            message = await jetstream.get_msg(stream, seq=number, subject=subject, next=True)
            yield message.data or b""
            number = (message.seq or number) + 1
    except NotFoundError:  # no stream, or no message any more
        return
