"""What lies on this machine's disk: journals of the dead, which can be rewritten, journals of the living, whose owners
are asked to bring what they hold to the database and to begin new files, and the quarantine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llmctx.delivery import journal
from llmctx.ops.erase.subject import SubjectIds, without
from llmctx.settings import Settings

_POLL_S: Final = 0.2
Wanted = Callable[[Mapping[str, Any]], bool]
"""Whether a row of these columns says anything of them."""


@dataclass(slots=True)
class JournalCounts:
    """How many frames of theirs lie where."""

    directories: list[str] = field(default_factory=list)
    dead: int = 0
    quarantined: int = 0
    living: int = 0
    living_processes: list[str] = field(default_factory=list)


def says_something(subject_ids: SubjectIds) -> Wanted:
    """Return rows of theirs, and rows of others whose evidence names them."""
    ids = subject_ids.ids

    def wanted(columns: Mapping[str, Any]) -> bool:
        return subject_ids.are_in(columns) or without(columns.get("attributes"), ids)[1]

    return wanted


def count(settings: Settings, subject_ids: SubjectIds) -> JournalCounts:
    """Return what is there now."""
    found = JournalCounts()
    wanted = says_something(subject_ids)
    for directory in settings.journal_directories:
        found.directories.append(str(directory))
        seen = journal.search(directory, wanted)
        found.dead += seen.dead
        found.quarantined += seen.dead_letters
        found.living += sum(seen.living.values())
        found.living_processes += [f"process {pid}" for pid in seen.living]
    return found


async def drain(settings: Settings, subject_ids: SubjectIds, wait_s: float) -> None:
    """Wait until living processes hold nothing of theirs any more, at most for so long."""
    deadline = time.monotonic() + wait_s
    asked = False
    while count(settings, subject_ids).living and time.monotonic() < deadline:
        if not asked:
            asked = True
            for directory in settings.journal_directories:
                if directory.is_dir():
                    journal.request_rotation(directory)
        await asyncio.sleep(_POLL_S)


def erase(settings: Settings, subject_ids: SubjectIds) -> None:
    """Take theirs from the journals of the dead and from the quarantine; of others' rows what names them."""
    ids = subject_ids.ids

    def keep(columns: dict[str, Any]) -> bool | dict[str, Any]:
        if subject_ids.are_in(columns):
            return False
        attributes, changed = without(columns.get("attributes"), ids)
        return {**columns, "attributes": attributes} if changed else True

    for directory in settings.journal_directories:
        if directory.is_dir():
            journal.erase(directory, keep)
