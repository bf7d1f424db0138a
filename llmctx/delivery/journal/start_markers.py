"""Start markers: that a call has begun, noted before it is known how it ends.

Appended by the callers' threads, one `write` of one frame each, without a lock and without waiting for the disk. The
kernel keeps appends to one file apart, so frames of several threads never mix.

The file is begun anew now and then (`rewrite`) with the markers of the calls that are still open: the others are
forgotten, and a call that stays open for an hour pins a few hundred bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final

from llmctx.core.diagnostics import diagnostics
from llmctx.delivery.journal import directory as directories
from llmctx.delivery.journal.frames import start_frame

_LOOK_EVERY: Final = 256  # starts between two looks at the size of their file

NewFile = Callable[[str], tuple[str, int, bytes]]


class Markers:
    """The markers of one process. `start` may be called by any thread, everything else by one."""

    def __init__(self, new_file: NewFile, folder: int, limit: int, file_limit: int | None, fsync: bool) -> None:
        """Create the file. Raise OSError if that fails."""
        self._new_file = new_file
        self._folder = folder
        self._fsync = fsync
        self._limit = limit if file_limit is None else min(limit, file_limit)
        # beyond a limit of the process's a write is a signal that kills, where the host has left it at its default
        self._look_every = _LOOK_EVERY if file_limit is None else 1
        self._looks = itertools.count(1)
        self._open: dict[bytes, bytes] = {}
        self._stale: list[str] = []  # files whose markers could not be written again yet
        self._carried = 0  # bytes of those that were written again last
        self._full = False
        self._closed = False
        self.dirty = False
        self._distrusted = False  # the disk has failed to keep what is in the file
        self._seen_size = 0
        self._nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)  # now: later there may be no descriptor
        try:
            self._name, self._fd, self._head = new_file("starts")
        except BaseException:
            os.close(self._nowhere)
            raise

    def start(self, call_id: bytes, created_s: float, fields: Mapping[str, Any] | bytes) -> bool:
        """Note that a call has started. False if it could not be noted. Never raises, waits for nothing.

        `fields` are columns by name, or their JSON: the identity, and the model. Without a record they become the row.
        """
        try:
            if self._closed:
                return False
            marker = start_frame(call_id, created_s, fields)
            self._open[call_id] = marker  # before it is written: `rewrite` relies on it
            if next(self._looks) % self._look_every == 0:
                self._full = self.size + len(marker) > self._limit
            if self._full:
                diagnostics.count("journal_full", "the journal has no room for more start markers")
                return False
            written = os.write(self._fd, marker)
        except Exception as problem:  # noqa: BLE001  the host's call must go on, whatever the disk says
            diagnostics.count("journal_start_failed", "a start marker could not be written to the journal", exc=problem)
            return False
        self.dirty = True
        if written < len(marker):
            # Others may have appended meanwhile, so the torn frame stays; readers pass over it.
            diagnostics.count(
                "journal_start_failed", "a start marker could not be written to the journal: the disk is full"
            )
        return written == len(marker)

    def __len__(self) -> int:
        """Return the number of calls that have started and have neither a record nor are done."""
        return len(self._open)

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    @property
    def is_intact(self) -> bool:
        """Return whether the file lies where it was made, with all that was written. Not to be asked in a rewrite."""
        inode, seen = os.fstat(self._fd).st_ino, self._seen_size
        self._seen_size = self.size
        return directories.is_file(self._name, self._folder, inode=inode, size=seen) and (
            os.pread(self._fd, len(self._head), 0) == self._head
        )

    def copy_from(self, other: Markers) -> None:
        """Note the calls that are open in `other` as well. Never raises."""
        for call_id, marker in list(other._open.items()):
            self._open[call_id] = marker
            with contextlib.suppress(OSError):
                os.write(self._fd, marker)

    def remove(self, call_id: bytes) -> bool:
        """End a marker: its call has a record now, or needs none. Return True if it was open."""
        return self._open.pop(call_id, None) is not None

    def is_overgrown(self, size: int) -> bool:
        """Return whether it is time to begin anew: the file holds far more than what is open."""
        return self._full or bool(self._stale) or self.size > max(size, 2 * self._carried)

    def rewrite(self) -> None:
        """Begin a new file, with the markers of the calls that are still open, and remove the old one. Raises OSError.

        Callers go on appending meanwhile. `dup2` exchanges the file behind their descriptor in one step, so none of
        them ever writes into a file that is closed. A marker is in `_open` before it is written: one that went into
        the old file is in the list that is taken after the exchange.
        """
        name, fd, self._head = self._new_file("starts")
        try:
            os.dup2(fd, self._fd, inheritable=False)
        finally:
            os.close(fd)
        self._stale.append(self._name)
        self._name, self._seen_size = name, 0
        markers = memoryview(b"".join(list(self._open.values())))
        self._carried = len(markers)
        self._full = False
        while markers:
            markers = markers[os.write(self._fd, markers) :]
        if self._fsync:
            os.fdatasync(self._fd)
        while self._stale:
            os.unlink(self._stale[-1], dir_fd=self._folder)
            self._stale.pop()

    def sync(self) -> None:
        """Wait for the disk; where that fails, write all of them anew. Raise OSError if that fails as well."""
        self.dirty, distrusted = False, self._distrusted or bool(self._stale)
        try:
            if not distrusted:
                try:
                    os.fdatasync(self._fd)
                    return
                except OSError:
                    self._distrusted = True
            self.rewrite()
            self._distrusted = False
        except OSError:
            self.dirty = True
            raise

    def close(self) -> None:
        """Close the file. The callers' descriptor stays, and leads nowhere: one of them may be about to use it."""
        self._closed = True
        os.dup2(self._nowhere, self._fd, inheritable=False)
        os.close(self._nowhere)
        weakref.finalize(self, _close, self._fd)


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)
