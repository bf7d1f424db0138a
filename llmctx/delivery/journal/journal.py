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
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.endpoint import Endpoint
from llmctx.core.process import Forkable, ForkStage, fork_lock
from llmctx.core.record import CallRecord
from llmctx.core.scheduling import yielding
from llmctx.delivery.journal import directory as directories
from llmctx.delivery.journal import owner as owners
from llmctx.delivery.journal.dead_journal import Accepts, DeadJournal, has_orphans, open_dead_journals, recover
from llmctx.delivery.journal.dead_letters import DeadLetters
from llmctx.delivery.journal.frames import Kind, done_payload, frame, pack_record
from llmctx.delivery.journal.record_files import RecordFiles
from llmctx.delivery.journal.start_markers import Markers

_MIB: Final = 1024 * 1024
_BEAT_S: Final = 5.0
_MOST_NOT_NOTED: Final = 100_000


class Journal(RecordFiles):
    """The journal of this process, in a directory that others share.

    `start` may be called by any thread. Everything else belongs to one thread, the pipeline's. A forked child must
    not use what it inherited, which does nothing there, but make its own.

    Args:
        directory: made if it is missing.
        limit_bytes: bound of this process's files. Records are refused when it is reached; markers have a reserve.
        segment_bytes: size at which a new file of records is begun.
        fsync_s: None leaves it to the kernel when to write; else `sync` waits for the disk, no oftener than that.
        endpoint: where its rows go, as far as that is known (`note_endpoint`).

    Raises `JournalUnavailable` if the directory cannot be made or written.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        limit_bytes: int = 1024 * _MIB,
        segment_bytes: int = 8 * _MIB,
        fsync_s: float | None = None,
        endpoint: Endpoint | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._limit = limit_bytes
        self._reserve = limit_bytes // 8  # for markers
        super().__init__(segment_bytes, fsync_s)
        self._synced_at = self._beaten_at = 0.0
        self.endpoint = endpoint or Endpoint()
        self._is_known = False
        """Its file says whose it is."""
        self._not_noted: list[bytes] = []
        """Calls that are done, which could not be written yet."""
        self._closed = False
        with fork_lock:  # a child in between would inherit a lock that it does not know of
            self._open(directory)

    def _open(self, directory: str | os.PathLike[str]) -> None:
        self._root = directories.open_private(directory)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._root)
            try:
                self.dead_letters = DeadLetters(self._root, fsync=self._fsync_s is not None)
                undo.callback(self.dead_letters.close)
                for folder in (self._root, self.dead_letters.folder):
                    directories.remove_stale(folder)
                self.name, self._folder, self._lock = directories.make_process_directory(self._root)
                undo.callback(os.close, self._folder)
                undo.callback(os.close, self._lock)
                undo.callback(directories.clear, self.name, self._folder, self._root)
                self._markers = Markers(
                    self._new_file, self._folder, self._reserve, self._file_limit, self._fsync_s is not None
                )
                undo.callback(self._markers.close)
                self.start = self._markers.start
                self._rotated_at = directories.rotation_requested_at(self._root)
                self._begin_segment()
            except OSError as problem:
                raise directories.unavailable_error(directory, problem) from problem
            if not self.endpoint.ids:  # where this name led last
                self.endpoint = Endpoint(self.endpoint.name, owners.recall_endpoint(self.dead_letters.folder).ids)
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
        """Return the bytes of this process's files."""
        return self._markers.size + sum(segment.size for segment in self._segments)

    def append(self, records: Sequence[CallRecord], packed: Sequence[bytes] | None = None) -> int:
        """Append `records`, in order. Returns how many of them, from the first, are in the journal now.

        `packed` is what `pack_record` makes of each, where that is made already.

        The others did not fit (see `last_error`): keep them in memory, or make them smaller, and try again. A record
        that is there already, and not done, is not written twice.
        """
        if self._closed:
            return 0
        self.last_error = None
        at = 0
        while at < len(records):
            taken, fitted = self._append_some(records, packed, at)
            at += fitted
            if fitted < taken or not taken:
                break
        return at

    def _append_some(self, records: Sequence[CallRecord], packed: Sequence[bytes] | None, at: int) -> tuple[int, int]:
        """Append in one write. Return how many records were to be appended, and how many were."""
        if self._segments[-1].size >= self._segment_bytes and not self._rotate() and not self._may_overgrow:
            return 0, 0
        if self._unsynced_bytes >= self._segment_bytes and not self._sync_records():
            return 0, 0
        segment = self._segments[-1]
        by_all = self._limit - self._reserve - self.used_bytes
        by_file = by_all if self._file_limit is None else self._file_limit - segment.size
        room = min(by_all, by_file)
        frames: list[tuple[bytes, bytes]] = []
        size = 0
        for number, record in enumerate(yielding(itertools.islice(records, at, None)), at):
            call_id = record.call_id.bytes
            made = b""
            if self._holding(call_id) is None:
                made = frame(Kind.RECORD, pack_record(record) if packed is None else packed[number])
            if size + len(made) > room:
                if frames:
                    break
                if by_file < by_all and segment.size > segment.empty_size and self._rotate():
                    return self._append_some(records, packed, at)
                limit = f"{self._limit} bytes"
                if by_file < by_all:
                    limit = f"{self._file_limit} bytes a file, this process's limit"
                self.last_error = f"the journal is full: {limit}"
                diagnostics.count("journal_full", "the journal is full (%s): rows do not fit", limit)
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
            self._markers.remove(call_id)
        return len(frames), fitted

    def mark_done(self, call_ids: Iterable[bytes]) -> None:
        """Note that the rows of these calls are stored, or dead letters, or that there will be none."""
        gone = []
        for call_id in call_ids:
            segment = self._holding(call_id)
            if segment is not None:
                segment.pending.pop(call_id, None)
            if self._markers.remove(call_id) or segment is not None:
                gone.append(call_id)
        if gone and not self._closed:
            self._note_done(gone)

    def _note_done(self, gone: list[bytes]) -> None:
        """Note that rows are stored; again later where it cannot be written: a crash until then only repeats them."""
        self._not_noted += gone
        if self._note(frame(Kind.DONE, done_payload(self._not_noted))) or len(self._not_noted) > _MOST_NOT_NOTED:
            self._not_noted = []

    def checkpoint(self) -> None:
        """Let go of what is done, and say that this process is alive. Call it every second or so; never raises."""
        if self._closed:
            return
        if time.monotonic() - self._beaten_at > _BEAT_S:
            self._beaten_at = time.monotonic()
            if not self._is_known or not owners.renew_heartbeat(self._folder):
                self._say_whose()
        try:
            current = self._segments[-1]
            asked = directories.rotation_requested_at(self._root)
            is_requested = asked != self._rotated_at
            if is_requested or (not current.pending and current.size >= self._segment_bytes // 8):
                self._rotate()
            if is_requested or self._markers.is_overgrown(self._segment_bytes) or self._over():
                self._markers.rewrite()
            if self._segments[-1] is not current:
                self._rotated_at = asked
        except OSError as problem:
            diagnostics.count("journal_failed", "old files of the journal could not be removed: %s", problem)
        # Also with a disk that is too full for new markers: only this makes room. Then markers may outlive their
        # records: after a crash such calls are delivered as lost once more, and the database has them already.
        for segment in self._over():
            with contextlib.suppress(OSError):
                os.unlink(segment.name, dir_fd=self._folder)
            self._segments.remove(segment)
        if self._not_noted:
            self._note_done([])

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

    def note_endpoint(self, endpoint: Endpoint) -> None:
        """Note where its rows go, as soon as that is known. Never raises."""
        if not self._closed and endpoint != self.endpoint:
            self.endpoint = endpoint
            self._say_whose()
            owners.remember_endpoint(endpoint, self.dead_letters.folder)

    def _say_whose(self) -> None:
        self.dead_letters.endpoint = self.endpoint
        self._is_known = owners.write(replace(owners.this_process(), endpoint=self.endpoint), self._folder)

    def recover(self, accepts: Accepts | None = None, elsewhere: Sequence[Path] = ()) -> Iterator[DeadJournal]:
        """Yield the journals of processes that have died, each to one of the processes that ask. See `DeadJournal`.

        Of those in its own directory, and `elsewhere`, only such as `accepts`, if that is given, returns True for.
        Any thread may do this, one at a time. A large one takes a second to read: do not do it in an event loop.
        """
        return iter(()) if self._closed else recover(os.dup(self._root), accepts, elsewhere)

    def open_dead_journals(
        self, accepts: Accepts | None = None, elsewhere: Sequence[Path] = ()
    ) -> contextlib.AbstractContextManager[Iterator[DeadJournal]]:
        """Open what `recover` yields, for the caller to release before the end of the block: several at a time."""
        return open_dead_journals(os.dup(self._root), accepts, elsewhere)

    def has_orphans(self, elsewhere: Sequence[Path] = ()) -> bool:
        """Return whether `recover` would yield anything. Any thread may ask; nothing large is read."""
        return not self._closed and has_orphans(os.dup(self._root), elsewhere)

    @property
    def has_company(self) -> bool:
        """Return whether there are journals of other processes, living or dead."""
        return not self._closed and any(name != self.name for name in directories.process_directories_in(self._root))

    @property
    def is_intact(self) -> bool:
        """Return whether its files hold what was written to them: they may have been removed, moved or cut."""
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
        """Return whether the file that is being written was removed: no process would ever find what is in it."""
        return not self._closed and os.fstat(self._records).st_nlink == 0

    @property
    def is_displaced(self) -> bool:
        """Return whether its directory's name leads elsewhere by now: no process would look for it where it lies."""
        here = directories.is_directory_at(self.directory, self._root) and directories.is_directory_at(
            self.name, self._folder, self._root
        )
        return not self._closed and not here

    def copy_starts(self, other: Journal) -> None:
        """Note the calls that are open in `other`. Never raises."""
        self._markers.copy_from(other._markers)

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
            owners.close(replace(owners.this_process(), endpoint=self.endpoint), self._folder)
        else:
            directories.clear(self.name, self._folder, self._root)
        self._let_go()
        return left

    def leave_to_recovery(self) -> int:
        """End it, and leave its records to another process; calls that are open are in another journal of this one.

        Return how many records that are. Raise OSError where its markers, of which rows would be made, cannot be
        removed: nothing has changed then.
        """
        for name in directories.names_in(self._folder):
            if name.startswith("starts"):
                os.unlink(name, dir_fd=self._folder)
        left = self.pending
        if not left:
            return self.close(discard=True)
        self._note(frame(Kind.END, b""))
        owners.close(replace(owners.this_process(), endpoint=self.endpoint), self._folder)
        self._let_go()
        return left

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
        """Close all in a forked child: the files are the parent's, and its lock must end with it."""
        if not self._closed:
            self._let_go()


_alive: Final = Forkable(ForkStage.JOURNAL, Journal._leave_to_parent)
