"""The files of records of one process: written in order, begun anew when long, and synced where that is wanted.

What the disk fails to keep is written anew: a kernel that could not write a page calls it clean all the same, and a
second attempt to wait for it would succeed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Set
from typing import Final

import orjson

from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import is_shortage
from llmctx.core.record import CallRecord
from llmctx.delivery.journal import directory as directories
from llmctx.delivery.journal.frames import Kind, frame, frames_in, unpack_record
from llmctx.delivery.journal.segment import Segment

_NO_FILE: Final = -1
_OVERGROWN: Final = 8
"""Times its size, to which a file grows where no descriptor is left for another one."""


def _file_limit() -> int | None:
    """Return how many bytes a file may have: beyond, a signal kills where the host has left it at its default."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if soft == resource.RLIM_INFINITY else soft


class RecordFiles:
    """The files in the directory that is open as `_folder`. Belongs to one thread."""

    _folder: int

    def __init__(self, segment_bytes: int, fsync_s: float | None) -> None:
        self._fsync_s = fsync_s
        self._dirty = False
        self._unsynced: list[tuple[bytes, bytes]] = []
        """Calls and their frames since the disk was waited for, where it is to be."""
        self._unsynced_bytes = 0
        self._distrusted = False
        """The disk has failed to keep what was written last, and that has not been written anew."""
        self._file_limit = _file_limit()
        self._segment_bytes = segment_bytes if self._file_limit is None else min(segment_bytes, self._file_limit)
        self._numbers = itertools.count(1)
        self._segments: list[Segment] = []
        self._records = _NO_FILE
        self._may_overgrow = False
        """No other file can be made now, and the one that is open may grow beyond its size."""
        self.last_error: str | None = None
        """Why the last append did not fit, in a sentence; None while all is well."""

    @property
    def pending(self) -> int:
        """Return the number of records that are in the journal and not done."""
        return sum(len(segment.pending) for segment in self._segments)

    def pending_ids(self) -> list[bytes]:
        """Return the calls whose records are in the journal and not done."""
        return [call_id for segment in self._segments for call_id in segment.pending]

    def pending_records(self, besides: Set[bytes] = frozenset()) -> Iterator[CallRecord]:
        """Yield the records that are in the journal and not done, but for these calls: oldest first, read as they are
        asked for.
        """
        for segment in list(self._segments):
            if not segment.pending.keys() <= besides:
                is_current = segment is self._segments[-1]
                for found in frames_in(segment.read(self._folder, self._records if is_current else None)):
                    call_id = found.payload[:16]
                    if found.kind == Kind.RECORD and call_id in segment.pending and call_id not in besides:
                        with contextlib.suppress(ValueError):
                            yield unpack_record(found.payload)

    def _holding(self, call_id: bytes) -> Segment | None:
        """Return the file that has the record of a call that is not done."""
        for segment in self._segments:  # the oldest first: its rows are done next
            if call_id in segment.pending:
                return segment
        return None

    def _over(self) -> list[Segment]:
        return [segment for segment in self._segments[:-1] if not segment.pending]

    def _write(self, segment: Segment, frames: list[tuple[bytes, bytes]]) -> int:
        """Append `frames` to `segment`, the current one. Returns how many are there, whole; nothing else is."""
        whole = b"".join(made for _, made in frames)
        self._dirty = True
        written, why = directories.append(self._records, whole)
        if written == len(whole):
            segment.size += written
            return len(frames)
        fitted = end = 0
        for _, made in frames:
            if end + len(made) > written:
                break
            end += len(made)
            fitted += 1
        with contextlib.suppress(OSError):  # a torn frame is passed over by readers
            os.ftruncate(self._records, segment.size + end)
            written = end
        segment.size += written
        self.last_error = f"the journal cannot be written: {why}"
        diagnostics.count("journal_failed", "the journal cannot be written: %s. Rows wait in memory.", why)
        return fitted

    def _note(self, made: bytes) -> bool:
        segment = self._segments[-1]
        if self._file_limit is not None and segment.size + len(made) > self._file_limit:
            return False
        self._dirty = True
        written, why = directories.append(self._records, made)
        is_whole = written == len(made)
        if not is_whole:
            with contextlib.suppress(OSError):
                os.ftruncate(self._records, segment.size)
                written = 0
            diagnostics.count("journal_failed", "the journal cannot be written: %s", why)
        segment.size += written
        return is_whole

    def _new_file(self, what: str) -> tuple[str, int, bytes]:
        """Return the name of a new file, its descriptor, and what stands in it."""
        name = f"{what}-{next(self._numbers):08d}"
        fd = directories.create(name, self._folder)
        opened = frame(
            Kind.OPENED, orjson.dumps({"pid": os.getpid(), "boot": directories.boot_id(), "at": time.time()})
        )
        try:
            os.write(fd, opened)
            if self._fsync_s is not None:
                os.fsync(self._folder)  # so that the file is still there after a power loss
        except BaseException:
            os.close(fd)
            os.unlink(name, dir_fd=self._folder)
            raise
        return name, fd, opened

    def _begin_segment(self) -> None:
        name, fd, head = self._new_file("records")
        if self._records >= 0:
            os.close(self._records)
        self._records = fd
        self._segments.append(Segment(name, fd, head))

    def _rotate(self) -> bool:
        self._may_overgrow = False
        if self._fsync_s is not None and self._unsynced and not self._sync_records():
            return False
        try:
            self._begin_segment()
        except OSError as problem:
            # of a file that is open more can be written, as long as it can be read back at once
            self._may_overgrow = is_shortage(problem) and self._segments[-1].size < _OVERGROWN * self._segment_bytes
            if not self._may_overgrow:
                self.last_error = f"the journal cannot be written: {os.strerror(problem.errno or 0)}"
            diagnostics.count("journal_failed", "the journal cannot create a new file: %s", problem)
            return False
        return True

    def _keep_until_synced(self, call_id: bytes, made: bytes) -> None:
        if self._fsync_s is not None:
            self._unsynced.append((call_id, made))
            self._unsynced_bytes += len(made)

    def _sync_records(self) -> bool:
        """Wait for the disk. Where that fails, nothing that was written since the last time counts as written.

        The kernel calls the pages clean all the same, and a second attempt would succeed without writing them.
        """
        self._dirty = False
        if not self._distrusted:
            try:
                os.fdatasync(self._records)
            except OSError as problem:
                self._distrusted = True
                self._failed_to_sync(problem)
        if self._distrusted and not self._write_anew():
            self._dirty = True
            return False
        self._distrusted = False
        self._unsynced.clear()
        self._unsynced_bytes = 0
        return True

    def _write_anew(self) -> bool:
        """Write what may not be on the disk into a new file. Return whether that is there."""
        before = list(self._segments)
        try:
            self._begin_segment()
            current = self._segments[-1]
            again = [(call_id, made) for call_id, made in self._unsynced if self._holding(call_id) is not None]
            if self._write(current, again) < len(again):
                return False
            os.fdatasync(self._records)
        except OSError as problem:
            self._failed_to_sync(problem)
            return False
        for call_id, _ in again:
            for segment in before:
                segment.pending.pop(call_id, None)
            current.pending[call_id] = None
        return True

    def _failed_to_sync(self, problem: OSError) -> None:
        self.last_error = f"the journal cannot be synced: {os.strerror(problem.errno or 0)}"
        diagnostics.count("journal_failed", "the journal could not be synced and is rewritten: %s", problem)
