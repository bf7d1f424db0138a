"""What waits on disk: every process's journal, living or dead, and the quarantine. For people; changes nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmctx.delivery.journal import directory as place
from llmctx.delivery.journal.dead_letters import Quarantine, Quarantined
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


@dataclass(frozen=True, slots=True)
class Home:
    """The journal of one process."""

    name: str
    pid: int | None
    alive: bool
    records: int
    """Rows that the database may lack."""
    open: int
    """Calls of which only the start is known; of a process that is alive they may go on."""
    bytes: int
    oldest: datetime | None
    damaged: int


@dataclass(frozen=True, slots=True)
class JournalDirectory:
    """What lies in one directory."""

    directory: str
    homes: list[Home] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)


def inspect_directory(directory: str | os.PathLike[str]) -> JournalDirectory:
    """What lies in `directory`; nothing if it is not there, or not ours."""
    path = Path(directory)
    found = JournalDirectory(str(path))
    try:
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return found
    try:
        for name, folder in place.folders_in(root):
            try:
                found.homes.append(_home(name, folder))
            finally:
                os.close(folder)
        if place.QUARANTINE in place.names_in(root):
            with contextlib.suppress(OSError):
                quarantine = Quarantine(root)
                try:
                    found.quarantined.extend(quarantine.read())
                finally:
                    quarantine.close()
    finally:
        os.close(root)
    return found


@dataclass(slots=True)
class Matches:
    """How many frames of some rows lie where."""

    dead: int = 0
    living: dict[str, int] = field(default_factory=dict)
    """By process id."""
    quarantined: int = 0


def search(directory: str | os.PathLike[str], wanted: Callable[[dict[str, Any]], bool]) -> Matches:
    """Where rows lie of whose columns `wanted` says True: also those that are done, as long as their file is there."""
    found = Matches()
    try:
        root = os.open(Path(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return found
    try:
        for name in place.names_in(root):
            try:
                folder = place.open_inside(name, root)
            except OSError:
                continue
            try:
                count = sum(
                    (columns := columns_of(frame)) is not None and wanted(columns)
                    for file in place.names_in(folder)
                    for frame in frames_in(place.read_file(file, folder))
                )
                if name == place.QUARANTINE:
                    found.quarantined += count
                elif count and _is_alive(folder):
                    found.living[name.partition("-")[0]] = count
                else:
                    found.dead += count
            finally:
                os.close(folder)
    finally:
        os.close(root)
    return found


def _is_alive(folder: int) -> bool:
    held = place.lock(folder)  # for a moment: who wants to adopt it meanwhile comes again
    if held is not None:
        os.close(held)
    return held is None


def _home(name: str, folder: int) -> Home:
    alive = _is_alive(folder)
    starts: dict[bytes, float] = {}
    records: dict[bytes, bytes] = {}
    done: set[bytes] = set()
    damage = Damage()
    size = 0
    for file in place.names_in(folder):
        data = place.read_file(file, folder)
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
    times = [datetime.fromtimestamp(at, UTC) for at in still_open.values()]
    if waiting:
        with contextlib.suppress(ValueError):
            times.append(unpack_record(min(waiting.items())[1]).created_at)  # ids are minted in the order of time
    pid = name.partition("-")[0]
    return Home(
        name,
        int(pid) if pid.isdigit() else None,
        alive,
        len(waiting),
        len(still_open),
        size,
        min(times, default=None),
        damage.places,
    )
