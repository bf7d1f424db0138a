"""`llmctx ship`: one process that stores the rows of many."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Annotated

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, settings_of
from llmctx.core.errors import ConfigError
from llmctx.delivery.shipper import Shipper
from llmctx.settings import Settings


def ship(
    ctx: typer.Context,
    host: Annotated[bool, typer.Option("--host", help="Store the journals of all processes of this host.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End when nothing is left.")] = False,
    json: Json = False,
) -> None:
    """Store the rows of all processes of this host, over one connection, until SIGTERM or Ctrl-C.

    Applications with LLMCTX_WRITER=ship open no connection as long as it runs, and store their rows themselves when it
    does not. Run it as the same user, with the same LLMCTX_DATABASE_URL and LLMCTX_JOURNAL_DIR.
    """
    if not host:
        raise ConfigError("What is to be shipped? `llmctx ship --host` stores the journals of this host.")
    shipper = asyncio.run(_run(settings_of(ctx), once=once))
    report = {"written": shipper.written, "quarantined": shipper.quarantined, "journals": shipper.journals}
    if json:
        output.show_json(report)
    else:
        output.say("Stored {written:,} rows of {journals:,} journals; {quarantined:,} were refused.".format(**report))


async def _run(settings: Settings, *, once: bool) -> Shipper:
    from llmctx.delivery.destinations.sql import SqlDestination  # late: with its driver

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError):  # no main thread
            loop.add_signal_handler(number, stopping.set)
    shipper = Shipper(SqlDestination(settings), settings)
    await shipper.run(stopping, once=once)
    return shipper
