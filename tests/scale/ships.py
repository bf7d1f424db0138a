"""Shippers of a broker: `python -m tests.scale.ships DATABASE_URL TRANSPORT`, see `fleet.py`."""

from __future__ import annotations

import asyncio
import signal
import sys

from llmctx.delivery.broker.shipper import BrokerShipper
from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.settings import load
from tests.scale.fleet import serve


async def _ship(database_url: str, transport: str) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    settings = load(database_url=database_url, transport=transport, statement_timeout_s=5)
    await BrokerShipper(SqlDestination(settings), settings).run(stopping)


if __name__ == "__main__":
    serve(lambda quiet: asyncio.run(_ship(*sys.argv[1:])))
