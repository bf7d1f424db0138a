"""One run of `erase`: every place is searched, emptied and searched again, and the receipt says what is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmctx.core.text import counted
from llmctx.ops.erase import broker
from llmctx.ops.erase import journals as disk
from llmctx.ops.erase import registry as shared
from llmctx.ops.erase import table as rows
from llmctx.ops.erase.subject import Subject, SubjectIds
from llmctx.ops.journals import Ownership, ownership_async
from llmctx.settings import Settings
from llmctx.storage.dependents import Dependent, dependents
from llmctx.storage.engine import compact, describe_database, read_connection, sqlite_file, write_connection
from llmctx.storage.reflection import reflect

Progress = Callable[[str, int], None]
"""Told of how many rows more something is done, and of what kind they are."""


@dataclass(slots=True)
class SearchResult:
    """The findings in one place."""

    name: str
    where: str
    found: int
    left: int | None = None
    """Afterwards; None in a rehearsal."""


@dataclass(slots=True)
class Receipt:
    """The findings in all places, and what became of them."""

    subject: Subject
    blank: bool
    done: bool
    places: list[SearchResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def found(self) -> int:
        return sum(place.found for place in self.places)

    @property
    def left(self) -> int:
        """Return how much that must not be kept is left; 0 is the proof."""
        return sum(place.left or 0 for place in self.places)


async def erase(
    settings: Settings,
    subject: Subject,
    *,
    do: bool = False,
    blank: bool = False,
    mentions: bool = False,
    wait_s: float = 20.0,
    progress: Progress = lambda what, more: None,
) -> Receipt:
    """Forget `subject`, or say what would be done: of a large table as far as indexes tell, and what they do not.

    Args:
        blank: keep the rows for their figures, without ids and texts.
        mentions: take the id out of the texts of other people's rows as well. Reads every text there is.
        wait_s: how long living processes are waited for, to bring what they hold of theirs to the database.
    """
    owners = await ownership_async(settings)
    waiting = await asyncio.to_thread(disk.links, owners, subject)
    if settings.transport is not None:  # before the table, which has meanwhile what has left the broker
        for name, values in (await broker.links(settings, subject)).items():
            waiting.setdefault(name, set()).update(values)
    async with read_connection(settings, whole=True) as connection:
        table = await reflect(connection, settings)
        unchecked = [] if do else await rows.unindexed_links(connection, table)
        subject_ids = await rows.find_ids(connection, table, subject, unchecked, waiting)
        children = await dependents(connection, table)
    await asyncio.to_thread(disk.drop_shared, owners, subject_ids)
    if settings.transport is not None:
        await broker.drop_shared(settings, subject_ids)

    def lying() -> disk.JournalCounts:
        return disk.count(owners, subject_ids, mentions=mentions)

    async def look() -> list[SearchResult]:
        async with read_connection(settings, whole=True) as connection:
            found = await rows.count(connection, table, subject_ids, children, mentions=mentions, unchecked=unchecked)
        return await _places(owners, subject_ids, found, lying())

    receipt = Receipt(subject, blank, do)
    _explain(receipt, children, mentions, unchecked, transport=settings.transport is not None)
    receipt.notes += [
        f"{counted(count, 'row')} with this id on this host for another database, {name}: erase there as well."
        for name, count in lying().elsewhere.items()
    ]
    if do:
        if settings.transport is not None:
            await broker.hold_back(settings, subject_ids, wait_s)
        await disk.drain(owners, subject_ids, wait_s, mentions=mentions)
    receipt.places = await look()
    if (transport := settings.transport_url) is not None:  # not searched again: shippers leave them out from now
        under_way = await broker.count_under_way(settings, subject_ids)
        receipt.places.append(SearchResult("under way on the broker", transport.shown, under_way))
    if do:
        disk.erase(owners, subject_ids, mentions=mentions)
        async with write_connection(settings) as connection:
            work = rows.Work(connection, table, subject_ids, children, progress, settings)
            await work.erase(blank=blank, mentions=mentions)
        if (file := sqlite_file(settings)) is not None:
            await asyncio.to_thread(compact, file)
        if settings.transport is not None:
            await broker.erase(settings, subject_ids)
        if shared.shown_registry(settings) is not None:
            await shared.forget(settings, subject_ids)
        left = {place.name: place.found for place in await look()}
        for place in receipt.places:
            place.left = left.get(place.name, 0)
    return receipt


async def _places(
    owners: Ownership, subject_ids: SubjectIds, counts: dict[str, int], lying: disk.JournalCounts
) -> list[SearchResult]:
    settings = owners.settings
    database, redis = describe_database(settings), shared.shown_registry(settings)
    places = [SearchResult(name, database, count) for name, count in counts.items()]
    said = ", ".join(lying.directories)
    places += [
        SearchResult("journals of dead processes", said, lying.dead),
        SearchResult("journals of living processes", ", ".join(lying.living_processes) or said, lying.living),
        SearchResult("quarantine", said, lying.quarantined),
    ]
    if (transport := settings.transport_url) is not None:
        places.append(
            SearchResult("set aside on the broker", transport.shown, await broker.count(settings, subject_ids))
        )
    if redis is not None:
        places.append(SearchResult("registry", redis, await shared.count(settings, subject_ids)))
    return places


def _explain(
    receipt: Receipt, children: Sequence[Dependent], mentions: bool, unchecked: Sequence[str], *, transport: bool
) -> None:
    if unchecked:
        receipt.notes.append(
            f"The table is large: rows without a user are not counted here that have only {' or '.join(unchecked)} in "
            "common with theirs, for no index finds them, nor is what others' rows say of them. With --yes both are "
            "erased: every row is read for it."
        )
    if children:
        names = ", ".join(child.name for child in children)
        receipt.notes.append(f"Rows of {names} are deleted with their calls, also with --blank.")
    receipt.notes += [child.index_advice for child in children if not child.is_indexed]
    if not mentions:
        receipt.notes.append("Texts of other users' rows are not searched for the id; --mentions does that.")
    if transport:
        receipt.notes.append(
            "Rows under way on the broker stay there until shippers read them, which with --yes leave them out, and "
            "also those of calls before now that come there later."
        )
    receipt.notes.append("Journals of other machines, backups and exported files are not covered: erase them there.")
