"""The append-only journal on local disk through which every record passes on its way to the database.

What is in it survives the death of the process: the start of each call (`Journal.start`, from the caller's thread,
microseconds) and its whole row (`Journal.append`, from the pipeline's). When a process has died, exactly one of the
living ones adopts what it left (`Journal.adopt`): rows that the database may lack are written again, calls that never
ended become rows with status `lost`. Bounded in bytes, private to the user, harmless when the disk is full or broken.

The package knows files and `CallRecord`s, and neither the pipeline nor the database: `frames.py` how things lie in a
file, `directory.py` where files lie and who is alive, `segments.py` and `start_markers.py` the process's own,
`recovery.py` those of the dead, `dead_letters.py` the rows that no database takes, `inspect.py` what people ask.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from llmctx.delivery.journal import directory as place
from llmctx.delivery.journal.dead_letters import Quarantine, Quarantined
from llmctx.delivery.journal.frames import Damage, Frame, Kind, frames_in, pack_record, unpack_record
from llmctx.delivery.journal.inspect import Home, JournalDirectory, Matches, inspect_directory, search
from llmctx.delivery.journal.recovery import DeadJournal, Keep
from llmctx.delivery.journal.recovery import erase as _erase
from llmctx.delivery.journal.segments import Journal

__all__ = [
    "Damage",
    "DeadJournal",
    "Frame",
    "Home",
    "Journal",
    "JournalDirectory",
    "Kind",
    "Matches",
    "Quarantine",
    "Quarantined",
    "erase",
    "inspect_directory",
    "pack_record",
    "read",
    "search",
    "settle",
    "unpack_record",
]


def read(path: str | os.PathLike[str], damage: Damage | None = None) -> Iterator[Frame]:
    """Every whole frame of a file; what could not be read is added to `damage`. A file that has gone is empty."""
    path = Path(path)
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        data = place.read_file(path.name, folder)
    finally:
        os.close(folder)
    yield from frames_in(data, damage)


def erase(directory: str | os.PathLike[str], keep: Keep) -> tuple[int, int]:
    """Remove from the journals of dead processes and from the quarantine the rows of whose columns `keep` says False.

    Where it gives other columns, those are kept instead. Returns how many frames were removed or changed, and how many
    journals belong to living processes: theirs are on their way to the database, and can be erased there (`settle`).
    Raises `JournalUnavailable`, or OSError if a file cannot be rewritten.
    """
    root = place.open_private(directory)
    try:
        removed, living = _erase(root, keep)
        quarantine = Quarantine(root)
        try:
            return removed + quarantine.erase(keep), living
        finally:
            quarantine.close()
    finally:
        os.close(root)


def settle(directory: str | os.PathLike[str]) -> None:
    """Ask the living processes to begin new files: what is done stays on disk no longer than the rest of its file.

    They hear it within a second or two. Raises `JournalUnavailable`, or OSError.
    """
    root = place.open_private(directory)
    try:
        place.request_rotation(root)
    finally:
        os.close(root)
