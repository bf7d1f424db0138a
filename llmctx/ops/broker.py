"""The broker's streams: how far shippers are behind, and what was set aside; and how that is stored after all."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from llmctx.core.errors import LlmctxError
from llmctx.core.record import CallRecord
from llmctx.delivery.broker import refusals
from llmctx.delivery.broker.lag import Lag, fetch_lag
from llmctx.delivery.broker.refusals import RefusedMessage
from llmctx.delivery.broker.session import open_broker
from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.delivery.replay import store_records
from llmctx.settings import Settings

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class BrokerReport:
    """The content of the broker's streams."""

    lag: Lag
    refused: list[RefusedMessage]
    """What was set aside, oldest first."""


def inspect(settings: Settings) -> BrokerReport | str | None:
    """Return what lies on the broker; a sentence where it does not answer, None where none is set."""
    if settings.transport_url is None:
        return None
    try:
        return asyncio.run(_inspect(settings))
    except LlmctxError as problem:
        return str(problem)


async def _inspect(settings: Settings) -> BrokerReport:
    async with open_broker(settings) as (connection, topology):
        lag = await fetch_lag(connection, topology)
        letters = [one async for one in refusals.read(connection.jetstream, topology)] if lag.refused else []
        return BrokerReport(lag, letters)


def replay(settings: Settings, letters: list[RefusedMessage]) -> tuple[int, int]:
    """Store what was set aside. Return how many rows were stored, and how many messages stay there.

    Raise `DatabaseUnavailable` if the database or the broker is away; what is stored is not given up again.
    """
    return asyncio.run(_replay(settings, letters))


async def _replay(settings: Settings, letters: list[RefusedMessage]) -> tuple[int, int]:
    stored = left = 0
    async with open_broker(settings) as (connection, topology):
        for at in range(0, len(letters), _AT_ONCE):
            some = letters[at : at + _AT_ONCE]
            rows = {one.sequence: _rows(one) for one in some}
            records = {record.call_id: record for found in rows.values() for record in found}
            again = await store_records(SqlDestination(settings), settings, list(records.values()), lambda *_: True)
            over = [
                sequence for sequence, found in rows.items() if found and not any(row.call_id in again for row in found)
            ]
            await refusals.remove(connection.jetstream, topology, over)
            stored += len(records) - len(again)
            left += len(some) - len(over)
    return stored, left


def _rows(one: RefusedMessage) -> list[CallRecord]:
    """Return the rows of a message; none where it cannot be read."""
    try:
        return one.records()
    except ValueError:
        return []
