"""The stream of what is set aside: rows that the database refuses, and frames that cannot be read, with the reason.

`llmctx journal` shows them, and `llmctx journal replay` stores them once their cause is gone.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from llmctx.core.record import CallRecord
from llmctx.delivery.broker import frame
from llmctx.delivery.broker.topology import Topology
from llmctx.delivery.journal.frames import ID_BYTES
from llmctx.delivery.packed_row import read_row

if TYPE_CHECKING:
    from nats.js import JetStreamContext

UNREADABLE: Final = "unreadable"
"""The code of a frame or a row that cannot be read."""
_HEADER: Final = "Llmctx-Refused"
_LONGEST: Final = 500
_AT_ONCE: Final = 100
_FORGET_S: Final = 60.0
_PATIENCE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class RefusedMessage:
    """A message that is set aside."""

    sequence: int
    """Of the stream."""
    data: bytes
    """A frame: of one row, or as it came."""
    code: str
    reason: str
    at: datetime

    def records(self) -> list[CallRecord]:
        """Return its rows. Raise ValueError as long as it cannot be read."""
        return [read_row(payload).record for payload in frame.decode(self.data)]


async def keep_row(jetstream: JetStreamContext, topology: Topology, payload: bytes, code: str, reason: str) -> None:
    """Set a row aside, and wait until the broker has it. Raise what the client library raises."""
    await _keep(jetstream, topology, frame.encode([payload]), frame.message_id([payload[:ID_BYTES]]), code, reason)


async def keep_frame(jetstream: JetStreamContext, topology: Topology, data: bytes, reason: str) -> None:
    """Set a message aside that is no frame, as `keep_row` does."""
    await _keep(jetstream, topology, data, frame.message_id([data]), UNREADABLE, reason)


async def _keep(
    jetstream: JetStreamContext, topology: Topology, data: bytes, identity: str, code: str, reason: str
) -> None:
    about = {"code": code, "reason": reason[:_LONGEST], "at": datetime.now(UTC).isoformat()}
    headers = {_HEADER: json.dumps(about), frame.MESSAGE_ID: f"refused-{identity}"}  # ASCII, in one line
    await jetstream.publish(topology.refused_subject, data, headers=headers)


async def read(jetstream: JetStreamContext, topology: Topology) -> AsyncIterator[RefusedMessage]:
    """Yield what is set aside, oldest first."""
    from nats.js.api import AckPolicy, ConsumerConfig

    state = (await jetstream.stream_info(topology.refused_stream)).state
    if not state.messages:
        return
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=_FORGET_S)
    messages = await jetstream.pull_subscribe(topology.refused_subject, stream=topology.refused_stream, config=config)
    try:
        left = state.messages
        while left > 0:
            for message in await messages.fetch(min(_AT_ONCE, left), timeout=_PATIENCE_S):
                left -= 1
                about = message.metadata
                yield _read(about.sequence.stream, message.data, (message.headers or {}).get(_HEADER), about.timestamp)
    except TimeoutError:  # another one has removed some meanwhile
        return
    finally:
        await messages.unsubscribe()


def _read(sequence: int, data: bytes, header: str | None, at: datetime) -> RefusedMessage:
    try:
        about = json.loads(header or "")
        return RefusedMessage(sequence, data, str(about["code"]), str(about["reason"]), at)
    except (ValueError, KeyError, TypeError):  # put there by another hand
        return RefusedMessage(sequence, data, UNREADABLE, "", at)


async def remove(jetstream: JetStreamContext, topology: Topology, sequences: Sequence[int]) -> None:
    """Remove what is stored now, or not wanted."""
    from nats.js.errors import NotFoundError

    for sequence in sequences:
        try:
            await jetstream.delete_msg(topology.refused_stream, sequence)
        except NotFoundError:  # another one has removed it
            continue
