"""Admission to a server: the connections that it can spare, and the order in which processes of a host ask for one.

A server has few connections, and the application needs them more than we do. So a process looks how many are left when
it has connected: where few are, it stores its batch and goes; where many are, it keeps its connection. The processes of
a host connect one after another, so that each sees those that came before it: a lock on a file, which ends with its
process and is not waited for for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from llmctx.core.threads import outside_loop
from llmctx.delivery.journal.directory import DEAD_LETTERS, HAS_LOCKS
from llmctx.settings import Settings

if HAS_LOCKS:
    import fcntl

_FILE: Final = ".connecting"
_PATIENCE_S: Final = 15.0  # for those before us: one of them may have been stopped
_LOOK_S: Final = 0.03
_SHARE: Final = 4  # we keep connections as long as no more than one of so many is in use
_FEW: Final = 15
"""So many are to be left in any case."""
_RETURNS_A_SECOND: Final = 50
"""How many processes may try to connect in a second while the server is away."""
ASK_FOR_ROOM: Final = """
SELECT pg_catalog.current_setting('max_connections')::int
       - pg_catalog.current_setting('superuser_reserved_connections')::int
       - coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0) AS of_server,
       d.datconnlimit AS of_database, r.rolconnlimit AS of_role,
       count(*) AS on_server, count(*) FILTER (WHERE a.datid = d.oid) AS on_database,
       count(*) FILTER (WHERE a.usesysid = r.oid) AS by_role
FROM pg_catalog.pg_stat_activity a, pg_catalog.pg_database d, pg_catalog.pg_roles r
WHERE a.datid IS NOT NULL AND a.usesysid IS NOT NULL
  AND d.datname = pg_catalog.current_database() AND r.rolname = session_user
GROUP BY d.datconnlimit, r.rolconnlimit
"""


@dataclass(frozen=True, slots=True)
class ConnectionRoom:
    """The connections of a server, as they stand: of the limits of server, database and role the tightest."""

    free: int
    limit: int
    peers: int
    """Connections of our role."""

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> ConnectionRoom:
        """Return what the answer to `ASK_FOR_ROOM` means."""
        limits = [(row["of_server"], row["on_server"])]
        limits += [(row["of_database"], row["on_database"])] if row["of_database"] >= 0 else []
        limits += [(row["of_role"], row["by_role"])] if row["of_role"] >= 0 else []
        limit, used = min(limits, key=lambda one: one[0] - one[1])
        return cls(max(0, limit - used), limit, row["by_role"])

    @property
    def is_scarce(self) -> bool:
        """Return whether so few are left that none may be kept."""
        return self.free < max(self.limit - self.limit // _SHARE, min(self.limit, _FEW))

    @property
    def longest_wait_s(self) -> float:
        """Return how long to wait at most before trying again when the server is away, with so many others."""
        return max(2.0, self.peers / _RETURNS_A_SECOND)


class Admission:
    """The turn of this process among those of its host that write to the same table."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for those that are connecting, for a few seconds at most, and keep others waiting until the end."""
        fd = self._open()
        try:
            if fd is not None:
                until = time.monotonic() + _PATIENCE_S
                # polled: no event tells of another process's lock
                while not _has_locked(fd) and time.monotonic() < until:  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S * (0.5 + random.random()))  # noqa: S311
            yield
        finally:
            if fd is not None:
                with contextlib.suppress(OSError):
                    fcntl.flock(fd, fcntl.LOCK_UN)  # a child that was forked meanwhile has it as well
                os.close(fd)

    @outside_loop
    def _open(self) -> int | None:
        """Return a descriptor of the file that the processes share; None where they have no directory, or no locks."""
        for directory in self._settings.journal_directories if HAS_LOCKS else ():
            with contextlib.suppress(OSError):
                # where no process's own files lie
                return os.open(
                    directory / DEAD_LETTERS / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
                )
        return None


def _has_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
