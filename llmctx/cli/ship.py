"""`llmctx ship`: one process that stores the rows of many."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Annotated, Final

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, settings_of
from llmctx.core.errors import ConfigError
from llmctx.settings import Settings

if TYPE_CHECKING:
    from llmctx.delivery.broker.shipper import BrokerShipper

_REPORT_S: Final = 60.0


def ship(
    ctx: typer.Context,
    host: Annotated[bool, typer.Option("--host", help="Store the journals of all processes of this host.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End when nothing is left.")] = False,
    json: Json = False,
) -> None:
    """Store the rows of many processes, until SIGTERM or Ctrl-C: those in the broker of LLMCTX_TRANSPORT, or of a host.

    From a broker any number of processes may ship, on any host; a frame of rows goes to one of them, and to another one
    when that has died.

    With --host applications with LLMCTX_WRITER=ship open no connection as long as it runs, and store their rows
    themselves when it does not. Run it as the same user, with the same LLMCTX_DATABASE_URL and LLMCTX_JOURNAL_DIR.
    """
    settings = settings_of(ctx)
    if host:
        report = asyncio.run(_ship_host(settings, once=once))
        sentence = "Stored {written:,} rows of {journals:,} journals; {quarantined:,} were refused."
    elif settings.transport_url is not None:
        report = asyncio.run(_ship_broker(settings, once=once))
        sentence = "Stored {written:,} rows of {frames:,} frames; {refused:,} were set aside."
    else:
        raise ConfigError(
            "What is to be shipped? Set LLMCTX_TRANSPORT to store what is in the broker; `llmctx ship --host` stores "
            "the journals of this host."
        )
    if json:
        output.show_json(report)
    else:
        output.say(sentence.format(**report))


def _stopping() -> asyncio.Event:
    """Return an event that a signal to end sets."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError):  # no main thread
            loop.add_signal_handler(number, stopping.set)
    return stopping


async def _ship_host(settings: Settings, *, once: bool) -> dict[str, int]:
    from llmctx.delivery.destinations.sql import SqlDestination  # late: with its driver
    from llmctx.delivery.shipper import Shipper

    shipper = Shipper(SqlDestination(settings), settings)
    await shipper.run(_stopping(), once=once)
    return {"written": shipper.written, "quarantined": shipper.quarantined, "journals": shipper.journals}


async def _ship_broker(settings: Settings, *, once: bool) -> dict[str, int]:
    from llmctx.delivery.broker.shipper import BrokerShipper
    from llmctx.delivery.destinations.sql import SqlDestination  # late: with its driver

    shipper = BrokerShipper(SqlDestination(settings), settings)
    reporting = asyncio.create_task(_report(shipper, settings))
    try:
        await shipper.run(_stopping(), once=once)
    finally:
        reporting.cancel()
    return {"written": shipper.written, "refused": shipper.refused, "frames": shipper.frames, "again": shipper.again}


async def _report(shipper: BrokerShipper, settings: Settings) -> None:
    """Say now and then how it goes on."""
    from llmctx.delivery.broker.lag import lag_of

    while True:
        await asyncio.sleep(_REPORT_S)
        lag = await lag_of(settings)
        behind = lag if lag is None or isinstance(lag, str) else lag.sentence
        waits = f" Rows wait: {shipper.last_error}." if shipper.last_error else ""
        output.say(f"{shipper.written:,} rows stored of {shipper.frames:,} frames; {behind}.{waits}")
