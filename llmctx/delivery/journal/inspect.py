"""Reports on what waits on disk: every process's journal, living or dead, and the dead letters. Changes nothing."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmctx.core.endpoint import Endpoint
from llmctx.delivery.journal import directory as directories
from llmctx.delivery.journal import owner as owners
from llmctx.delivery.journal.dead_letters import DeadLetter, DeadLetters, endpoint_in
from llmctx.delivery.journal.frames import (
    ID_BYTES,
    Damage,
    Kind,
    columns_of,
    frames_in,
    ids_of,
    start_of,
    unpack_record,
)
from llmctx.storage.sanitize import clean


@dataclass(frozen=True, slots=True)
class ProcessJournal:
    """The journal of one process."""

    name: str
    pid: int | None
    alive: bool
    recovering: bool
    """It has ended, and a running process is bringing its rows to the database."""
    records: int
    """Rows that the database may lack."""
    open: int
    """Calls of which only the start is known; of a process that is alive they may go on."""
    bytes: int
    oldest: datetime | None
    damaged: int
    endpoint: Endpoint = field(default_factory=Endpoint)
    """Where its rows go, as far as its process knew."""

    @property
    def is_left(self) -> bool:
        """Return whether no running process has it."""
        return not (self.alive or self.recovering)


@dataclass(frozen=True, slots=True)
class JournalDirectory:
    """The content of one directory."""

    directory: str
    processes: list[ProcessJournal] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)


def inspect_directory(directory: str | os.PathLike[str]) -> JournalDirectory:
    """Return what lies in `directory`; nothing if it is not there, or not ours."""
    path = Path(directory)
    found = JournalDirectory(str(path))
    try:
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return found
    try:
        for name, folder in directories.folders_in(root):
            try:
                found.processes.append(_process_journal(name, folder))
            finally:
                os.close(folder)
        if directories.DEAD_LETTERS in directories.names_in(root):
            with contextlib.suppress(OSError):
                letters = DeadLetters(root)
                try:
                    found.dead_letters.extend(letters.read())
                finally:
                    letters.close()
    finally:
        os.close(root)
    return found


@dataclass(slots=True)
class Matches:
    """The number of some calls, by place."""

    dead: int = 0
    living: dict[str, int] = field(default_factory=dict)
    """By process id, and what is to be said of it."""
    dead_letters: int = 0
    elsewhere: Counter[str] = field(default_factory=Counter)
    """Of rows that go to other places, by their names."""


def search(
    directory: str | os.PathLike[str],
    wanted: Callable[[dict[str, Any]], bool],
    of: Callable[[Endpoint], bool] = lambda endpoint: True,
) -> Matches:
    """Count calls of whose columns `wanted` returns True: also those that are done, as long as their file is there.

    Those that go to places for which `of` returns False are counted apart.
    """
    found = Matches()
    for name, folder in _folders(directory):
        _count(found, name, folder, wanted, of)
    return found


def rows_in(
    directory: str | os.PathLike[str], of: Callable[[Endpoint], bool] = lambda endpoint: True
) -> Iterator[dict[str, Any]]:
    """Yield the columns of every row and started call of which `search` looks at, as far as `of` returns True."""
    for name, folder in _folders(directory):
        for _, columns, endpoint in _rows(name, folder):
            if of(endpoint):
                yield columns


def _folders(directory: str | os.PathLike[str]) -> Iterator[tuple[str, int]]:
    """Yield the name of each folder in `directory`, and a descriptor of it as long as nobody asks for the next."""
    try:
        root = os.open(Path(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        for name in directories.names_in(root):
            try:
                folder = directories.open_inside(name, root)
            except OSError:
                continue
            try:
                yield name, folder
            finally:
                os.close(folder)
    finally:
        os.close(root)


def _rows(name: str, folder: int) -> Iterator[tuple[bytes, dict[str, Any], Endpoint]]:
    """Yield of each row and started call its id, its columns, and where it goes."""
    owner = owners.read(folder) or owners.Owner()
    is_quarantine = name == directories.DEAD_LETTERS
    for file in directories.names_in(folder):
        for frame in frames_in(directories.read_file(file, folder)):
            if (columns := columns_of(frame)) is not None:
                yield frame.payload[:ID_BYTES], columns, endpoint_in(frame) if is_quarantine else owner.endpoint


def _count(
    matches: Matches,
    name: str,
    folder: int,
    wanted: Callable[[dict[str, Any]], bool],
    of: Callable[[Endpoint], bool],
) -> None:
    here: set[bytes] = set()
    elsewhere: set[tuple[str, bytes]] = set()
    for call_id, columns, endpoint in _rows(name, folder):  # a call has a start and a row
        if wanted(columns):
            if of(endpoint):
                here.add(call_id)
            else:
                elsewhere.add((endpoint.name, call_id))
    matches.elsewhere.update(name for name, _ in elsewhere)
    count = len(here)
    if name == directories.DEAD_LETTERS:
        matches.dead_letters += count
    elif count and any(states := _states(name, folder)):
        pid = name.partition("-")[0]
        matches.living[pid if states[0] else f"{pid}, which has ended and is being recovered"] = count
    else:
        matches.dead += count


def _states(name: str, folder: int) -> tuple[bool, bool]:
    """Return whether the process of a journal is alive, and whether another one is recovering it."""
    held = directories.lock(folder)  # for a moment: a process that wants to recover it meanwhile comes again
    if held is not None:
        os.close(held)
        return owners.is_alive(name, folder), False
    ended = owners.has_ended(name, folder)
    return not ended, ended


def _process_journal(name: str, folder: int) -> ProcessJournal:
    alive, recovering = _states(name, folder)
    starts: dict[bytes, float] = {}
    records: dict[bytes, bytes] = {}
    done: set[bytes] = set()
    damage = Damage()
    size = 0
    for file in directories.names_in(folder):
        data = directories.read_file(file, folder)
        size += len(data)
        for found in frames_in(data, damage):
            if found.kind == Kind.RECORD:
                records.setdefault(found.payload[:ID_BYTES], found.payload)
            elif found.kind == Kind.DONE:
                done.update(ids_of(found.payload))
            elif found.kind == Kind.START:
                with contextlib.suppress(ValueError):
                    start = start_of(found.payload)
                    starts[start.call_id] = start.created_s
    waiting = {call_id: payload for call_id, payload in records.items() if call_id not in done}
    still_open = {call_id: at for call_id, at in starts.items() if call_id not in records and call_id not in done}
    times = []
    for at in still_open.values():
        with contextlib.suppress(ValueError, OverflowError, OSError):
            times.append(datetime.fromtimestamp(at, UTC))
    if waiting:
        with contextlib.suppress(ValueError):
            # ids are minted in the order of time
            times.append(clean(unpack_record(min(waiting.items())[1])).created_at)
    pid = name.partition("-")[0]
    return ProcessJournal(
        name,
        int(pid) if pid.isdecimal() else None,
        alive,
        recovering,
        len(waiting),
        len(still_open),
        size,
        min(times, default=None),
        damage.places,
        (owners.read(folder) or owners.Owner()).endpoint,
    )
