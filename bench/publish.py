"""The cost of a row until a broker has it, beside that of a row until PostgreSQL has it, by turns in one run.

Rows come as the spool hands them over: the journal has packed them already, which `bench/ship.py` measures.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from bench.prose import records
from llmctx.delivery.batch_row import row_of
from llmctx.delivery.destination import Destination, Row
from llmctx.delivery.destinations import default_destination
from llmctx.delivery.journal import pack_record
from llmctx.settings import load
from tests.kit.brokers import brokers
from tests.kit.frame_reader import make_streams

ROUNDS = 10
ROWS = 4000
AT_ONCE = 500


async def _round(destination: Destination, batch: list[Row]) -> float:
    """Return microseconds of this process's CPU for each row, from the finished record on."""
    await destination.prepare()
    try:
        cpu = time.process_time()
        for at in range(0, len(batch), AT_ONCE):
            await destination.store(batch[at : at + AT_ONCE])
        return (time.process_time() - cpu) / len(batch) * 1e6
    finally:
        await destination.close()


def run(url: str) -> dict[str, Any]:
    """Measure both by turns."""
    with brokers() as broker:
        transport = f"{broker.url}?max_bytes=2147483648"
        ways = {"direct": load(database_url=url), "publish": load(database_url=url, transport=transport)}
        spent: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            make_streams(transport)
            for way, settings in ways.items():
                destination = default_destination(settings)
                batch = [
                    row_of(record, pack_record(record) if destination.takes_packed else None)
                    for record in records(ROWS)
                ]
                spent[way].append(asyncio.run(_round(destination, batch)))
    cpu = {way: statistics.median(rounds) for way, rounds in spent.items()}
    return {
        "cpu_us_a_row": cpu,
        "share_of_direct": cpu["publish"] / cpu["direct"],
        "rounds": ROUNDS,
        "rows_a_round": ROWS,
    }
