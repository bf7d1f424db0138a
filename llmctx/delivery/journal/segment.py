"""One file of records: what of it is not done, and whether it is still what was written."""

from __future__ import annotations

import os

from llmctx.delivery.journal import directory as directories


class Segment:
    """A file of records, `fd` is open on it."""

    __slots__ = ("_head", "_inode", "empty_size", "name", "pending", "size")

    def __init__(self, name: str, fd: int, head: bytes) -> None:
        found = os.fstat(fd)
        self.name = name
        self.size = self.empty_size = found.st_size
        self.pending: dict[bytes, None] = {}  # of as many as wait: smaller than a set, and there is no other index
        self._inode = found.st_ino
        self._head = head

    def is_intact(self, folder: int) -> bool:
        """Return whether it lies where it was made, with all that was written."""
        return directories.is_file(self.name, folder, inode=self._inode, size=self.size)

    def begins(self, fd: int) -> bool:
        """Return whether its beginning is the one that it had: it may have been cut, and have grown again."""
        return os.pread(fd, len(self._head), 0) == self._head

    def read(self, folder: int, fd: int | None) -> bytes:
        """Return what can be read: by its descriptor, or else by whatever name it has in `folder` by now."""
        if fd is not None:
            return directories.read_descriptor(fd)
        name = directories.name_of(self._inode, folder, self.name)
        return b"" if name is None else directories.read_file(name, folder)
