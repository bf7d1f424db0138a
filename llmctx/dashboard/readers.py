"""The dashboard's way to the database: a `storage.reader.Reader` for each event loop that asks.

A mounted application has no lifespan, so that a reader is made by the first question; tests and reloads ask from one
loop after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.delivery.broker.lag import Lag, lag_of
from llmctx.settings import Settings
from llmctx.storage.catalog import qualify_name
from llmctx.storage.reader import Reader
from llmctx.storage.rollup.tables import names_of

_BROKER_S: Final = 3.0


class Readers:
    """Readers of one database, by event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Reader] = WeakKeyDictionary()

    @asynccontextmanager
    async def question(self, *, aggregate: bool) -> AsyncIterator[tuple[AsyncConnection, Table]]:
        """Lend a connection and the table, as `Reader.question` does."""
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            self._by_loop[loop] = Reader(self._settings)
        async with self._by_loop[loop].question(aggregate=aggregate) as lent:
            yield lent

    async def close(self) -> None:
        """Close the connections of this event loop."""
        reader = self._by_loop.pop(asyncio.get_running_loop(), None)
        if reader is not None:
            await reader.close()


def grant_statements(settings: Settings) -> str:
    """Return the statements that let a role read the table and its totals; the owner runs them."""
    totals = ", ".join(qualify_name(name, settings.db_schema) for name in names_of(settings.table))
    lines = (
        f"GRANT USAGE ON SCHEMA {settings.db_schema or 'public'} TO your_role;",
        f"GRANT SELECT ON {qualify_name(settings.table, settings.db_schema)} TO your_role;",
        "-- once `llmctx rollup` has run: without it months of usage are read from rows",
        f"GRANT SELECT ON {totals} TO your_role;",
    )
    return "\n".join(lines)


async def broker(settings: Settings) -> dict[str, str | int | float | None] | None:
    """Return what waits on the broker, or the `problem` with it; None where rows go to the database themselves."""
    lag: Lag | str | None = "The broker does not answer."
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_BROKER_S):  # it may be away, and the page has more to show
            lag = await lag_of(settings)
    if lag is None:
        return None
    if isinstance(lag, str):
        return {"problem": lag}
    figures = {name: lag.sum(name) for name in ("waiting", "in_hand", "redelivered", "bytes")}
    return {"transport": lag.transport, **figures, "oldest_s": lag.oldest_s, "refused": lag.refused, "problem": None}


def journals(settings: Settings) -> list[dict[str, str | int]]:
    """Return the journals on this host, by their directory: how many processes have one there, and the bytes of all."""
    found: list[dict[str, str | int]] = []
    for directory in settings.journal_directories:
        with contextlib.suppress(OSError):  # not there, or not ours
            processes = [one for one in Path(directory).iterdir() if one.name.partition("-")[0].isdigit()]
            sizes = [file.stat().st_size for one in processes for file in one.iterdir()]
            found.append({"directory": str(directory), "processes": len(processes), "bytes": sum(sizes)})
    return found
