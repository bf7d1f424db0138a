"""Rows of many loads on their way into one destination: what `llmctx ship` does with journals, and with frames.

A load is a journal, or a frame of a broker. It is done when each of its rows is stored, or kept elsewhere because the
destination refuses it. Batches are large, for one process stores the rows of many.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from llmctx.core.record import CallRecord
from llmctx.delivery.batcher import Batcher
from llmctx.delivery.destination import Destination, Row
from llmctx.delivery.pace import Pace
from llmctx.settings import Settings

_ROWS: Final = 5000
_BYTES: Final = 16 * 1024 * 1024


class Load:
    """Rows that belong together."""

    outstanding = 0
    """How many of them are on their way."""

    def on_done(self) -> None:
        """Act on the end of the load, in the loop: none of its rows is outstanding any more."""


class Intake:
    """A batcher for loads. Belongs to one event loop."""

    def __init__(
        self,
        destination: Destination,
        settings: Settings,
        on_rejected: Callable[[CallRecord, str, str], bool],
        *,
        room: int,
        pace: Pace | None = None,
    ) -> None:
        """Hold at most `room` bytes. `on_rejected` and `pace` are the batcher's."""
        # rows have waited for company already; this loop has nothing else to do
        fitted = settings.model_copy(update={"linger_ms": 0, "batch_rows": _ROWS, "batch_bytes": _BYTES})
        self.batcher = Batcher(destination, fitted, pace)
        self.batcher.on_done = self._done
        self.batcher.on_rejected = on_rejected
        self._room = room
        self._loads: defaultdict[bytes, list[Load]] = defaultdict(list)
        self._progress = asyncio.Event()

    def loads_of(self, record: CallRecord) -> Sequence[Load]:
        """Return the loads that hold `record` and wait for it."""
        return self._loads.get(record.call_id.bytes, ())

    async def put(self, rows: Iterable[Row], load: Load) -> None:
        """Take `rows`, which are of `load`, as there is room. Cancelled half-way, the load is never done."""
        load.outstanding += 1  # not done before all of them are here
        for row in rows:
            call_id = row.record.call_id.bytes
            is_there = call_id in self._loads
            self._loads[call_id].append(load)
            load.outstanding += 1
            while not is_there and not self.batcher.offer_row(row, self._room):
                await self._wait()
        self._one_less(load)

    async def wait_until_done(self, load: Load) -> None:
        """Wait until `load` is done."""
        while load.outstanding:
            await self._wait()

    def _done(self, records: Sequence[CallRecord]) -> None:
        for record in records:
            for load in self._loads.pop(record.call_id.bytes, ()):
                self._one_less(load)
        self._progress.set()

    def _one_less(self, load: Load) -> None:
        load.outstanding -= 1
        if not load.outstanding:
            load.on_done()

    async def _wait(self) -> None:
        self._progress.clear()
        await self._progress.wait()
