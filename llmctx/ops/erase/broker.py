"""The broker's part of `erase`: frames under way, which shippers leave out from now, and what was set aside."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

from llmctx.delivery.broker import refusals
from llmctx.delivery.broker.client import BrokerConnection
from llmctx.delivery.broker.lag import fetch_lag
from llmctx.delivery.broker.refusals import RefusedMessage
from llmctx.delivery.broker.session import open_broker
from llmctx.delivery.broker.tombstones import Tombstone, set_tombstone
from llmctx.delivery.broker.topology import Topology
from llmctx.ops.erase.subject import SubjectIds
from llmctx.settings import Settings

_MARGIN_S: Final = 2.0


async def count(settings: Settings, subject_ids: SubjectIds) -> int:
    """Return how many messages are set aside that are theirs. Raise `LlmctxError` where the broker is away."""
    async with open_broker(settings) as (connection, topology):
        views = (topology, *topology.readers)
        return sum([len(await _refused_of(connection, view, subject_ids)) for view in views])


async def hold_back(settings: Settings, subject_ids: SubjectIds, wait_s: float) -> None:
    """Let shippers leave out their rows from now on.

    Those that have begun to store a batch are waited for, at most `wait_s` seconds: the table is searched afterwards.
    """
    async with open_broker(settings) as (connection, topology):
        subject = subject_ids.subject
        tombstone = Tombstone(subject.user, subject.session, datetime.now(UTC), subject_ids.own)
        await set_tombstone(connection.jetstream, topology, tombstone)
        lag = await fetch_lag(connection, topology)
        if lag.sum("in_hand"):
            await asyncio.sleep(min(wait_s, settings.statement_timeout_s + _MARGIN_S))


async def erase(settings: Settings, subject_ids: SubjectIds) -> None:
    """Remove what is set aside of theirs."""
    async with open_broker(settings) as (connection, topology):
        for view in (topology, *topology.readers):
            theirs = await _refused_of(connection, view, subject_ids)
            await refusals.remove(connection.jetstream, view, [one.sequence for one in theirs])


async def _refused_of(
    connection: BrokerConnection, topology: Topology, subject_ids: SubjectIds
) -> list[RefusedMessage]:
    return [one async for one in refusals.read(connection.jetstream, topology) if _is_theirs(one, subject_ids)]


def _is_theirs(one: RefusedMessage, subject_ids: SubjectIds) -> bool:
    try:
        records = one.records()
    except ValueError:  # it cannot be told whose it is
        return False
    names = ("user_id", "session_id", *subject_ids.own)
    return any(subject_ids.are_in({name: getattr(record, name) for name in names}) for record in records)
