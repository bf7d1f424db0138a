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
from llmctx.ops.erase.table import PERSONAL_TEXTS
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


def says_something(subject_ids: SubjectIds, *, mentions: bool) -> Wanted:
    """Return rows of theirs, and rows of others whose evidence or, with `mentions`, whose texts name them."""

    def wanted(columns: Mapping[str, Any]) -> bool:
        return subject_ids.are_in(columns) or bool(_less(columns, subject_ids, mentions=mentions))

    return wanted


def _less(columns: Mapping[str, Any], subject_ids: SubjectIds, *, mentions: bool) -> dict[str, Any]:
    """Return the columns of another's row that name them, without that."""
    attributes, changed = without(columns.get("attributes"), subject_ids.ids)
    less = {"attributes": attributes} if changed else {}
    if mentions:
        finder = subject_ids.mentions
        for name in PERSONAL_TEXTS:
            text = columns.get(name)
            if isinstance(text, str) and (left := finder.without(text)) != text:
                less[name] = left
    return less


def count(settings: Settings, subject_ids: SubjectIds, *, mentions: bool) -> JournalCounts:
    """Return what is there now."""
    found = JournalCounts()
    wanted = says_something(subject_ids, mentions=mentions)
    for directory in settings.journal_directories:
        found.directories.append(str(directory))
        seen = journal.search(directory, wanted)
        found.dead += seen.dead
        found.quarantined += seen.dead_letters
        found.living += sum(seen.living.values())
        found.living_processes += [f"process {pid}" for pid in seen.living]
    return found


async def drain(settings: Settings, subject_ids: SubjectIds, wait_s: float, *, mentions: bool) -> None:
    """Wait until living processes hold nothing of theirs any more, at most for so long."""
    deadline = time.monotonic() + wait_s
    asked = False
    while count(settings, subject_ids, mentions=mentions).living and time.monotonic() < deadline:
        if not asked:
            asked = True
            for directory in settings.journal_directories:
                if directory.is_dir():
                    journal.request_rotation(directory)
        await asyncio.sleep(_POLL_S)


def erase(settings: Settings, subject_ids: SubjectIds, *, mentions: bool) -> None:
    """Take theirs from the journals of the dead and from the quarantine; of others' rows what names them."""

    def keep(columns: dict[str, Any]) -> bool | dict[str, Any]:
        if subject_ids.are_in(columns):
            return False
        less = _less(columns, subject_ids, mentions=mentions)
        return {**columns, **less} if less else True

    for directory in settings.journal_directories:
        if directory.is_dir():
            journal.erase(directory, keep)
