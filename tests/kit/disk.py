"""A disk that is full, below the journal of this process alone: a real one would need root, and would hit the book."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any, Final

from llmctx.delivery.journal import dead_letters as quarantine
from llmctx.delivery.journal import directory as place
from llmctx.delivery.journal import journal
from llmctx.delivery.journal import start_markers as markers

_WRITERS: Final[tuple[Any, ...]] = (markers, place, quarantine, journal)


class _Full:
    """Stands where those modules have `os`: what is there can be read and removed, nothing can be made or grow."""

    def __init__(self, *, takes_parts: bool) -> None:
        self.refused: list[str] = []
        self._takes_parts = takes_parts

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """A part at first, as a real one does."""
        if self._takes_parts and len(data) > 1 and len(self.refused) % 3 == 0:
            self.refused.append("part")
            return os.write(fd, data[: len(data) // 2])
        raise self._no_space("write")

    def open(self, path: Any, flags: int, *args: Any, **how: Any) -> int:
        if flags & os.O_EXCL:
            raise self._no_space("open")
        return os.open(path, flags, *args, **how)

    def mkdir(self, path: Any, *args: Any, **how: Any) -> None:
        raise self._no_space("mkdir")

    def _no_space(self, what: str) -> OSError:
        self.refused.append(what)
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def full_disk(*, takes_parts: bool = True) -> Iterator[list[str]]:
    """As long as this lasts. Yields what was refused so far; with `takes_parts`, some of a first row may fit."""
    full = _Full(takes_parts=takes_parts)
    for module in _WRITERS:
        module.os = full
    try:
        yield full.refused
    finally:
        for module in _WRITERS:
            module.os = os
