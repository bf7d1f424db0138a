"""The journals of this host, of whatever database, and whose each is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from llmctx.core.endpoint import Endpoint, is_same_endpoint
from llmctx.core.errors import LlmctxError
from llmctx.core.urls import shown_url
from llmctx.delivery.journal import JournalDirectory, inspect_directory, recall_endpoint
from llmctx.settings import Settings
from llmctx.storage.database_identity import endpoint_of
from llmctx.storage.engine import read_connection

Whose = Literal["ours", "unknown", "another"]
UNKNOWN: Final = "a database that was never reached"


@dataclass(frozen=True, slots=True)
class Ownership:
    """Tells whose rows are that wait on this host."""

    settings: Settings
    here: Endpoint
    """The database of the settings; without ids if it is away, and was never reached from here."""

    def owner_of(self, directory: str | Path, endpoint: Endpoint) -> Whose:
        """Return whose rows in `directory` are that were to go to `endpoint`, or to the broker on their way there."""
        if self.is_our_broker(endpoint):
            return "ours"
        is_by_name = Path(directory) in self.settings.journal_directories
        if not self.here.ids and is_by_name:
            return "ours"
        if is_same_endpoint(self.here, endpoint, goes_by_our_name=is_by_name):
            return "ours"
        return "another" if endpoint.ids else "unknown"

    def name_of(self, endpoint: Endpoint) -> str:
        """Return what another database is called than that of the settings; it may have had the same name."""
        if endpoint.ids and endpoint.name == shown_url(self.settings.database_url):
            return f"another database that was at {endpoint.name}"
        return endpoint.name or UNKNOWN

    def is_our_broker(self, endpoint: Endpoint) -> bool:
        """Return whether `endpoint` is the broker of the settings, behind which their database is."""
        transport = self.settings.transport_url
        return transport is not None and not transport.ids.isdisjoint(endpoint.ids)

    def accepts(self, directory: str | Path, endpoint: Endpoint) -> bool:
        """Return whether these rows go into the database of the settings."""
        return self.owner_of(directory, endpoint) == "ours"

    def is_another_database(self, directory: str | Path, endpoint: Endpoint) -> bool:
        """Return whether it is another database that these rows wait for: not an own destination's, which has a key."""
        return self.owner_of(directory, endpoint) == "another" and not any(
            str(directory).endswith(key) for key in endpoint.ids
        )


def ownership(settings: Settings, *, must_reach: bool = False) -> Ownership:
    """Ask the database which one it is; where it is away, what is remembered of it. Raise with `must_reach`."""
    return asyncio.run(ownership_async(settings, must_reach=must_reach))


async def ownership_async(settings: Settings, *, must_reach: bool = False) -> Ownership:
    """Return what `ownership` does, for coroutines."""
    try:
        async with read_connection(settings) as connection:
            return Ownership(settings, await connection.run_sync(endpoint_of, settings))
    except LlmctxError:
        if must_reach:
            raise
    for directory in settings.journal_directories:
        if (endpoint := recall_endpoint(directory)).ids:
            return Ownership(settings, endpoint)
    return Ownership(settings, Endpoint())


@dataclass(slots=True)
class Waiting:
    """Rows that are on this host's disk, and maybe not in their table."""

    for_this_database: int = 0
    """For the database of the settings."""
    for_no_process: int = 0
    """Of those, such as no running process will write: of ended processes, and refused ones."""
    for_other_databases: Counter[str] = field(default_factory=Counter)
    """For others, by their names."""


def count_waiting(settings: Settings, owners: Ownership | None = None) -> Waiting:
    """Return how many rows wait on this host, and for which database."""
    directories = list(inspect_journals(settings))
    found = Waiting()
    if not any(one.processes or one.dead_letters for one in directories):
        return found
    owners = ownership(settings) if owners is None else owners
    for one in directories:
        # calls that a running process has begun may go on
        rows = [
            (process.endpoint, process.records + (0 if process.alive else process.open), process.is_left)
            for process in one.processes
        ]
        for endpoint, count, is_left in [*rows, *((letter.endpoint, 1, True) for letter in one.dead_letters)]:
            if owners.accepts(one.directory, endpoint):
                found.for_this_database += count
                found.for_no_process += count if is_left else 0
            elif count:
                found.for_other_databases[owners.name_of(endpoint)] += count
    return found


def inspect_journals(settings: Settings) -> Iterator[JournalDirectory]:
    """Yield what lies on this host: the directories of the settings, and others in which something lies."""
    for root in settings.journal_roots():
        found = inspect_directory(root)
        if root in settings.journal_directories or found.processes or found.dead_letters:
            yield found
