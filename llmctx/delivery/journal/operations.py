"""Operations on the journals of a directory from outside of their processes, by the directory's path."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from llmctx.core.endpoint import Endpoint
from llmctx.delivery.journal import directory as directories
from llmctx.delivery.journal import owner as owners
from llmctx.delivery.journal.dead_journal import Keep
from llmctx.delivery.journal.dead_journal import erase as _erase
from llmctx.delivery.journal.dead_letters import DeadLetters
from llmctx.delivery.journal.frames import Damage, Frame, frames_in


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


def recall_endpoint(directory: str | os.PathLike[str]) -> Endpoint:
    """Return where the rows of this directory went last; without ids if that was never known."""
    try:
        folder = os.open(Path(directory) / directories.DEAD_LETTERS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return Endpoint()
    try:
        return owners.recall_endpoint(folder)
    finally:
        os.close(folder)


def remember_endpoint(directory: str | os.PathLike[str], endpoint: Endpoint) -> None:
    """Note where the rows of this directory go. Raise `JournalUnavailable`, or OSError."""
    with _opened(directory) as (_, dead_letters):
        owners.remember_endpoint(endpoint, dead_letters.folder)


def erase(
    directory: str | os.PathLike[str], keep: Keep, of: Callable[[Endpoint], bool] = lambda endpoint: True
) -> tuple[int, int]:
    """Remove from the journals of dead processes and from the dead letters the rows of whose columns `keep` returns
    False. Where it returns other columns, those are kept instead. Only of rows that go to places for which `of` returns
    True.

    Return how many frames were removed or changed, and how many journals belong to living processes: their rows are on
    the way to the database, and can be erased there (`request_rotation`).
    Raise `JournalUnavailable`, or OSError if a file cannot be rewritten.
    """
    with _opened(directory) as (root, dead_letters):
        removed, living = _erase(root, keep, of)
        return removed + dead_letters.erase(keep, of), living


@contextlib.contextmanager
def _opened(directory: str | os.PathLike[str]) -> Iterator[tuple[int, DeadLetters]]:
    root = directories.open_private(directory)
    try:
        with contextlib.closing(DeadLetters(root)) as dead_letters:
            yield root, dead_letters
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
