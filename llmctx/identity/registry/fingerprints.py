"""Fingerprints of all users of a thread, in eight bytes each: they stay when registry entries have gone.

A registry forgets by age and by size. That one user uses a thread must not be concluded from having forgotten another,
so every use leaves a fingerprint of name and owner here. It errs in one direction only: a name for which there is no
room counts as used by owners unknown. Nothing of a name or an owner can be read from it.

There are several tables, each larger than the one before, up to a limit; none is ever copied. The oldest goes when its
room is needed and nothing has been written to it for `KEEP_S`.
"""

from __future__ import annotations

import time
from array import array
from typing import Final

from llmctx.core.locks import RecoverableLock

KEEP_S: Final = 86_400.0
"""Seconds for which a fingerprint is kept at least: longer than work goes on whose request has been forgotten."""

_BUCKET: Final = 8
_FIRST: Final = 2**13  # slots
_MOST: Final = 2**20
_SEVERAL: Final = 0xFFFFFFFF
"""As an owner: several, or unknown. As a tag: the bucket was full, other names have been in it."""


class _Table:
    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.used = 0
        self.tags = array("I", bytes(4 * slots))
        self.owners = array("I", bytes(4 * slots))

    def get(self, hashed: int, tag: int) -> int | None:
        start = (hashed & (self.slots // _BUCKET - 1)) * _BUCKET
        bucket = self.tags[start : start + _BUCKET]
        if tag in bucket:
            return self.owners[start + bucket.index(tag)]
        return _SEVERAL if bucket[-1] == _SEVERAL else None

    def put(self, hashed: int, tag: int, owner: int) -> None:
        start = (hashed & (self.slots // _BUCKET - 1)) * _BUCKET
        bucket = self.tags[start : start + _BUCKET]
        if tag in bucket:
            self.owners[start + bucket.index(tag)] = owner
            return
        if 0 not in bucket:
            self.tags[start + _BUCKET - 1] = _SEVERAL
            return
        free = start + bucket.index(0)
        self.owners[free] = owner
        self.tags[free] = tag
        self.used += 1


class Fingerprints:
    """Names and their owners. Readers take no lock.

    Args:
        names: how many names are expected to be in use at a time; it tells how much memory may be used.
        keep_s: seconds for which a fingerprint is kept at least.
    """

    def __init__(self, names: int, *, keep_s: float = KEEP_S) -> None:
        self._most = min(_MOST, max(2**16, 1 << (8 * names - 1).bit_length()))
        self._keep_s = keep_s
        self._tables: list[_Table] = []
        self._begun: list[float] = []
        self._lock = RecoverableLock()

    def __len__(self) -> int:
        return sum(table.used for table in self._tables)

    def record(self, name: str, owner: str | None) -> bool:
        """Record that `owner` uses `name`; None for an unknown one. Return whether it may have had another one."""
        with self._lock:
            others = self.had_others(name, owner)
            self._newest().put(*_hashed(name), _SEVERAL if others else _fingerprint(owner))
        return others

    def had_others(self, name: str, owner: str | None) -> bool:
        """Return whether `name` has been used, or may have been, by another than `owner`."""
        hashed, tag = _hashed(name)
        mine = _fingerprint(owner)
        known = [table.get(hashed, tag) for table in self._tables]
        return any(one is not None and (one == _SEVERAL or one != mine) for one in known)

    def __contains__(self, name: str) -> bool:
        """Return whether a user has used `name`, or may have."""
        hashed, tag = _hashed(name)
        return any(table.get(hashed, tag) is not None for table in self._tables)

    def clear(self) -> None:
        self._tables, self._begun = [], []

    def _newest(self) -> _Table:
        """Return the table to write to: a new one, once the last is so full that buckets begin to overflow."""
        tables, begun = self._tables, self._begun
        if tables and tables[-1].used < tables[-1].slots // 4:
            return tables[-1]
        now = time.monotonic()
        slots = min(self._most, tables[-1].slots * 4) if tables else _FIRST
        while sum(table.slots for table in tables) + slots > 3 * self._most:
            if now - begun[1] < self._keep_s:
                return tables[-1]  # it goes on filling: where there is no room, an owner is unknown
            tables, begun = tables[1:], begun[1:]
        table = _Table(slots)
        self._tables, self._begun = [*tables, table], [*begun, now]
        return table


def _hashed(name: str) -> tuple[int, int]:
    """Return the hash of a name, and the part of it that stands in a table. Both differ from process to process."""
    hashed = hash(name) & 0xFFFFFFFFFFFFFFFF
    tag = hashed >> 32
    return hashed, tag if 0 < tag < _SEVERAL else 1


def _fingerprint(owner: str | None) -> int:
    return _SEVERAL if owner is None else hash(owner) & 0x7FFFFFFF
