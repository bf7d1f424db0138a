"""Rows that wait on disk, stored on demand: dead letters once their cause is gone, and journals of dead processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from uuid import UUID

from llmctx.core.endpoint import Endpoint
from llmctx.core.errors import DatabaseUnavailable
from llmctx.core.record import CallRecord, use_thread_as_session
from llmctx.delivery.batcher import Batcher
from llmctx.delivery.destination import Destination
from llmctx.delivery.journal import Journal
from llmctx.settings import Settings

_AT_ONCE = 500
_PATIENCE_S = 30.0


def replay(
    destination: Destination,
    settings: Settings,
    journal: Journal,
    of: Callable[[Endpoint], bool] = lambda endpoint: True,
) -> tuple[int, int, int]:
    """Store the dead letters, and what dead processes left, in the directory of `journal`, as far as these rows go to
    places for which `of` returns True.

    Return how many dead letters were stored, how many were refused again (they stay), and how many rows of dead
    processes were stored. Raise `DatabaseUnavailable` if the destination does not take them in time; what is stored is
    not given up again.
    """
    return asyncio.run(_replay(destination, settings, journal, of))


async def _replay(
    destination: Destination, settings: Settings, journal: Journal, of: Callable[[Endpoint], bool]
) -> tuple[int, int, int]:
    letters = {one.record.call_id: one.record for one in journal.dead_letters.read() if of(one.endpoint)}
    again = await store_records(destination, settings, list(letters.values()), keep=lambda *_: True)
    stored = [call_id for call_id in letters if call_id not in again]
    if stored:
        journal.dead_letters.remove(stored)
    recovered = 0
    for dead in journal.recover(lambda endpoint, _: of(endpoint)):
        with dead:
            rows = list(dead.rows())
            if settings.session == "thread":
                rows = [use_thread_as_session(row) for row in rows]
            await store_records(destination, settings, rows, keep=journal.dead_letters.append)
            dead.finish()
            recovered += len(rows)
    return len(stored), len(again), recovered


async def store_records(
    destination: Destination,
    settings: Settings,
    records: Sequence[CallRecord],
    keep: Callable[[CallRecord, str, str], bool],
) -> set[UUID]:
    """Store `records`. Return the call ids of those that the destination refuses."""
    batcher = Batcher(destination, settings)
    refused: set[UUID] = set()

    def on_rejected(record: CallRecord, code: str, reason: str) -> bool:
        refused.add(record.call_id)
        return keep(record, code, reason)

    batcher.on_rejected = on_rejected
    running = asyncio.create_task(batcher.run())
    try:
        for at in range(0, len(records), _AT_ONCE):
            for record in records[at : at + _AT_ONCE]:
                batcher.submit(record)
            if await batcher.drain(_PATIENCE_S):
                raise DatabaseUnavailable(f"{destination.name} does not accept the rows: {batcher.last_error}.")
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    return refused
