"""The streams and consumers that there are, with their configuration.

Rows are spread over some streams, each led by one server of the cluster: order does not matter, for each row is stored
once and is independent of others. No key chooses the stream, so none can be hot. `llmctx migrate --transport` makes
what is described here; applications and shippers only name it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmctx.settings.transport_url import TransportUrl

if TYPE_CHECKING:
    from nats.js.api import ConsumerConfig, StreamConfig

CONSUMER: Final = "ship"
"""The durable consumer of each stream, shared by all shippers."""
ACK_WAIT_S: Final = 60.0
"""A frame that a shipper has had for so long without a word comes to another one."""
MAX_ACK_PENDING: Final = 1000
"""Frames of a stream that shippers may have in hand together: the back-pressure."""
DUPLICATE_WINDOW_S: Final = 120.0
"""For so long the broker recognises a frame that is sent again."""
REFUSED_DAYS: Final = 30
_ERASED_BYTES: Final = 64 * 1024 * 1024
_ERASED_LONGER_S: Final = 86_400
_RUN: Final = 16
"""Frames of a process that follow one another into the same stream: so a process with few calls has few streams to ask
how far they are."""


class Topology:
    """The names and the configuration of what belongs to one deployment."""

    def __init__(self, transport: TransportUrl, reader: str | None = None) -> None:
        """Take the view of `llmctx ship`, or of a `reader` beside it, which has what it refuses for itself."""
        self._transport = transport
        self._name = transport.prefix.upper()
        self.where = transport.shown
        """The broker, without passwords."""
        self.streams = transport.streams
        self.consumer = reader or CONSUMER
        self.refused_stream = f"{self._name}_REFUSED{f'_{reader.upper()}' if reader else ''}"
        self.refused_subject = f"{transport.prefix}.refused{f'.{reader}' if reader else ''}"
        self.erased_stream = f"{self._name}_ERASED"
        self.erased_subject = f"{transport.prefix}.erased"

    @property
    def readers(self) -> list[Topology]:
        """Return the view of each reader beside `llmctx ship`."""
        return [Topology(self._transport, reader) for reader in self._transport.readers]

    def partition(self, number: int) -> int:
        """Return the stream for the frame of this number."""
        return number // _RUN % self.streams

    def next_partition(self, number: int) -> int:
        """Return the first number behind `number` whose frame goes to another stream."""
        return (number // _RUN + 1) * _RUN

    def stream(self, partition: int) -> str:
        """Return the name of a stream."""
        return f"{self._name}_CALLS_{partition}"

    def subject(self, partition: int) -> str:
        """Return the subject of a stream."""
        return f"{self._transport.prefix}.calls.{partition}"

    def stream_config(self, partition: int, replicas: int = 1) -> StreamConfig:
        """Return how a stream of frames is to be: what is acknowledged goes, and what does not fit is refused.

        With readers beside `llmctx ship` a frame goes when all have acknowledged it. A stream can neither be purged nor
        its messages be deleted by hand: they would pass for stored.
        """
        from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

        return StreamConfig(
            name=self.stream(partition),
            description="Rows of LLM calls on their way to the database (llmctx)",
            subjects=[self.subject(partition)],
            retention=RetentionPolicy.INTEREST if self._transport.readers else RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_bytes=max(1, self._transport.max_bytes // self.streams),
            max_age=self._transport.max_age,
            duplicate_window=min(DUPLICATE_WINDOW_S, self._transport.max_age),
            num_replicas=self._transport.replicas or replicas,
            deny_delete=True,
            deny_purge=True,
        )

    def consumer_config(self) -> ConsumerConfig:
        """Return how the consumer of each stream is to be."""
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        return ConsumerConfig(
            durable_name=self.consumer,
            description="llmctx ship" if self.consumer == CONSUMER else "A reader beside llmctx ship",
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            max_deliver=-1,
            max_ack_pending=MAX_ACK_PENDING,
        )

    def refused_config(self, replicas: int = 1) -> StreamConfig:
        """Return how the stream of what the database refuses is to be: `llmctx journal replay` reads it."""
        from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

        return StreamConfig(
            name=self.refused_stream,
            description="Rows of LLM calls that the database refuses (llmctx)",
            subjects=[self.refused_subject],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_bytes=max(1, self._transport.max_bytes // self.streams),
            max_age=REFUSED_DAYS * 86_400,
            duplicate_window=DUPLICATE_WINDOW_S,
            num_replicas=self._transport.replicas or replicas,
        )

    def erased_config(self, replicas: int = 1) -> StreamConfig:
        """Return how the stream of tombstones is to be: one stays until no frame is left that is older."""
        from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

        return StreamConfig(
            name=self.erased_stream,
            description="Who was erased while rows of LLM calls were under way (llmctx)",
            subjects=[self.erased_subject],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_bytes=_ERASED_BYTES,
            max_age=self._transport.max_age + _ERASED_LONGER_S,
            duplicate_window=DUPLICATE_WINDOW_S,
            num_replicas=self._transport.replicas or replicas,
        )
