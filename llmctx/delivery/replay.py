"""Rows that wait on disk, written by hand: those that were refused once their cause is gone, and those of the dead."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from uuid import UUID

from llmctx.core.errors import DatabaseUnavailable
from llmctx.core.record import CallRecord
from llmctx.delivery.journal import Journal
from llmctx.delivery.writer.writer import Writer
from llmctx.settings import Settings
from llmctx.storage.engine import where
from llmctx.storage.sanitize import clean

_AT_ONCE = 500
_PATIENCE_S = 30.0


def replay(settings: Settings, journal: Journal) -> tuple[int, int, int]:
    """Write what is quarantined and what dead processes left in the directory of `journal`.

    Returns how many refused rows were stored, how many were refused again (they stay), and how many rows of dead
    processes were stored. Raises `DatabaseUnavailable` if the database does not take them in time; what is stored is
    not given up again.
    """
    return asyncio.run(_replay(settings, journal))


async def _replay(settings: Settings, journal: Journal) -> tuple[int, int, int]:
    refused = {one.record.call_id: one.record for one in journal.quarantine.read()}
    again = await _write(settings, list(refused.values()), keep=lambda *_: True)
    stored = [call_id for call_id in refused if call_id not in again]
    if stored:
        journal.quarantine.remove(stored)
    adopted = 0
    for dead in journal.adopt():
        with dead:
            rows = [*dead.records(), *map(clean, dead.lost())]
            await _write(settings, rows, keep=journal.quarantine.append)
            dead.finish()
            adopted += len(rows)
    return len(stored), len(again), adopted


async def _write(
    settings: Settings, records: Sequence[CallRecord], keep: Callable[[CallRecord, str, str], bool]
) -> set[UUID]:
    """Write `records`. Returns which of them the database refuses."""
    writer = Writer(settings)
    refused: set[UUID] = set()

    def kept(record: CallRecord, sqlstate: str, reason: str) -> bool:
        refused.add(record.call_id)
        return keep(record, sqlstate, reason)

    writer.on_rejected = kept
    running = asyncio.create_task(writer.run())
    try:
        for at in range(0, len(records), _AT_ONCE):
            for record in records[at : at + _AT_ONCE]:
                writer.submit(record)
            if await writer.drain(_PATIENCE_S):
                raise DatabaseUnavailable(f"{where(settings)} does not accept the rows: {writer.trouble}.")
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    return refused
