"""Shippers of a broker, or with `host` of a host's journals: `python -m tests.scale.ships [host]`, see `fleet.py`.

Their settings are LLMCTX_*.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from llmctx.delivery.broker.shipper import BrokerShipper
from llmctx.delivery.destinations.sql import SqlDestination
from llmctx.delivery.host_shipper import HostShipper
from llmctx.settings import load
from tests.scale.fleet import serve


async def _ship(whose: str = "broker") -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    settings = load(statement_timeout_s=5)
    shipper = HostShipper if whose == "host" else BrokerShipper
    await shipper(SqlDestination(settings), settings).run(stopping)


if __name__ == "__main__":
    serve(lambda quiet, number: asyncio.run(_ship(*sys.argv[1:])))
