"""The owner of a journal: the process that writes it, whether that process is alive, and where its rows go.

A lock alone does not tell who is alive: on network file systems it may hold on one node only, and its file may be
removed. So each process says in a file beside it who it is: host, boot, namespace of process ids, process id and the
time at which that process was started. A process that shares all but the last two with it looks whether it runs; one
that does not believes the time of that file, which a living process renews every few seconds, by the file system's own
clock.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import orjson

from llmctx.core.endpoint import Endpoint
from llmctx.delivery.journal import directory as directories
from llmctx.delivery.journal.frames import Kind, frame, frames_in

FILE: Final = "owner"
_PLACE: Final = ".place"
_STALE_S: Final = 30.0
_ENDED: Final = ("Z", "X")  # states of a process of which nothing but the entry is left

open_journals: Final[set[str]] = set()
"""The names of the journals of this process that are not closed."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, and what it says of its journal."""

    host: str = ""
    boot: str = ""
    namespace: str = ""
    pid: int = 0
    started: str = ""
    """In the machine's own ticks since its boot; empty where that is not known."""
    closed: bool = False
    """It has ended this journal, and may be alive."""
    endpoint: Endpoint = field(default_factory=Endpoint)


def this_process() -> Owner:
    """Return who we are."""
    try:
        return _this_process(os.getpid())
    except OSError:  # asked again the next time
        return Owner(os.uname().nodename, directories.boot_id(), pid=os.getpid())


@lru_cache(maxsize=1)
def _this_process(pid: int) -> Owner:
    namespace = started = ""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
        if str(Path("/proc/self").readlink()) == str(pid):  # or these are the processes of another namespace
            started = _state_of(pid)[1]
    except OSError as problem:
        directories.pass_on_shortage(problem)
    return Owner(os.uname().nodename, directories.boot_id(), namespace, pid, started)


def _state_of(pid: int) -> tuple[str, str]:
    """Return the state of a process, and when it was started; empty if there is none. Raise OSError as `read_file`."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        state = fields[0]
        if state in _ENDED and len(list(Path(f"/proc/{pid}/task").iterdir())) > 1:
            state = "R"  # only its first thread has ended
    except OSError as problem:
        directories.pass_on_shortage(problem)
        return "", ""
    except IndexError:
        return "", ""
    return state, fields[19]


def write(owner: Owner, folder: int) -> bool:
    """Note in an open directory whose it is. Return whether that was possible."""
    try:
        directories.replace(FILE, folder, _framed(owner), sync=False)
    except OSError:
        return False
    return True


def _framed(owner: Owner) -> bytes:
    fields = asdict(owner)
    del fields["endpoint"]
    return frame(Kind.OPENED, orjson.dumps(fields | {"place": endpoint_as_json(owner.endpoint)}))


def read(folder: int) -> Owner | None:
    """Return whose an open directory is; None where that is not noted: by an older version, or on a full disk."""
    for found in frames_in(directories.read_file(FILE, folder)):
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
            said = orjson.loads(found.payload)
            endpoint = endpoint_from_json(said.pop("place"))
            return Owner(**said, endpoint=endpoint)
    return None


def close(owner: Owner, folder: int) -> None:
    """Note that its process writes no more: on a full disk in the file that is there, which needs no room."""
    closed = replace(owner, closed=True)
    if write(closed, folder):
        return
    with contextlib.suppress(OSError):
        fd = os.open(FILE, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.ftruncate(fd, os.pwrite(fd, _framed(closed), 0))
        finally:
            os.close(fd)


def renew_heartbeat(folder: int) -> bool:
    """Say that this process is alive. Return False where it has to be noted anew."""
    try:
        os.utime(FILE, dir_fd=folder, follow_symlinks=False)
        return os.stat(FILE, dir_fd=folder, follow_symlinks=False).st_size > 0
    except OSError:
        return False


def is_alive(name: str, folder: int, owner: Owner | None = None) -> bool:
    """Return whether the process of a journal is alive, as far as its lock, which is free, does not tell.

    Raise OSError where that cannot be told now.
    """
    owner = read(folder) if owner is None else owner
    if owner is None or owner.closed:
        return False
    runs = _runs_here(name, owner)
    return _age(folder) < _STALE_S if runs is None else runs


def has_ended(name: str, folder: int) -> bool:
    """Return whether the process of a journal is known to write no more, whoever holds its lock.

    Raise OSError where that cannot be told now.
    """
    owner = read(folder)
    return owner is not None and (owner.closed or _runs_here(name, owner) is False)


def _runs_here(name: str, owner: Owner) -> bool | None:
    """Return whether the process runs that writes a journal; None where that is not seen from here."""
    me = this_process()
    is_near = (owner.boot, owner.namespace) == (me.boot, me.namespace) and owner.boot.strip("0")
    if not (is_near and owner.started and me.started):
        return None
    if (owner.pid, owner.started) == (me.pid, me.started):
        return name in open_journals
    state, started = _state_of(owner.pid)
    return started == owner.started and state not in _ENDED


def _age(folder: int) -> float:
    """Return for how many seconds a process has not said that it is alive."""
    try:
        beaten = os.stat(FILE, dir_fd=folder, follow_symlinks=False).st_mtime
    except OSError:
        return _STALE_S
    now = time.time()
    probe = f".new-{secrets.token_hex(8)}"
    with contextlib.suppress(OSError):  # the clock of the server that the files lie on
        fd = directories.create(probe, folder)
        now = os.fstat(fd).st_mtime
        os.close(fd)
        os.unlink(probe, dir_fd=folder)
    return now - beaten


# -- places -----------------------------------------------------------------------------------------------------------


def remember_endpoint(endpoint: Endpoint, folder: int) -> None:
    """Note, beside the dead letters of a name, which endpoint it led to last. Never raises."""
    if endpoint.ids and endpoint != recall_endpoint(folder):
        noted = frame(Kind.OPENED, orjson.dumps(endpoint_as_json(endpoint)))
        with contextlib.suppress(OSError):
            directories.replace(_PLACE, folder, noted, sync=False)


def recall_endpoint(folder: int) -> Endpoint:
    """Return which endpoint the name led to last."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        for found in frames_in(directories.read_file(_PLACE, folder)):
            return endpoint_from_json(orjson.loads(found.payload))
    return Endpoint()


def endpoint_as_json(endpoint: Endpoint) -> dict[str, Any]:
    """Return `endpoint` as files of the journal have it."""
    return {"name": endpoint.name, "ids": sorted(endpoint.ids)}


def endpoint_from_json(fields: dict[str, Any]) -> Endpoint:
    """Return what `endpoint_as_json` was given. Raise KeyError, TypeError or AttributeError for anything else."""
    return Endpoint(str(fields["name"]), frozenset(map(str, fields["ids"])))
