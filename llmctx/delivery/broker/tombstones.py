"""Tombstones of users erased while rows were under way: shippers leave out such rows, while the broker keeps any.

A tombstone is a message in a stream of its own, which forgets it when no older frame is left. It says until when rows
are meant: calls that are made afterwards are stored. A broker that has lost its store gets them back from
shippers that have read them, as it gets rows back from journals.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final

from llmctx.core.record import CallRecord
from llmctx.delivery.broker.frame import MESSAGE_ID, message_id
from llmctx.delivery.broker.topology import Topology
from llmctx.storage.erasure import is_theirs

if TYPE_CHECKING:
    from nats.js import JetStreamContext

_IDS: Final = 2000
"""So many of a subject's own ids go into one message."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A user or session whose rows are not to be stored."""

    user: str | None
    session: str | None
    until: datetime
    """Rows of calls that began later are stored."""
    own: Mapping[str, Collection[str]] = field(default_factory=dict)
    """By column: sessions, threads, … that only they have used, of rows without a user."""

    def covers(self, record: CallRecord) -> bool:
        """Return whether the row of `record` is not to be stored."""
        value_of = partial(getattr, record)
        return record.created_at < self.until and is_theirs(value_of, self.user, self.session, self.own)

    def parts(self) -> Iterator[Tombstone]:
        """Yield what says the same in messages of a bounded size."""
        every = [(name, one) for name, values in self.own.items() for one in sorted(values)]
        for at in range(0, max(1, len(every)), _IDS):
            own: dict[str, list[str]] = {}
            for name, one in every[at : at + _IDS]:
                own.setdefault(name, []).append(one)
            yield Tombstone(self.user, self.session, self.until, own)

    def as_bytes(self) -> bytes:
        """Return it as JSON."""
        own = {name: sorted(values) for name, values in self.own.items()}
        return json.dumps(
            {"user": self.user, "session": self.session, "until": self.until.isoformat(), "own": own}
        ).encode()


def tombstone_of(data: bytes) -> Tombstone | None:
    """Return the tombstone in a message; None for what is none."""
    try:
        said = json.loads(data)
        own = {str(name): frozenset(map(str, values)) for name, values in said["own"].items()}
        if said["user"] is None and said["session"] is None:
            return None
        return Tombstone(said["user"], said["session"], datetime.fromisoformat(said["until"]).astimezone(UTC), own)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


async def set_tombstone(jetstream: JetStreamContext, topology: Topology, tombstone: Tombstone) -> None:
    """Tell all shippers. Raise what the client library raises."""
    for part in tombstone.parts():
        data = part.as_bytes()
        await jetstream.publish(topology.erased_subject, data, headers={MESSAGE_ID: message_id([data])})


class Tombstones:
    """The tombstones that there are, as a shipper knows them."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._birth: datetime | None = None
        self._read: dict[int, Tombstone] = {}
        self._of_lost_stores: dict[bytes, Tombstone] = {}
        self._last = 0
        self._until = datetime.min.replace(tzinfo=UTC)
        """Rows of later calls are covered by none."""

    async def refresh(self, jetstream: JetStreamContext) -> None:
        """Read what has come, and forget what is over. Raise what the client library raises."""
        from nats.js.errors import NotFoundError

        try:
            info = await jetstream.stream_info(self._topology.erased_stream)
        except NotFoundError:  # made by an older version: no tombstone can be set
            return
        if info.created != self._birth:
            self._of_lost_stores |= {one.as_bytes(): one for one in self._read.values()}
            self._birth, self._last = info.created, 0
            self._read.clear()
            with contextlib.suppress(Exception):  # it may not be allowed: then this shipper alone knows them
                for one in self._of_lost_stores.values():
                    await set_tombstone(jetstream, self._topology, one)
        state = info.state
        for number in range(max(self._last + 1, state.first_seq), state.last_seq + 1):
            try:
                message = await jetstream.get_msg(self._topology.erased_stream, seq=number)
            except NotFoundError:
                continue
            if (tombstone := tombstone_of(message.data or b"")) is not None:
                self._read[number] = tombstone
                self._until = max(self._until, tombstone.until)
        self._last = state.last_seq
        for number in [number for number in self._read if number < state.first_seq]:
            del self._read[number]

    def __bool__(self) -> bool:
        return bool(self._read or self._of_lost_stores)

    def cover(self, record: CallRecord) -> bool:
        """Return whether the row of `record` is not to be stored."""
        return record.created_at < self._until and any(
            one.covers(record) for one in chain(self._read.values(), self._of_lost_stores.values())
        )
