"""The `Destination` for NATS JetStream: rows go in frames to a broker, and are stored when a shipper has stored them.

`store` returns when the broker has the frames. From then on they are `Unconfirmed`; the spool keeps the rows in the
journal until they are reported as stored, and gives them again where the broker may have lost them. A frame that fails
goes again as the same frame, to the same stream: the broker drops the second of two. A stream that is full or has no
leader is left for the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

# here, and not where they are needed first: that is in a loop, and a fork would come at a bad time
import zstandard as _  # noqa: F401  to be loaded
from nats.js.errors import APIError, NoStreamResponseError

from llmctx.core.diagnostics import diagnostics
from llmctx.core.endpoint import Endpoint
from llmctx.delivery.broker.client import BrokerConnection, BrokerUnavailable, StreamMissing
from llmctx.delivery.broker.frame import MESSAGE_ID, message_id
from llmctx.delivery.broker.packing import RowTooLarge, pack
from llmctx.delivery.broker.topology import Topology
from llmctx.delivery.broker.unconfirmed import SentFrame, Unconfirmed, now_s
from llmctx.delivery.destination import Destination, Failure, Row
from llmctx.settings import Settings
from llmctx.settings.transport_url import TransportUrl

_LOOK_S: Final = 5.0
_LOOK_SOON_S: Final = 0.1
_HEADERS: Final = 512
"""Bytes of a message that are for its headers."""
_SAME_STREAM: Final = 2
"""How often a frame of which the broker says nothing goes to the same stream."""
_FULL: Final = frozenset({10047, 10054, 10077, 10122})
"""Codes of JetStream: the account's or the stream's limits are reached."""


@dataclass(slots=True)
class _Frame:
    call_ids: tuple[bytes, ...]
    data: bytes
    partition: int
    tries: int = 0


class NatsDestination(Destination):
    """The broker that `transport` names."""

    remedy = "run `llmctx migrate --transport`"
    confirms_later: ClassVar[bool] = True
    takes_packed: ClassVar[bool] = True
    divides_batches: ClassVar[bool] = False

    def __init__(self, transport: TransportUrl, settings: Settings) -> None:
        self._transport = transport
        self._topology = Topology(transport)
        self._connection = BrokerConnection(
            transport, connect_s=settings.connect_timeout_s, timeout_s=settings.statement_timeout_s
        )
        self._unconfirmed = Unconfirmed(self._topology, self._connection, transport.max_age)
        self._number = random.randrange(2**16)  # noqa: S311  so that processes do not all begin with the same stream
        self._attempted: list[_Frame] = []
        """Frames of the last batch, which failed: they go again as they were."""
        self._lock = asyncio.Lock()
        self._is_watched = self._is_idle = False

    @property
    def name(self) -> str:  # type: ignore[override]  # it is only read
        """Return the URL, without users and passwords."""
        return self._transport.shown

    @property
    def key(self) -> str:
        """Return a fingerprint of the servers and the prefix."""
        return self._transport.journal_key

    @property
    def endpoint(self) -> Endpoint:
        """Return what is known of the broker without a connection: where one of its servers is the same, it is."""
        return Endpoint(self.name, self._transport.ids)

    def follow(
        self, on_stored: Callable[[Sequence[bytes]], None], on_returned: Callable[[Sequence[bytes]], None]
    ) -> None:
        """Report from now on, to a spool that has published nothing yet."""
        self._unconfirmed.clear()
        self._unconfirmed.on_stored, self._unconfirmed.on_returned = on_stored, on_returned
        self._attempted = []

    # -- publishing -----------------------------------------------------------------------------------------------

    async def prepare(self) -> bool:
        """Connect."""
        async with self._lock:
            await self._connection.open()
        self._is_idle = False
        return False

    @property
    def is_stale(self) -> bool:
        """Return True where there is no connection any more."""
        return not self._connection.is_open

    async def store(self, rows: Sequence[Row]) -> None:
        """Publish `rows`, and wait until the broker has all of them."""
        frames = self._again(rows)
        begun = [asyncio.ensure_future(self._publish(frame)) for frame in frames]
        try:
            done = sum(len(frame.call_ids) for frame in frames)
            limit = self._connection.max_payload - _HEADERS
            for call_ids, data in pack(rows[done:], limit):
                frames.append(_Frame(call_ids, data, self._next_partition()))
                begun.append(asyncio.ensure_future(self._publish(frames[-1])))
                await asyncio.sleep(0)  # compressing takes a millisecond a frame
            results = await asyncio.gather(*begun, return_exceptions=True)
        except BaseException:
            self._attempted = frames
            for one in begun:
                one.cancel()
            await asyncio.gather(*begun, return_exceptions=True)
            raise
        for result in results:
            if isinstance(result, BaseException):
                self._attempted = frames
                raise result
        self._attempted = []
        if self._unconfirmed.on_stored is not None:
            for frame, (sent, is_new) in zip(frames, (one.result() for one in begun), strict=True):
                self._unconfirmed.add(frame.partition, sent, is_new=is_new)

    def _again(self, rows: Sequence[Row]) -> list[_Frame]:
        """Return the frames that failed, as far as their rows are those that come first."""
        again: list[_Frame] = []
        at = 0
        for frame in self._attempted:
            end = at + len(frame.call_ids)
            if tuple(row.record.call_id.bytes for row in rows[at:end]) != frame.call_ids:
                break
            again.append(frame)
            at = end
        return again

    def _next_partition(self) -> int:
        self._number += 1
        return self._topology.partition(self._number)

    async def _publish(self, frame: _Frame) -> tuple[SentFrame, bool]:
        """Publish a frame. Return where it is, and whether it was not there before."""
        partition = frame.partition
        name = message_id(frame.call_ids)
        frame.tries += 1
        try:
            if self._unconfirmed.on_stored is not None:
                await self._unconfirmed.begin(partition)
            ack = await self._connection.jetstream.publish(
                self._topology.subject(partition), frame.data, headers={MESSAGE_ID: name}
            )
        except (APIError, NoStreamResponseError, BrokerUnavailable):  # it is not there
            self._leave_stream(frame)
            raise
        except Exception:
            if frame.tries >= _SAME_STREAM:
                self._leave_stream(frame)
            raise
        if ack.stream != self._topology.stream(partition):
            raise BrokerUnavailable(
                f"the stream {ack.stream} takes {self._topology.subject(partition)}, which llmctx needs"
            )
        return SentFrame(ack.seq, name, b"".join(frame.call_ids), now_s()), not ack.duplicate

    def _leave_stream(self, frame: _Frame) -> None:
        """Have a frame go to another stream next time, as will all that come."""
        if self._topology.partition(self._number) == frame.partition:
            self._number = self._topology.next_partition(self._number)
        frame.partition, frame.tries = self._topology.partition(self._number), 0

    def classify(self, problem: BaseException) -> Failure:
        """Return what `problem` means: all but a row that no message holds is about the broker."""
        name = type(problem).__name__
        text = self._connection.explain(problem).strip().splitlines()[0].removeprefix(f"{self.name}: ")[:300]
        if isinstance(problem, RowTooLarge):
            return Failure("poison", name, text, text)
        if isinstance(problem, NoStreamResponseError):
            why = f"no stream takes rows: it may be without a leader, or missing, then {self.remedy}"
            return Failure("transient", name, why, name)
        if isinstance(problem, StreamMissing):
            return Failure("transient", name, text, name)
        if isinstance(problem, APIError):
            is_full = problem.err_code in _FULL
            text = f"{'it is full: ' if is_full else ''}{problem.description or text}"
            return Failure("transient", str(problem.err_code or name), text, name)
        return Failure("reconnect", name, text, name)

    # -- what becomes of it ---------------------------------------------------------------------------------------

    async def maintain(self) -> None:
        """Ask every few seconds what is stored, until cancelled; let go of a connection that has nothing to do."""
        self._is_watched = True
        try:
            while True:
                await asyncio.sleep(_LOOK_S * (0.8 + 0.4 * random.random()))  # noqa: S311  processes start together
                if self._unconfirmed.frames:
                    await self._look()
                else:
                    async with self._lock:
                        if self._is_idle:
                            await self._connection.close()
        finally:
            self._is_watched = False
            await self._connection.close()

    async def confirm(self, timeout_s: float) -> None:
        """Ask what is stored until all of it is, at most `timeout_s` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._unconfirmed.frames and await self._look():  # noqa: ASYNC110  the broker says nothing by itself
                    await asyncio.sleep(_LOOK_SOON_S)

    async def _look(self) -> bool:
        """Ask once. Return False if the broker does not answer."""
        try:
            async with self._lock:
                await self._connection.open()
            await self._unconfirmed.poll()
        except Exception as problem:  # noqa: BLE001  the rows are in the journal; the next look asks again
            diagnostics.count(
                "broker_away",
                "%s does not report what is stored: %s. The rows are kept.",
                self.name,
                self.classify(problem).text,
            )
            return False
        return True

    # -- its connection -------------------------------------------------------------------------------------------

    async def reset(self, failure: Failure) -> None:
        """Let go of a connection that is of no use."""
        if failure.kind == "reconnect":
            await self._connection.close()

    async def close(self) -> None:
        """Let go of the connection, unless it is still to be asked what is stored."""
        self._is_idle = True
        if not (self._is_watched and self._unconfirmed.frames):
            await self._connection.close()

    def detach(self) -> None:
        """Forget the connection of another loop, or of the parent."""
        self._connection.forget()
        self._unconfirmed.detach()
        self._lock = asyncio.Lock()
