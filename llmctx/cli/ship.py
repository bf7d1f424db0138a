"""`llmctx ship`: one process that stores the rows of many."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Final

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, settings_of
from llmctx.core.errors import ConfigError
from llmctx.core.text import counted
from llmctx.settings import Settings

if TYPE_CHECKING:
    from llmctx.delivery.broker.lag import Lag
    from llmctx.delivery.broker.shipper import BrokerShipper

_COLLECT_EVERY: Final = 50_000
"""Objects: those of some five thousand rows, a batch."""
_REPORT_S: Final = 60.0
"""From one line about the progress to the next."""
_LOOKS: Final = 4
"""At the broker, from one line to the next, where metrics want them."""


def ship(
    ctx: typer.Context,
    host: Annotated[bool, typer.Option("--host", help="Store the journals of all processes of this host.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End when nothing is left.")] = False,
    metrics: Annotated[
        int | None, typer.Option("--metrics", metavar="PORT", help="Serve metrics for Prometheus on this port.")
    ] = None,
    json: Json = False,
) -> None:
    """Store the rows of many processes, until SIGTERM or Ctrl-C: those in the broker of LLMCTX_TRANSPORT, or of a host.

    From a broker any number of processes may ship, on any host; a frame of rows goes to one of them, and to another one
    when that has died.

    With --host applications with LLMCTX_WRITER=ship open no connection as long as it runs, and store their rows
    themselves when it does not. Run it as the same user, with the same LLMCTX_DATABASE_URL and LLMCTX_JOURNAL_DIR.
    """
    settings = settings_of(ctx)
    if metrics is not None and (host or settings.transport_url is None):
        raise typer.BadParameter("--metrics goes with a broker, of LLMCTX_TRANSPORT")
    with _few_collections():
        _run(settings, host=host, once=once, metrics=metrics, json=json)


def _run(settings: Settings, *, host: bool, once: bool, metrics: int | None, json: bool) -> None:
    if host:
        report = asyncio.run(_ship_host(settings, once=once))
        of, aside = counted(report["journals"], "journal"), f"{report['quarantined']:,} refused"
    elif settings.transport_url is not None:
        report = asyncio.run(_ship_broker(settings, once=once, metrics=metrics))
        of, aside = counted(report["frames"], "frame"), f"{report['refused']:,} set aside"
    else:
        raise ConfigError(
            "There is nothing to ship. Set LLMCTX_TRANSPORT to store what is in the broker; `llmctx ship --host` "
            "stores the journals of this host."
        )
    if json:
        output.show_json(report)
    else:
        output.say(f"Stored {counted(report['written'], 'row')} of {of}; {aside}.")


@contextlib.contextmanager
def _few_collections() -> Iterator[None]:
    """Have the garbage collector look at new objects seldom: rows come by the thousand, and none is in a circle."""
    before = gc.get_threshold()
    gc.set_threshold(_COLLECT_EVERY, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


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
    from llmctx.delivery.host_shipper import HostShipper

    shipper = HostShipper(SqlDestination(settings), settings)
    await shipper.run(_stopping(), once=once)
    return {"written": shipper.written, "quarantined": shipper.quarantined, "journals": shipper.journals}


async def _ship_broker(settings: Settings, *, once: bool, metrics: int | None) -> dict[str, int]:
    from llmctx.delivery.broker.shipper import BrokerShipper
    from llmctx.delivery.destinations.sql import SqlDestination  # late: with its driver

    shipper = BrokerShipper(SqlDestination(settings), settings)
    progress = _Progress(shipper, settings)
    with contextlib.ExitStack() as until_end:
        if metrics is not None:
            until_end.callback(_serve(metrics, progress))
        reporting = asyncio.create_task(progress.run(1 if metrics is None else _LOOKS))
        until_end.callback(reporting.cancel)
        await shipper.run(_stopping(), once=once)
    return _counts(shipper)


def _counts(shipper: BrokerShipper) -> dict[str, int]:
    return {
        "written": shipper.written,
        "refused": shipper.refused,
        "frames": shipper.frames,
        "again": shipper.redelivered,
    }


def _serve(port: int, progress: _Progress) -> Callable[[], None]:
    try:
        from llmctx.telemetry.shipper_metrics import serve
    except ImportError:
        raise ConfigError('--metrics needs prometheus-client: pip install "llmctx[prometheus]".') from None
    return serve(port, progress.figures)


class _Progress:
    """The progress of a shipper: for metrics, and now and then in a line."""

    def __init__(self, shipper: BrokerShipper, settings: Settings) -> None:
        self._shipper = shipper
        self._settings = settings
        self._lag: Lag | str | None = None

    def figures(self) -> dict[str, float]:
        """Return the figures of `shipper_metrics.SHIPPER`. Any thread may ask."""
        shipper, lag = self._shipper, self._lag
        own: dict[str, float] = {**_counts(shipper), "held": shipper.unacknowledged}
        if lag is None or isinstance(lag, str):
            return own
        behind = {name: lag.sum(name) for name in ("waiting", "in_hand", "bytes")}
        return {**own, **behind, "set_aside": lag.refused, "oldest_s": lag.oldest_s}

    async def run(self, looks: int) -> None:
        """Look at the broker so many times from one line to the next, and say how it goes on."""
        from llmctx.delivery.broker.lag import lag_of

        if looks > 1:
            self._lag = await lag_of(self._settings)
        for number in itertools.count(1):
            await asyncio.sleep(_REPORT_S / looks)
            self._lag = await lag_of(self._settings)
            if number % looks == 0:
                self._report()

    def _report(self) -> None:
        shipper, lag = self._shipper, self._lag
        behind = lag if lag is None or isinstance(lag, str) else lag.description
        waits = f" Rows wait: {shipper.last_error}." if shipper.last_error else ""
        output.say(f"Stored {counted(shipper.written, 'row')} of {counted(shipper.frames, 'frame')}; {behind}.{waits}")
