"""Pull requests: they ask the consumer of a stream for messages, one request after another, as long as there is room.

`fetch` of the client library holds messages back until a request is full or over; here each comes at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

_MESSAGES: Final = 32
_BYTES: Final = 512 * 1024
_EXPIRES_S: Final = 20
_BEAT_S: Final = 5
_SILENCE_S: Final = 12.0
"""Without a heartbeat for so long, a request is over: its server has gone."""
_DRAIN_S: Final = 2.0
_STATUS: Final = "Status"
_WORDS: Final = "Description"
_BEAT: Final = "100"
_OVER: Final = ("404", "408")
"""There was nothing, or not enough, until the request expired."""
_COMPLETED: Final = "batch completed"
"""As many came as the bytes of a request allow."""
_TOO_LARGE: Final = "message size exceeds maxbytes"


class StreamAway(Exception):
    """Raised when a stream, or its consumer, has gone, or gets another leader."""


class Puller:
    """The requests to one stream's consumer. Belongs to one connection."""

    def __init__(self, client: Client, stream: str, consumer: str, take: Callable[[Msg], object]) -> None:
        """Call `take` with each message."""
        self._client = client
        self._stream = stream
        self._take = take
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._signs = asyncio.Event()
        self._wanted = 0
        self._received = 0
        self._status = ""
        self._is_large = False
        """The next message is larger than a request usually takes."""

    async def run(self, has_room: Callable[[], Awaitable[object]]) -> None:
        """Ask until cancelled, after each time that `has_room` returns.

        Raise `StreamAway`, or what the client library raises.
        """
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, cb=self._hear)
        try:
            while True:
                await has_room()
                await self._request(inbox)
        finally:
            # what was on its way to us is taken: it would come to others only after a while
            draining = asyncio.create_task(subscription.drain())  # type: ignore[no-untyped-call]  # left bare there
            draining.add_done_callback(lambda task: task.cancelled() or task.exception())
            # never cancelled: the answer to its ping would end the client's reader
            await asyncio.wait({draining}, timeout=_DRAIN_S if self._client.is_connected else 0)

    async def _request(self, inbox: str) -> None:
        wanted = {"batch": 1} if self._is_large else {"batch": _MESSAGES, "max_bytes": _BYTES}
        self._wanted, self._received, self._status = wanted["batch"], 0, ""
        request = {**wanted, "expires": _EXPIRES_S * 10**9, "idle_heartbeat": _BEAT_S * 10**9}
        await self._client.publish(self._subject, json.dumps(request).encode(), reply=inbox)
        try:
            while self._received < self._wanted and not self._status:
                self._signs.clear()
                async with asyncio.timeout(_SILENCE_S):
                    await self._signs.wait()
        except TimeoutError:
            raise StreamAway("it does not answer") from None
        words = self._status.lower()
        self._is_large = _TOO_LARGE in words and not self._received
        if self._status.startswith(_OVER) or _COMPLETED in words or self._is_large or self._received:
            return
        if self._status:
            raise StreamAway(self._status)

    async def _hear(self, message: Msg) -> None:
        status = (message.headers or {}).get(_STATUS)
        if status is None or message.reply.startswith("$JS.ACK"):
            self._received += 1
            self._take(message)
        elif status != _BEAT:
            self._status = f"{status} {(message.headers or {}).get(_WORDS, '')}".strip()
        self._signs.set()
