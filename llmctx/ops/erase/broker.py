"""The broker's part of `erase`: rows under way, which shippers leave out from now, and what was set aside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from llmctx.core.record import LINKS, CallRecord
from llmctx.delivery.broker import refusals
from llmctx.delivery.broker.client import BrokerConnection
from llmctx.delivery.broker.lag import fetch_lag
from llmctx.delivery.broker.refusals import RefusedMessage
from llmctx.delivery.broker.session import open_broker
from llmctx.delivery.broker.tombstones import Tombstone, set_tombstone
from llmctx.delivery.broker.topology import Topology
from llmctx.delivery.broker.under_way import rows_under_way
from llmctx.ops.erase.subject import Subject, SubjectIds
from llmctx.settings import Settings

_MARGIN_S: Final = 2.0
_TELLING: Final = tuple(dict.fromkeys(("user_id", "session_id", *LINKS, "identity_reason")))


async def links(settings: Settings, subject: Subject) -> dict[str, set[str]]:
    """Return the sessions, threads, … of rows of theirs that lie on the broker: no table and no journal may name them.

    Raise `LlmctxError` where the broker is away, as all that follow.
    """
    found: dict[str, set[str]] = {}
    subject_ids = SubjectIds(subject)
    async for columns in _rows(settings):
        subject_ids.note_links(found, columns)
    return found


async def drop_shared(settings: Settings, subject_ids: SubjectIds) -> None:
    """Take out of their own ids those that a row of another has, which lies on the broker."""
    if any(subject_ids.own.values()):
        async for columns in _rows(settings):
            subject_ids.drop_shared(columns)


async def count_under_way(settings: Settings, subject_ids: SubjectIds) -> int:
    """Return how many rows are theirs that shippers are still to store."""
    async with open_broker(settings) as (connection, topology):
        rows = rows_under_way(connection.jetstream, topology)
        return sum([subject_ids.are_in(_columns(record)) async for record in rows])


async def _rows(settings: Settings) -> AsyncIterator[Mapping[str, Any]]:
    """Yield of each row on the broker what tells whose it is."""
    async with open_broker(settings) as (connection, topology):
        async for record in rows_under_way(connection.jetstream, topology):
            yield _columns(record)
        for view in (topology, *topology.readers):
            async for one in refusals.read(connection.jetstream, view):
                for record in _records(one):
                    yield _columns(record)


def _columns(record: CallRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _TELLING}


def _records(one: RefusedMessage) -> list[CallRecord]:
    """Return the rows of a message; none where it cannot be told whose it is."""
    try:
        return one.records()
    except ValueError:
        return []


async def count(settings: Settings, subject_ids: SubjectIds) -> int:
    """Return how many messages are set aside that are theirs."""
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
    return any(subject_ids.are_in(_columns(record)) for record in _records(one))
