"""`llmctx ship`: store the frames of a broker. Any number of processes may do it, and none is assigned anything.

All share one consumer a stream, so each frame goes to one of them. It is acknowledged when the database has its rows,
and comes again, to whichever asks, when its shipper has died: then the rows meet their keys. Before a frame is
acknowledged of which something can never be stored, that is set aside (`refusals.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError
from llmctx.core.record import CallRecord
from llmctx.delivery.broker import frame, refusals
from llmctx.delivery.broker.client import BrokerConnection
from llmctx.delivery.broker.pull import Puller, StreamAway
from llmctx.delivery.broker.session import transport_of
from llmctx.delivery.broker.tombstones import Tombstones
from llmctx.delivery.broker.topology import ACK_WAIT_S, Topology
from llmctx.delivery.destination import Destination, Row
from llmctx.delivery.intake import Intake, Load
from llmctx.delivery.journal.frames import pack_record
from llmctx.delivery.pace import Pace
from llmctx.delivery.packed_row import read_row
from llmctx.settings import Settings

if TYPE_CHECKING:
    from nats.aio.msg import Msg

_LINGER_S: Final = 0.3
_ROWS: Final = 5000
_FRESH_BYTES: Final = 4 * 1024 * 1024
"""So much may have come and not been unpacked yet, before more is asked for."""
_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 2.0
_PAUSE_S: Final = 0.5
_ANSWER_S: Final = 3.0
"""What is asked of a stream without a leader is never answered, and has to be asked again."""
_LOOK_S: Final = 0.2
_PING_S: Final = 5.0
_PING_PATIENCE_S: Final = 10
_LATER_S: Final = 60.0
"""When what cannot be set aside now is tried again."""
_EMPTY_EVERY_S: Final = 0.2

Key = tuple[str, int, datetime]
"""A message: its stream, its number there, and when it was stored, for a stream that was deleted begins anew."""


class HeldFrame(Load):
    """A message that this process has not acknowledged."""

    def __init__(self, shipper: BrokerShipper, key: Key, birth: datetime | None, message: Msg) -> None:
        self.key = key
        self.stream_created_at = birth
        """Of its stream."""
        self.message = message
        """As it came last: it may come again while it is held."""
        self.decode_error = ""
        """Why it is no frame."""
        self.refused_rows: list[tuple[bytes, str, str]] = []
        """Rows that can never be stored, each with code and reason."""
        self._shipper = shipper

    def on_done(self) -> None:
        """Hand it over to be acknowledged."""
        self._shipper.to_acknowledge.put_nowait(self)


class BrokerShipper:
    """The frames of a broker on their way into `destination`. Belongs to one event loop."""

    def __init__(self, destination: Destination, settings: Settings, reader: str | None = None) -> None:
        """Ship for `llmctx ship`, or for a `reader` beside it, one of `?readers=`, which gets all frames as well.

        Raise `ConfigError` where no broker is set, or no such reader.
        """
        transport = transport_of(settings)
        if reader is not None and reader not in transport.readers:
            raise ConfigError(f"LLMCTX_TRANSPORT names no reader {reader!r}: add readers={reader} to it.")
        self._settings = settings
        self._destination = destination
        self._topology = Topology(transport, reader)
        self._connection = BrokerConnection(transport, connect_s=settings.connect_timeout_s, timeout_s=_ANSWER_S)
        pace = Pace(_LINGER_S, _ROWS)
        self._intake = Intake(destination, settings, self._refuse, room=settings.memory_bytes // 2, pace=pace)
        self._intake.batcher.filter_rows = self._wanted
        self._tombstones = Tombstones(self._topology)
        self._held: dict[Key, HeldFrame] = {}
        self._births: dict[str, datetime | None] = {}
        """When each stream was created."""
        self._ack_wait_s = ACK_WAIT_S
        self._has_asked = asyncio.Event()
        """It is known how long a frame may be held without a word."""
        self._fresh: asyncio.Queue[HeldFrame] = asyncio.Queue()
        self._fresh_bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self.to_acknowledge: asyncio.Queue[HeldFrame] = asyncio.Queue()
        """Frames to be acknowledged."""
        self.frames = 0
        """Those that were acknowledged."""
        self.redelivered = 0
        """Those that had been given to a shipper before."""
        self.refused = 0
        """Rows, and unreadable frames, that were set aside."""
        self.erased = 0
        """Rows of whom was erased while they were under way."""
        self.broker_error: str | None = None
        """Why nothing comes from the broker, in a sentence; None while all is well."""

    @property
    def written(self) -> int:
        """Return the number of rows that the destination has."""
        return self._intake.batcher.written

    @property
    def unacknowledged(self) -> int:
        """Return the number of frames that are not acknowledged."""
        return len(self._held)

    @property
    def last_error(self) -> str | None:
        """Return why rows wait; None while all is well."""
        return self._intake.batcher.last_error or self.broker_error

    async def run(self, stopping: asyncio.Event, *, once: bool = False) -> None:
        """Store what there is, and what comes, until `stopping`; with `once` until nothing is left."""
        writing = [
            asyncio.create_task(self._intake.batcher.run(), name="llmctx-writer"),
            asyncio.create_task(self._destination.maintain(), name="llmctx-maintenance"),
        ]
        reading: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._serve(once=once), name="llmctx-broker"),
            asyncio.create_task(self._unpack(), name="llmctx-frames"),
        ]
        ending = asyncio.create_task(stopping.wait())
        try:
            over, _ = await asyncio.wait({*reading, ending}, return_when=asyncio.FIRST_COMPLETED)
            await _end(reading)
            for task in over:
                task.result()  # raises
            await self._drain()
        finally:
            await _end([*reading, ending, *writing])
            await self._connection.close()

    async def _drain(self) -> None:
        """Store and acknowledge what is held, within the time for it, and give the rest back to others."""
        until = time.monotonic() + self._settings.shutdown_timeout_s
        await self._intake.batcher.drain(max(0.0, until - time.monotonic()))
        with contextlib.suppress(Exception):  # what is not acknowledged comes again
            async with asyncio.timeout(max(1.0, until - time.monotonic())):
                while not self.to_acknowledge.empty():
                    await self._settle(self.to_acknowledge.get_nowait())
                for held in self._held.values():
                    await self._reply(held, b"-NAK")
                await self._connection.client.flush()

    # -- the connection -------------------------------------------------------------------------------------------

    async def _serve(self, *, once: bool) -> None:
        """Take frames, over one connection after another."""
        wait = _FIRST_WAIT_S
        while True:
            try:
                await self._connection.open()
                self.broker_error = None
                wait = _FIRST_WAIT_S
                if await self._session(once=once):
                    return
            except Exception as problem:  # noqa: BLE001  whatever it is, what is held is kept, and it is tried again
                self.broker_error = self._connection.explain(problem)
                diagnostics.count("broker_away", "%s: %s. Rows wait there.", self._topology.where, self.broker_error)
            await self._connection.close()
            await asyncio.sleep(wait * (0.5 + random.random() / 2))  # noqa: S311  so that not all come back at once
            wait = min(wait * 2, _LONGEST_WAIT_S)

    async def _session(self, *, once: bool) -> bool:
        """Take frames until the connection is lost; return True when there are none any more, with `once`."""
        pulling = [self._pull(self._topology.stream(partition)) for partition in range(self._topology.streams)]
        work = (*pulling, self._keep_alive(), self._acknowledge(), self._watch())
        tasks = [asyncio.create_task(one) for one in work]
        emptied = asyncio.create_task(self._emptied() if once else asyncio.Event().wait())
        try:
            over, _ = await asyncio.wait({*tasks, emptied}, return_when=asyncio.FIRST_COMPLETED)
            for task in over:
                task.result()  # raises
            return True
        finally:
            await _end([*tasks, emptied])

    async def _pull(self, stream: str) -> None:
        """Take frames from a stream, also from one that goes and comes again."""
        from nats.js.errors import NotFoundError

        while True:
            try:
                jetstream = self._connection.jetstream
                self._births[stream] = (await jetstream.stream_info(stream)).created
                info = await jetstream.consumer_info(stream, self._topology.consumer)
                self._ack_wait_s = min(self._ack_wait_s, info.config.ack_wait or ACK_WAIT_S)
                self._has_asked.set()
                await Puller(self._connection.client, stream, self._topology.consumer, self._take).run(
                    self._has_room.wait
                )
            except (StreamAway, NotFoundError, TimeoutError) as problem:
                why = (
                    "it does not exist: run `llmctx migrate --transport`"
                    if isinstance(problem, NotFoundError)
                    else self._connection.explain(problem)
                )
                diagnostics.count("broker_stream_away", "stream %s gives nothing: %s.", stream, why)
            await asyncio.sleep(_PAUSE_S * (0.5 + random.random()))  # noqa: S311  as above

    async def _watch(self) -> None:
        """Raise when the connection has ended, or the server does not answer."""
        pinged = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            client = self._connection.client
            if time.monotonic() - pinged > _PING_S:
                await client.flush(_PING_PATIENCE_S)
                pinged = time.monotonic()

    async def _keep_alive(self) -> None:
        """Say of the frames that are held that they are worked on, before they are given to another shipper."""
        await self._has_asked.wait()
        while True:
            await asyncio.sleep(self._ack_wait_s / 3)
            for held in list(self._held.values()):
                await self._reply(held, b"+WPI")

    async def _emptied(self) -> None:
        """Wait until no stream has anything that is not stored."""
        while self._held or await self._waits():  # noqa: ASYNC110  no event tells of what others hold
            await asyncio.sleep(_EMPTY_EVERY_S)

    async def _waits(self) -> bool:
        for partition in range(self._topology.streams):
            info = await self._connection.jetstream.consumer_info(
                self._topology.stream(partition), self._topology.consumer
            )
            if info.num_pending or info.num_ack_pending:
                return True
        return False

    # -- frames ---------------------------------------------------------------------------------------------------

    def _take(self, message: Msg) -> None:
        """Hold a message that has come."""
        about = message.metadata
        key = about.stream, about.sequence.stream, about.timestamp
        self.redelivered += about.num_delivered > 1
        if (held := self._held.get(key)) is not None:
            held.message = message
            return
        self._held[key] = held = HeldFrame(self, key, self._births[about.stream], message)
        self._fresh.put_nowait(held)
        self._weigh(len(message.data))

    def _weigh(self, size: int) -> None:
        self._fresh_bytes += size
        if self._fresh_bytes < _FRESH_BYTES:
            self._has_room.set()
        else:
            self._has_room.clear()

    async def _unpack(self) -> None:
        """Hand the rows of frames over to the batcher, as it has room."""
        while True:
            held = await self._fresh.get()
            data = held.message.data
            rows: list[Row] = []
            try:
                for payload in frame.decode(data):
                    try:
                        rows.append(read_row(payload))
                    except Exception as problem:  # noqa: BLE001  a reader believes nothing
                        held.refused_rows.append((payload, refusals.UNREADABLE, str(problem)))
            except Exception as problem:  # noqa: BLE001  as above
                rows.clear()
                held.decode_error = str(problem) or type(problem).__name__
                diagnostics.count("frame_unreadable", "a frame is set aside: %s", held.decode_error)
            await self._intake.put(rows, held)
            self._weigh(-len(data))

    async def _wanted(self, rows: list[Row]) -> list[Row]:
        """Return those of `rows` whose users and sessions were not erased; wait for the broker, which knows."""
        while True:
            try:
                await self._tombstones.refresh(self._connection.jetstream)
            except Exception:  # noqa: BLE001  the connection's own task says why it is away
                await asyncio.sleep(_PAUSE_S)
            else:
                break
        if not self._tombstones:
            return rows
        wanted = [row for row in rows if not self._tombstones.cover(row.record)]
        self.erased += len(rows) - len(wanted)
        return wanted

    def _refuse(self, record: CallRecord, code: str, reason: str) -> bool:
        """Note that the destination will never take a row: it is set aside before its frame is acknowledged."""
        for load in self._intake.loads_of(record):
            if isinstance(load, HeldFrame):
                load.refused_rows.append((pack_record(record), code, reason))
        return True

    async def _acknowledge(self) -> None:
        """Acknowledge frames whose rows are stored, and set aside what can never be."""
        while True:
            held = await self.to_acknowledge.get()
            try:
                await self._settle(held)
            except BaseException:
                self.to_acknowledge.put_nowait(held)  # over the next connection
                raise

    async def _settle(self, held: HeldFrame) -> None:
        from nats.errors import MaxPayloadError
        from nats.js.errors import APIError, NoStreamResponseError

        if held.stream_created_at != self._births.get(held.key[0]):  # its number is another frame's now
            del self._held[held.key]
            return
        try:
            await self._set_aside(held)
        except (APIError, NoStreamResponseError, MaxPayloadError) as problem:
            diagnostics.count(
                "quarantine_failed",
                "rows that the database refuses cannot be set aside in %s: %s. They are delivered again.",
                self._topology.refused_stream,
                problem,
            )
            await self._reply(held, b'-NAK {"delay": %d}' % (_LATER_S * 10**9))
        else:
            await self._reply(held, b"+ACK")
            self.frames += 1
            self.refused += len(held.refused_rows) + bool(held.decode_error)
        del self._held[held.key]

    async def _set_aside(self, held: HeldFrame) -> None:
        streams = self._connection.jetstream
        if held.decode_error:
            await refusals.keep_frame(streams, self._topology, held.message.data, held.decode_error)
        rows = [refusals.keep_row(streams, self._topology, *row) for row in held.refused_rows]
        await asyncio.gather(*rows)

    async def _reply(self, held: HeldFrame, words: bytes) -> None:
        await self._connection.client.publish(held.message.reply, words)


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel `tasks` until all have ended: the client library swallows a cancellation now and then."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_PAUSE_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # or it would be logged as one that was never asked for
