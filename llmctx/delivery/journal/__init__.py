"""The append-only journal on local disk through which every record passes on its way to the database.

What is in it survives the death of the process: the start of each call (`Journal.start`, from the caller's thread,
microseconds) and its whole row (`Journal.append`, from the pipeline's). When a process has died, exactly one living
process recovers what it left (`Journal.recover`): rows that may not be stored yet are stored again, calls that never
ended become rows with status `lost`. Bounded in bytes, private to the user, harmless when the disk is full or broken.

The package knows files and `CallRecord`s, and neither the pipeline nor the destination: `frames.py` the format of a
file, `directory.py` where files lie and which processes are alive, `journal.py`, `record_files.py` and
`start_markers.py` the process's own files, `dead_journal.py` those of dead processes, `dead_letters.py` rows that the
destination refuses, `inspect.py` reports.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from llmctx.core.place import Place
from llmctx.delivery.journal import directory as directories
from llmctx.delivery.journal import owner as owners
from llmctx.delivery.journal.dead_journal import DeadJournal, Keep
from llmctx.delivery.journal.dead_journal import erase as _erase
from llmctx.delivery.journal.dead_letters import DeadLetter, DeadLetters
from llmctx.delivery.journal.frames import Damage, Frame, Kind, frames_in, pack_record, unpack_record
from llmctx.delivery.journal.inspect import JournalDirectory, Matches, ProcessJournal, inspect_directory, search
from llmctx.delivery.journal.journal import Journal

__all__ = [
    "Damage",
    "DeadJournal",
    "DeadLetter",
    "DeadLetters",
    "Frame",
    "Journal",
    "JournalDirectory",
    "Kind",
    "Matches",
    "ProcessJournal",
    "erase",
    "inspect_directory",
    "pack_record",
    "read",
    "recall_place",
    "remember_place",
    "request_rotation",
    "search",
    "unpack_record",
]


def read(path: str | os.PathLike[str], damage: Damage | None = None) -> Iterator[Frame]:
    """Yield every whole frame of a file; add what could not be read to `damage`. A file that has gone is empty."""
    path = Path(path)
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        data = directories.read_file(path.name, folder)
    finally:
        os.close(folder)
    yield from frames_in(data, damage)


def recall_place(directory: str | os.PathLike[str]) -> Place:
    """Return where the rows of this directory went last; without ids if that was never known."""
    try:
        folder = os.open(Path(directory) / directories.DEAD_LETTERS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return Place()
    try:
        return owners.recall(folder)
    finally:
        os.close(folder)


def remember_place(directory: str | os.PathLike[str], place: Place) -> None:
    """Note where the rows of this directory go. Raise `JournalUnavailable`, or OSError."""
    root = directories.open_private(directory)
    try:
        dead_letters = DeadLetters(root)
        try:
            owners.remember(place, dead_letters.folder)
        finally:
            dead_letters.close()
    finally:
        os.close(root)


def erase(
    directory: str | os.PathLike[str], keep: Keep, of: Callable[[Place], bool] = lambda place: True
) -> tuple[int, int]:
    """Remove from the journals of dead processes and from the dead letters the rows of whose columns `keep` returns
    False. Where it returns other columns, those are kept instead. Only of rows that go to places for which `of` returns
    True.

    Return how many frames were removed or changed, and how many journals belong to living processes: their rows are on
    the way to the database, and can be erased there (`request_rotation`).
    Raise `JournalUnavailable`, or OSError if a file cannot be rewritten.
    """
    root = directories.open_private(directory)
    try:
        removed, living = _erase(root, keep, of)
        dead_letters = DeadLetters(root)
        try:
            return removed + dead_letters.erase(keep, of), living
        finally:
            dead_letters.close()
    finally:
        os.close(root)


def request_rotation(directory: str | os.PathLike[str]) -> None:
    """Ask the living processes to begin new files: rows that are done stay on disk as long as the rest of their file.

    They do so within a second or two. Raise `JournalUnavailable`, or OSError.
    """
    root = directories.open_private(directory)
    try:
        directories.request_rotation(root)
    finally:
        os.close(root)
