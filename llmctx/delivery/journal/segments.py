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
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import orjson

from llmctx.core.diagnostics import diagnostics
from llmctx.core.place import Place
from llmctx.core.process import Forkable, ForkStage, not_forking
from llmctx.core.record import CallRecord
from llmctx.core.scheduling import yielding
from llmctx.delivery.journal import directory as directories
from llmctx.delivery.journal import owner as owners
from llmctx.delivery.journal.dead_letters import DeadLetters
from llmctx.delivery.journal.frames import Kind, done_payload, frame, frames_in, pack_record, unpack_record
from llmctx.delivery.journal.recovery import Accepts, DeadJournal, recover
from llmctx.delivery.journal.segment import Segment
from llmctx.delivery.journal.start_markers import Markers

_MIB: Final = 1024 * 1024
_BEAT_S: Final = 5.0


class Journal:
    """The journal of this process, in a directory that others share.

    `start` may be called by any thread. Everything else belongs to one thread, the pipeline's. A forked child must
    not use what it inherited, which does nothing there, but make its own.

    Args:
        directory: made if it is missing.
        limit_bytes: bound of this process's files. Records are refused when it is reached; markers have a reserve.
        segment_bytes: size at which a new file of records is begun.
        fsync_s: None leaves it to the kernel when to write; else `sync` waits for the disk, no oftener than that.
        place: where its rows go, as far as that is known (`note_place`).

    Raises `JournalUnavailable` if the directory cannot be made or written.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        limit_bytes: int = 1024 * _MIB,
        segment_bytes: int = 8 * _MIB,
        fsync_s: float | None = None,
        place: Place | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._limit = limit_bytes
        self._reserve = limit_bytes // 8  # for markers
        self._fsync_s = fsync_s
        self._synced_at = 0.0
        self._dirty = False
        self._unsynced: list[tuple[bytes, bytes]] = []
        """What was written since the disk was waited for, where it is to be: should that fail, it is written anew."""
        self._unsynced_bytes = 0
        self.place = place or Place()
        self._beaten_at = 0.0
        soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        # writing beyond it is a signal that kills where the host has left it at its default
        self._file_limit: int | None = None if soft == resource.RLIM_INFINITY else soft
        self._segment_bytes = segment_bytes if self._file_limit is None else min(segment_bytes, self._file_limit)
        self._numbers = itertools.count(1)
        self._segments: list[Segment] = []
        self._closed = False
        self.last_error: str | None = None
        """Why the last append did not fit, in a sentence; None while all is well."""
        with not_forking:  # a child in between would inherit a lock that it does not know of
            self._open(directory)

    def _open(self, directory: str | os.PathLike[str]) -> None:
        self._root = directories.open_private(directory)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._root)
            try:
                self.dead_letters = DeadLetters(self._root, fsync=self._fsync_s is not None)
                undo.callback(self.dead_letters.close)
                for folder in (self._root, self.dead_letters.folder):
                    directories.sweep(folder)
                self.name, self._folder, self._lock = directories.make_process_directory(self._root)
                undo.callback(os.close, self._folder)
                undo.callback(os.close, self._lock)
                undo.callback(directories.clear, self.name, self._folder, self._root)
                self._markers = Markers(
                    self._new_file, self._folder, self._reserve, self._file_limit, self._fsync_s is not None
                )
                undo.callback(self._markers.close)
                self.start = self._markers.start
                self._records = -1
                self._rotated_at = directories.rotation_requested_at(self._root)
                self._begin_segment()
            except OSError as problem:
                raise directories.unavailable(directory, problem) from problem
            if not self.place.ids:  # where this name led last
                self.place = Place(self.place.name, owners.recall(self.dead_letters.folder).ids)
            self._say_whose()
            undo.pop_all()
        owners.open_journals.add(self.name)
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
        if self._unsynced_bytes >= self._segment_bytes and not self._sync_records():
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
                self._keep_until_synced(call_id, made)
            self._markers.answered(call_id)
        return len(frames), fitted

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

    def _holding(self, call_id: bytes) -> Segment | None:
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
                is_current = segment is self._segments[-1]
                for found in frames_in(segment.read(self._folder, self._records if is_current else None)):
                    if found.kind == Kind.RECORD and found.payload[:16] in segment.pending:
                        with contextlib.suppress(ValueError):
                            yield unpack_record(found.payload)

    def checkpoint(self) -> None:
        """Let go of what is done, and say that this process is alive. Call it every second or so; never raises."""
        if self._closed:
            return
        if time.monotonic() - self._beaten_at > _BEAT_S:
            self._beaten_at = time.monotonic()
            if not owners.beat(self._folder):
                self._say_whose()
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

    def _over(self) -> list[Segment]:
        return [segment for segment in self._segments[:-1] if not segment.pending]

    def sync(self, *, now: bool = False) -> None:
        """Wait for the disk, if that is wanted and due, or wanted and to be `now`. Never raises."""
        if self._fsync_s is None or self._closed or not (self._dirty or self._markers.dirty):
            return
        at = time.monotonic()
        if not now and at - self._synced_at < self._fsync_s:
            return
        self._synced_at = at
        self._sync_records()
        try:
            self._markers.sync()
        except OSError as problem:
            self._failed_to_sync(problem)

    def _keep_until_synced(self, call_id: bytes, made: bytes) -> None:
        if self._fsync_s is not None:
            self._unsynced.append((call_id, made))
            self._unsynced_bytes += len(made)

    def _sync_records(self) -> bool:
        """Wait for the disk. Where that fails, nothing that was written since the last time counts as written.

        The kernel calls the pages clean all the same, and a second attempt would succeed without writing them.
        """
        self._dirty = False
        try:
            os.fdatasync(self._records)
        except OSError as problem:
            self._failed_to_sync(problem)
            if not self._write_anew():
                self._dirty = True
                return False
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
        diagnostics.count("journal_failed", "the journal could not be synced, and is written anew: %s", problem)

    def note_place(self, place: Place) -> None:
        """Note where its rows go, as soon as that is known. Never raises."""
        if not self._closed and place != self.place:
            self.place = place
            self._say_whose()
            owners.remember(place, self.dead_letters.folder)

    def _say_whose(self) -> None:
        self.dead_letters.place = self.place
        owners.write(replace(owners.this_process(), place=self.place), self._folder)

    def recover(self, accepts: Accepts | None = None, elsewhere: Sequence[Path] = ()) -> Iterator[DeadJournal]:
        """Yield the journals of processes that have died, each to one of the processes that ask. See `DeadJournal`.

        Of those in its own directory, and `elsewhere`, only such as `accepts`, if that is given, returns True for.
        Any thread may do this, one at a time. A large one takes a second to read: do not do it in an event loop.
        """
        return iter(()) if self._closed else recover(os.dup(self._root), accepts, elsewhere)

    @property
    def has_company(self) -> bool:
        """Whether there are journals of other processes, living or dead."""
        return not self._closed and any(name != self.name for name in directories.process_directories_in(self._root))

    @property
    def is_intact(self) -> bool:
        """Whether its files hold what was written to them: they may have been removed, moved, cut or exchanged."""
        if self._closed:
            return True
        lock = os.fstat(self._lock)
        return (
            directories.is_file(directories.LOCK, self._folder, inode=lock.st_ino, size=0)
            and self._markers.is_intact
            and all(segment.is_intact(self._folder) for segment in self._segments)
            and self._segments[-1].begins(self._records)
        )

    @property
    def has_vanished(self) -> bool:
        """Whether the file that is being written was removed: no process would ever find what is in it."""
        return not self._closed and os.fstat(self._records).st_nlink == 0

    @property
    def is_displaced(self) -> bool:
        """Whether its directory's name leads elsewhere by now: no process would look for it where it lies."""
        here = directories.leads_to(self.directory, self._root) and directories.leads_to(
            self.name, self._folder, self._root
        )
        return not self._closed and not here

    def take_starts(self, other: Journal) -> None:
        """Note the calls that are open in `other`. Never raises."""
        self._markers.take(other._markers)

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
            owners.close(replace(owners.this_process(), place=self.place), self._folder)
        else:
            directories.clear(self.name, self._folder, self._root)
        self._let_go()
        return left

    # -- files --------------------------------------------------------------------------------------------------------

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
        if self._fsync_s is not None and self._unsynced and not self._sync_records():
            return False
        try:
            self._begin_segment()
        except OSError as problem:
            self.last_error = f"the journal cannot be written: {os.strerror(problem.errno or 0)}"
            diagnostics.count("journal_failed", "the journal cannot create a new file: %s", problem)
            return False
        return True

    def _let_go(self) -> None:
        """Close everything, the lock first: where the rest fails, no other process shall wait for it."""
        self._closed = True
        owners.open_journals.discard(self.name)
        _alive.discard(self)
        for fd in (self._lock, self._records, self._folder, self._root):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._markers.close()
        self.dead_letters.close()

    def _leave_to_parent(self) -> None:
        """In a forked child: the files are the parent's, and its lock must end with it."""
        if not self._closed:
            self._let_go()


_alive: Final = Forkable(ForkStage.JOURNAL, Journal._leave_to_parent)
