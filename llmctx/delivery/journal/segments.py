"""A process's own journal: what it has promised to write, on disk before it is in the database.

Start markers and records lie in separate files, because they have separate writers: the callers' threads
(`start_markers.py`) and the pipeline's, which appends a batch at a time. What has been handed to the kernel survives
kill -9; waiting for the disk (`sync`) adds power loss.

A file of records goes when all of its rows are in the database. Before it does, the markers are rewritten, so that no
marker outlives the record that answers it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from llmctx.core.diagnostics import diagnostics
from llmctx.core.process import Forkable, ForkStage, not_forking
from llmctx.core.record import CallRecord
from llmctx.core.scheduling import yielding
from llmctx.delivery.journal import directory as directories
from llmctx.delivery.journal.dead_letters import DeadLetters
from llmctx.delivery.journal.frames import Kind, done_payload, frame, frames_in, pack_record, unpack_record
from llmctx.delivery.journal.recovery import DeadJournal, recover
from llmctx.delivery.journal.start_markers import Markers

_MIB: Final = 1024 * 1024


class _Segment:
    """A file of records."""

    __slots__ = ("empty_size", "name", "pending", "size")

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = self.empty_size = size
        self.pending: dict[bytes, None] = {}  # of as many as wait: smaller than a set, and there is no other index


class Journal:
    """The journal of this process, in a directory that others share.

    `start` may be called by any thread. Everything else belongs to one thread, the pipeline's. A forked child must
    not use what it inherited, which does nothing there, but make its own.

    Args:
        directory: made if it is missing.
        limit_bytes: bound of this process's files. Records are refused when it is reached; markers have a reserve.
        segment_bytes: size at which a new file of records is begun.
        fsync_s: None leaves it to the kernel when to write; else `sync` waits for the disk, no oftener than that.

    Raises `JournalUnavailable` if the directory cannot be made or written.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        limit_bytes: int = 1024 * _MIB,
        segment_bytes: int = 8 * _MIB,
        fsync_s: float | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._limit = limit_bytes
        self._reserve = limit_bytes // 8  # for markers
        self._fsync_s = fsync_s
        self._synced_at = 0.0
        self._dirty = False
        soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        # writing beyond it is a signal that kills where the host has left it at its default
        self._file_limit: int | None = None if soft == resource.RLIM_INFINITY else soft
        self._segment_bytes = segment_bytes if self._file_limit is None else min(segment_bytes, self._file_limit)
        self._numbers = itertools.count(1)
        self._segments: list[_Segment] = []
        self._closed = False
        self.last_error: str | None = None
        """Why the last append did not fit, in a sentence; None while all is well."""
        with not_forking:  # a child in between would inherit a lock that it does not know of
            self._open(directory)

    def _open(self, directory: str | os.PathLike[str]) -> None:
        self._root = directories.open_private(directory)
        opened = [self._root]
        try:
            self.dead_letters = DeadLetters(self._root)
            opened.append(self.dead_letters.folder)
            for folder in opened:
                directories.sweep(folder)
            self.name, self._folder, self._lock = directories.make_process_directory(self._root)
            opened += self._folder, self._lock
            self._markers = Markers(
                self._new_file, self._folder, self._reserve, self._file_limit, self._fsync_s is not None
            )
            self.start = self._markers.start
            self._records = -1
            self._rotated_at = directories.rotation_requested_at(self._root)
            try:
                self._begin_segment()
            except OSError:
                self._markers.close()
                raise
        except OSError as problem:
            for fd in opened:
                os.close(fd)
            raise directories.unavailable(directory, problem) from problem
        _alive.add(self)

    # -- from any thread --------------------------------------------------------------------------------------------

    start: Callable[[bytes, float, Mapping[str, Any] | bytes], bool]
    """Note that a call has started: `Markers.start`. Never raises, waits for nothing."""

    # -- in the pipeline's thread -----------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """Bytes of this process's files."""
        return self._markers.size + sum(segment.size for segment in self._segments)

    @property
    def pending(self) -> int:
        """Records that are in the journal and not done."""
        return sum(len(segment.pending) for segment in self._segments)

    def append(self, records: Sequence[CallRecord]) -> int:
        """Append `records`, in order. Returns how many of them, from the first, are in the journal now.

        The others did not fit (see `last_error`): keep them in memory, or make them smaller, and try again. A record
        that is there already, and not done, is not written twice.
        """
        if self._closed:
            return 0
        self.last_error = None
        at = 0
        while at < len(records):
            taken, fitted = self._append_some(records, at)
            at += fitted
            if fitted < taken or not taken:
                break
        return at

    def _append_some(self, records: Sequence[CallRecord], at: int) -> tuple[int, int]:
        """One write: how many records were to be appended, and how many were."""
        segment = self._segments[-1]
        if segment.size >= self._segment_bytes and not self._rotate():
            return 0, 0
        segment = self._segments[-1]
        by_all = self._limit - self._reserve - self.used_bytes
        by_file = by_all if self._file_limit is None else self._file_limit - segment.size
        room = min(by_all, by_file)
        frames: list[tuple[bytes, bytes]] = []
        size = 0
        for record in yielding(itertools.islice(records, at, None)):
            call_id = record.call_id.bytes
            made = b"" if self._holding(call_id) is not None else frame(Kind.RECORD, pack_record(record))
            if size + len(made) > room:
                if by_file < by_all and not frames and segment.size > segment.empty_size and self._rotate():
                    return self._append_some(records, at)
                self.last_error = f"the journal is full: {self._limit} bytes"
                diagnostics.count("journal_full", "the journal is full (%d bytes): rows do not fit", self._limit)
                break
            frames.append((call_id, made))
            size += len(made)
            if segment.size + size >= self._segment_bytes:
                break
        fitted = self._write(segment, frames)
        for call_id, made in frames[:fitted]:
            if made:
                segment.pending[call_id] = None
            self._markers.answered(call_id)
        return len(frames), fitted

    def _write(self, segment: _Segment, frames: list[tuple[bytes, bytes]]) -> int:
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

    def done(self, call_ids: Iterable[bytes]) -> None:
        """Note that the rows of these calls are stored, or dead letters, or that there will be none."""
        gone = []
        for call_id in call_ids:
            segment = self._holding(call_id)
            if segment is not None:
                segment.pending.pop(call_id, None)
            if self._markers.answered(call_id) or segment is not None:
                gone.append(call_id)
        if gone and not self._closed:
            # If this cannot be written they are delivered once more after a crash, which is harmless.
            self._note(frame(Kind.DONE, done_payload(gone)))

    def _holding(self, call_id: bytes) -> _Segment | None:
        """Return the file that has the record of a call that is not done."""
        for segment in self._segments:  # the oldest first: its rows are done next
            if call_id in segment.pending:
                return segment
        return None

    def _note(self, made: bytes) -> None:
        segment = self._segments[-1]
        if self._file_limit is not None and segment.size + len(made) > self._file_limit:
            return
        self._dirty = True
        written, why = directories.append(self._records, made)
        if written < len(made):
            with contextlib.suppress(OSError):
                os.ftruncate(self._records, segment.size)
                written = 0
            diagnostics.count("journal_failed", "the journal cannot be written: %s", why)
        segment.size += written

    def waiting(self) -> Iterator[CallRecord]:
        """Yield the records that are in the journal and not done, oldest first, read as they are asked for."""
        for segment in list(self._segments):
            if segment.pending:
                for found in frames_in(directories.read_file(segment.name, self._folder)):
                    if found.kind == Kind.RECORD and found.payload[:16] in segment.pending:
                        with contextlib.suppress(ValueError):
                            yield unpack_record(found.payload)

    def checkpoint(self) -> None:
        """Let go of what is done. Call it every second or so; never raises."""
        if self._closed:
            return
        try:
            current = self._segments[-1]
            asked = directories.rotation_requested_at(self._root)
            is_requested, self._rotated_at = asked != self._rotated_at, asked
            if is_requested or (not current.pending and current.size >= self._segment_bytes // 8):
                self._rotate()
            if is_requested or self._markers.is_overgrown(self._segment_bytes) or self._over():
                self._markers.rewrite()
        except OSError as problem:
            diagnostics.count("journal_failed", "old files of the journal could not be removed: %s", problem)
        # Also with a disk that is too full for new markers: only this makes room. Then markers may outlive their
        # records: after a crash such calls are delivered as lost once more, and the database has them already.
        for segment in self._over():
            with contextlib.suppress(OSError):
                os.unlink(segment.name, dir_fd=self._folder)
            self._segments.remove(segment)

    def _over(self) -> list[_Segment]:
        return [segment for segment in self._segments[:-1] if not segment.pending]

    def sync(self, *, now: bool = False) -> None:
        """Wait for the disk, if that is wanted and due, or wanted and to be `now`. Never raises."""
        if self._fsync_s is None or self._closed or not (self._dirty or self._markers.dirty):
            return
        at = time.monotonic()
        if not now and at - self._synced_at < self._fsync_s:
            return
        self._synced_at = at
        self._dirty = False
        try:
            os.fdatasync(self._records)
            self._markers.sync()
        except OSError as problem:
            self._dirty = True
            diagnostics.count("journal_failed", "the journal could not be synced: %s", problem)

    def recover(self) -> Iterator[DeadJournal]:
        """Yield the journals of processes that have died, each to one of the processes that ask. See `DeadJournal`.

        Any thread may do this, one at a time. A large one takes a second to read: do not do it in an event loop.
        """
        return iter(()) if self._closed else recover(os.dup(self._root))

    @property
    def has_company(self) -> bool:
        """Whether there are journals of other processes, living or dead."""
        return not self._closed and any(name != self.name for name in directories.process_directories_in(self._root))

    @property
    def has_vanished(self) -> bool:
        """Whether the files that are being written were removed: no process would ever find what is in them."""
        if self._closed:
            return False
        return self._markers.has_vanished or any(os.fstat(fd).st_nlink == 0 for fd in (self._lock, self._records))

    @property
    def is_displaced(self) -> bool:
        """Whether its directory's name leads elsewhere by now: no process would look for it where it lies."""
        here = directories.leads_to(self.directory, self._root) and directories.leads_to(
            self.name, self._folder, self._root
        )
        return not self._closed and not here

    def pending_ids(self) -> list[bytes]:
        """Return the calls whose records are in the journal and not done."""
        return [call_id for segment in self._segments for call_id in segment.pending]

    def close(self, *, discard: bool = False) -> int:
        """End it. Return how many records, and calls without one, are left for the process that recovers them.

        With `discard` nothing is left: all of it is in another journal.
        """
        if self._closed:
            return 0
        left = 0 if discard else self.pending + len(self._markers)
        if left:
            self._note(frame(Kind.END, b""))
            with contextlib.suppress(OSError):
                os.fdatasync(self._records)
        else:
            directories.clear(self.name, self._folder, self._root)
        self._let_go()
        self.dead_letters.close()
        os.close(self._root)
        return left

    # -- files --------------------------------------------------------------------------------------------------------

    def _new_file(self, what: str) -> tuple[str, int]:
        name = f"{what}-{next(self._numbers):08d}"
        fd = directories.create(name, self._folder)
        opened = {"pid": os.getpid(), "boot": directories.boot_id(), "at": time.time()}
        try:
            os.write(fd, frame(Kind.OPENED, orjson.dumps(opened)))
            if self._fsync_s is not None:
                os.fsync(self._folder)  # so that the file is still there after a power loss
        except BaseException:
            os.close(fd)
            os.unlink(name, dir_fd=self._folder)
            raise
        return name, fd

    def _begin_segment(self) -> None:
        name, fd = self._new_file("records")
        if self._records >= 0:
            if self._fsync_s is not None:
                os.fdatasync(self._records)
            os.close(self._records)
        self._records = fd
        self._segments.append(_Segment(name, os.fstat(fd).st_size))

    def _rotate(self) -> bool:
        try:
            self._begin_segment()
        except OSError as problem:
            self.last_error = f"the journal cannot be written: {os.strerror(problem.errno or 0)}"
            diagnostics.count("journal_failed", "the journal cannot create a new file: %s", problem)
            return False
        return True

    def _let_go(self) -> None:
        self._closed = True
        self._markers.close()
        os.close(self._records)
        os.close(self._lock)
        os.close(self._folder)
        _alive.discard(self)

    def _leave_to_parent(self) -> None:
        """In a forked child: the files are the parent's, and its lock must end with it."""
        if not self._closed:
            self._let_go()
            self.dead_letters.close()
            os.close(self._root)


_alive: Final = Forkable(ForkStage.JOURNAL, Journal._leave_to_parent)
