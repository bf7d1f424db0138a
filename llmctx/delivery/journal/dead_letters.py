"""Rows that the destination will never take, with its reason, until the one or the other has been mended.

One file for all processes, of the same frames as the journal's, in a directory of its own with a lock that is held
for as long as a change takes. Bounded: what does not fit is refused, and its caller counts it as dropped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import orjson

from llmctx.core.diagnostics import diagnostics
from llmctx.core.endpoint import Endpoint
from llmctx.core.errors import TemporarilyUnavailable, is_shortage
from llmctx.core.pause import pause
from llmctx.core.process import fork_lock
from llmctx.core.record import CallRecord
from llmctx.delivery.journal import directory as directories
from llmctx.delivery.journal import owner as owners
from llmctx.delivery.journal.dead_journal import Keep, rewrite
from llmctx.delivery.journal.frames import ID_BYTES, Frame, Kind, frame, frames_in, pack_record, record_of
from llmctx.storage.sanitize import clean

_FILE: Final = "refused"
_LIMIT: Final = 64 * 1024 * 1024
_PATIENCE_S: Final = 1.0  # for the lock: its holder may have been stopped


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A row that was refused, when, and why."""

    record: CallRecord
    sqlstate: str
    reason: str
    at: datetime
    endpoint: Endpoint = field(default_factory=Endpoint)
    """Which destination it was that refused it."""


class DeadLetters:
    """The dead letters of a journal's directory. Any process may use them; one thread at a time."""

    def __init__(self, root: int, *, limit_bytes: int = _LIMIT, fsync: bool = False) -> None:
        """Open the directory, or make it; with `fsync`, wait for the disk. Raise OSError if neither works."""
        self._limit = limit_bytes
        self._fsync = fsync
        self.endpoint = Endpoint()
        """The destination that refuses."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(directories.DEAD_LETTERS, 0o700, dir_fd=root)
        self.folder = directories.open_inside(directories.DEAD_LETTERS, root)

    def append(self, record: CallRecord, sqlstate: str, reason: str) -> bool:
        """Keep `record`. Return False if that is impossible: the file or the disk is full.

        Raise `TemporarilyUnavailable` if the lock is held, or no descriptor is left.
        """
        at, endpoint = datetime.now(UTC).isoformat(), owners.endpoint_as_json(self.endpoint)
        about = orjson.dumps({"sqlstate": sqlstate, "reason": _plain(reason), "at": at, "place": endpoint})
        payload = pack_record(record)
        # {"record": {…}, "sqlstate": …}, without reading the record again
        whole = payload[:ID_BYTES] + b'{"record":' + payload[ID_BYTES:] + b"," + about[1:]
        made = frame(Kind.REFUSED, whole)
        try:
            with fork_lock, self._locked():
                return self._append(made)
        except OSError as problem:
            if is_shortage(problem) or isinstance(problem, TimeoutError):
                raise TemporarilyUnavailable(str(problem)) from problem
            diagnostics.count("quarantine_failed", "a dead letter could not be written: %s", problem)
            return False

    def _append(self, made: bytes) -> bool:
        try:
            fd = os.open(_FILE, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.folder)
        except FileNotFoundError:
            fd = directories.create(_FILE, self.folder)
        try:
            size = os.fstat(fd).st_size
            if size + len(made) > self._limit:
                diagnostics.count(
                    "quarantine_full", "the file of dead letters is full (%d bytes): a row is lost", self._limit
                )
                return False
            try:
                if os.write(fd, made) < len(made):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._sync(fd)
            except OSError:
                os.ftruncate(fd, size)
                raise
            return True
        finally:
            os.close(fd)

    def _sync(self, fd: int) -> None:
        """Wait for the disk, if that is wanted; where that fails, write the whole file anew. Raise OSError."""
        if self._fsync:
            try:
                os.fdatasync(fd)
            except OSError:
                directories.replace(_FILE, self.folder, directories.read_file(_FILE, self.folder))

    def read(self) -> Iterator[DeadLetter]:
        """Yield all that is there, oldest first. What cannot be read is passed over."""
        for found in frames_in(directories.read_file(_FILE, self.folder)):
            if found.kind == Kind.REFUSED:
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
                    letter = orjson.loads(found.payload[ID_BYTES:])
                    at = datetime.fromisoformat(letter["at"])
                    record = clean(record_of(letter["record"]))
                    yield DeadLetter(record, str(letter["sqlstate"]), str(letter["reason"]), at, endpoint_in(found))

    def __len__(self) -> int:
        return sum(found.kind == Kind.REFUSED for found in frames_in(directories.read_file(_FILE, self.folder)))

    def remove(self, call_ids: Collection[UUID]) -> int:
        """Remove these rows: they are stored now, or not wanted. Return how many there were. Raise OSError."""
        gone = {str(call_id) for call_id in call_ids}
        return self.erase(lambda columns: columns.get("call_id") not in gone)

    def erase(self, keep: Keep, of: Callable[[Endpoint], bool] = lambda endpoint: True) -> int:
        """Remove the rows of whose columns `keep` returns False, or change them; only such as went to places for which
        `of` returns True. Return how many. Raise OSError.
        """
        with fork_lock, self._locked():
            return rewrite(_FILE, self.folder, keep, lambda found: of(endpoint_in(found)))

    def close(self) -> None:
        """Close the directory's descriptor."""
        os.close(self.folder)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        until = time.monotonic() + _PATIENCE_S
        while (held := directories.lock(self.folder)) is None:
            if time.monotonic() > until:
                raise TimeoutError("another process holds the lock of the quarantine")
            pause(0.005)
        try:
            yield
        finally:
            os.close(held)


def endpoint_in(letter_frame: Frame) -> Endpoint:
    """Return which destination has refused the row in a frame."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        return owners.endpoint_from_json(orjson.loads(letter_frame.payload[ID_BYTES:])["place"])
    return Endpoint()


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
