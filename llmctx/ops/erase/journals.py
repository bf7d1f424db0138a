"""What lies on this machine's disk: journals of the dead, which can be rewritten, journals of the living, whose owners
are asked to bring what they hold to the database and to begin new files, and the quarantine.

All journals of the host are looked through. Rows that wait for another database may be of another person with the same
id: they are told, and left to an erasure there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from llmctx.core.endpoint import Endpoint
from llmctx.delivery import journal
from llmctx.ops.erase.subject import Subject, SubjectIds, drop_ids
from llmctx.ops.erase.table import PERSONAL_TEXTS
from llmctx.ops.journals import Ownership

_POLL_S: Final = 0.2
SelectedRows = Callable[[Mapping[str, Any]], bool]
"""Whether a row of these columns says anything of them."""


@dataclass(slots=True)
class JournalCounts:
    """The numbers of calls of theirs, by place."""

    directories: list[str] = field(default_factory=list)
    dead: int = 0
    quarantined: int = 0
    living: int = 0
    living_processes: list[str] = field(default_factory=list)
    elsewhere: Counter[str] = field(default_factory=Counter)
    """Of rows that wait for other databases, by their names."""


def rows_to_erase(subject_ids: SubjectIds, *, mentions: bool) -> SelectedRows:
    """Return rows of theirs, and rows of others whose evidence or, with `mentions`, whose texts name them."""

    def wanted(columns: Mapping[str, Any]) -> bool:
        return subject_ids.are_in(columns) or bool(_less(columns, subject_ids, mentions=mentions))

    return wanted


def _less(columns: Mapping[str, Any], subject_ids: SubjectIds, *, mentions: bool) -> dict[str, Any]:
    """Return the columns of another's row that name them, without that."""
    attributes, changed = drop_ids(columns.get("attributes"), subject_ids.ids)
    less = {"attributes": attributes} if changed else {}
    if mentions:
        finder = subject_ids.mentions
        for name in PERSONAL_TEXTS:
            text = columns.get(name)
            if isinstance(text, str) and (left := finder.strip_ids(text)) != text:
                less[name] = left
    return less


def links(owners: Ownership, subject: Subject) -> dict[str, set[str]]:
    """Return the sessions, threads, … of rows of theirs that wait."""
    found: dict[str, set[str]] = {}
    subject_ids = SubjectIds(subject)
    for columns in _rows(owners):
        subject_ids.note_links(found, columns)
    return found


def drop_shared(owners: Ownership, subject_ids: SubjectIds) -> None:
    """Take out of their own ids those that a row of another has, which waits."""
    if any(subject_ids.own.values()):
        for columns in _rows(owners):
            subject_ids.drop_shared(columns)


def _rows(owners: Ownership) -> Iterator[Mapping[str, Any]]:
    for directory in owners.settings.journal_roots():
        yield from journal.rows_in(directory, _of_this_database(owners, directory))


def count(owners: Ownership, subject_ids: SubjectIds, *, mentions: bool) -> JournalCounts:
    """Return what is there now."""
    found = JournalCounts()
    wanted = rows_to_erase(subject_ids, mentions=mentions)
    for directory in owners.settings.journal_roots():
        seen = journal.search(directory, wanted, _of_this_database(owners, directory))
        counts = seen.dead, seen.dead_letters, sum(seen.living.values())
        if any(counts) or directory in owners.settings.journal_directories:
            found.directories.append(str(directory))
        found.dead += seen.dead
        found.quarantined += seen.dead_letters
        found.living += sum(seen.living.values())
        found.living_processes += [f"process {pid}" for pid in seen.living]
        found.elsewhere.update(seen.elsewhere)
    return found


def _of_this_database(owners: Ownership, directory: Path) -> Callable[[Endpoint], bool]:
    return lambda endpoint: not owners.is_another_database(directory, endpoint)


async def drain(owners: Ownership, subject_ids: SubjectIds, wait_s: float, *, mentions: bool) -> None:
    """Wait until living processes hold nothing of theirs any more, at most for so long."""
    deadline = time.monotonic() + wait_s
    asked = False
    while count(owners, subject_ids, mentions=mentions).living and time.monotonic() < deadline:
        if not asked:
            asked = True
            for directory in _there(owners):
                journal.request_rotation(directory)
        await asyncio.sleep(_POLL_S)


def erase(owners: Ownership, subject_ids: SubjectIds, *, mentions: bool) -> None:
    """Take theirs from the journals of the dead and from the quarantine; of others' rows what names them."""

    def keep(columns: dict[str, Any]) -> bool | dict[str, Any]:
        if subject_ids.are_in(columns):
            return False
        less = _less(columns, subject_ids, mentions=mentions)
        return {**columns, **less} if less else True

    for directory in _there(owners):
        journal.erase(directory, keep, _of_this_database(owners, directory))


def _there(owners: Ownership) -> Iterator[Path]:
    for directory in owners.settings.journal_roots():
        with contextlib.suppress(OSError):  # such as may not be looked into
            if directory.is_dir():
                yield directory
