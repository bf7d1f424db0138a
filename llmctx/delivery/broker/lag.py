"""The lag of the shippers: what waits in each stream, for how long, what is in hand, and what came again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from llmctx.core.errors import LlmctxError
from llmctx.core.text import counted
from llmctx.delivery.broker.client import BrokerConnection
from llmctx.delivery.broker.session import ANSWER_S, open_broker
from llmctx.delivery.broker.topology import CONSUMER, Topology
from llmctx.settings import Settings

_NOT_THERE: Final = (10059, 10014)
"""No such stream, no such consumer."""


@dataclass(frozen=True, slots=True)
class StreamLag:
    """The lag of one stream, in frames."""

    stream: str
    waiting: int
    """Frames that no shipper has."""
    in_hand: int
    """Frames that a shipper has, and has not acknowledged."""
    redelivered: int
    """Of those, such as another shipper had before."""
    bytes: int
    oldest: datetime | None
    """When the oldest of them was published."""
    shippers: int
    """Requests that wait for frames: 0 while no shipper asks for any."""


@dataclass(frozen=True, slots=True)
class Lag:
    """The lag of all streams of the broker."""

    transport: str
    """The broker, without passwords."""
    streams: list[StreamLag] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Streams that are not there, or have no consumer."""
    refused: int = 0
    """Messages that are set aside."""

    def sum(self, what: str) -> int:
        """Return the sum of a figure over all streams."""
        return sum(getattr(one, what) for one in self.streams)

    @property
    def oldest(self) -> datetime | None:
        """Return when the oldest frame was published that is not stored."""
        return min((one.oldest for one in self.streams if one.oldest is not None), default=None)

    @property
    def oldest_s(self) -> float:
        """Return the age of the oldest frame, in seconds; 0 if there is none."""
        return 0.0 if self.oldest is None else max(0.0, (datetime.now(UTC) - self.oldest).total_seconds())

    @property
    def description(self) -> str:
        """Return it in words."""
        waiting, in_hand = self.sum("waiting"), self.sum("in_hand")
        if not waiting and not in_hand:
            return "no frames wait in the broker"
        again = self.sum("redelivered")
        more = f", {again:,} of them for the second time" if again else ""
        return (
            f"{counted(waiting, 'frame waits', 'frames wait')} in the broker, "
            f"{counted(in_hand, 'is', 'are')} being stored{more}; "
            f"the oldest is {self.oldest_s:,.0f} s old"
        )


async def fetch_lag(connection: BrokerConnection, topology: Topology) -> Lag:
    """Return what waits. Raise what the client library raises."""
    streams: list[StreamLag] = []
    missing: list[str] = []
    for partition in range(topology.streams):
        name = topology.stream(partition)
        # `stream_info` of the client library leaves out the times
        stream = await _ask(connection, f"STREAM.INFO.{name}")
        consumer = await _ask(connection, f"CONSUMER.INFO.{name}.{CONSUMER}") if stream else None
        if stream is None or consumer is None:
            missing.append(name)
        else:
            streams.append(_lag(name, stream["state"], consumer))
    refused = await _ask(connection, f"STREAM.INFO.{topology.refused_stream}")
    if refused is None:
        missing.append(topology.refused_stream)
    return Lag(topology.where, streams, missing, 0 if refused is None else refused["state"]["messages"])


def _lag(name: str, state: dict[str, Any], consumer: dict[str, Any]) -> StreamLag:
    return StreamLag(
        name,
        consumer["num_pending"],
        consumer["num_ack_pending"],
        consumer["num_redelivered"],
        state["bytes"],
        datetime.fromisoformat(state["first_ts"]) if state["messages"] else None,
        consumer["num_waiting"],
    )


async def _ask(connection: BrokerConnection, what: str) -> dict[str, Any] | None:
    from nats.js.errors import APIError

    answer = json.loads((await connection.client.request(f"$JS.API.{what}", b"", timeout=ANSWER_S)).data)
    if error := answer.get("error"):
        if error.get("err_code") in _NOT_THERE:
            return None
        raise APIError.from_error(error)
    return dict(answer)


async def lag_of(settings: Settings) -> Lag | str | None:
    """Return what waits in the broker of `settings`; a sentence where it does not answer, None where none is set."""
    if settings.transport_url is None:
        return None
    try:
        async with open_broker(settings) as (connection, topology):
            return await fetch_lag(connection, topology)
    except LlmctxError as problem:
        return str(problem)
