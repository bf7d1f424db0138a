"""The registry of one process: two bounded, expiring caches.

Entries hold scopes, not copies of their identity, so that an identity which becomes known late (`amend`) is known
here as well. Readers take no lock: what they read is an immutable tuple that writers replace.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from cachebox import TTLCache

from llmctx.core.locks import RecoverableLock
from llmctx.core.process import Forkable, ForkStage
from llmctx.identity.registry.base import Entry
from llmctx.identity.scope import EMPTY, CallContext, Scope, next_serial

PARTIES = 8
"""Users and sessions remembered for one thread beside the newest. Two users are enough to know that it is shared."""


@dataclass(slots=True)
class _Use:
    """Who used a thread, in the order of their first use: (scope, monotonic seconds of the last use)."""

    parties: tuple[tuple[Scope, float], ...]
    first: int
    last: int
    stored: float
    """Monotonic seconds of when the cache was given it, and began to count its time."""


class MemoryRegistry:
    """Registry for a single process.

    Args:
        entries: how many threads, and how many tasks, are remembered at most; the oldest go first.
        ttl_s: seconds after which a use is forgotten.
    """

    def __init__(self, *, entries: int = 100_000, ttl_s: float = 86_400.0) -> None:
        self._ttl_s = ttl_s
        self._fresh_s = ttl_s / 16  # a use is stored anew this often, for the cache counts from there
        self._threads: TTLCache[str, _Use] = TTLCache(entries, ttl_s)
        self._tasks: TTLCache[str, tuple[Scope, int]] = TTLCache(entries, ttl_s)
        # Writers only: read, change, replace must be one step. Reentrant, for the garbage collector may end a
        # stream in the middle of it.
        self._lock = RecoverableLock()
        _all.add(self)

    def put(self, scope: Scope, *, thread_id: str | None = None, task: str | None = None) -> None:
        serial = next_serial()
        if task is not None:
            self._tasks[task] = (scope, serial)
        if thread_id is None:
            return
        now = time.monotonic()
        known: _Use | None = self._threads.get(thread_id)
        if known is not None and known.parties[-1][0] is scope and now - known.stored < self._fresh_s:
            known.last = serial  # the usual case, node after node: nothing else is new
            return
        with self._lock:
            use: _Use | None = self._threads.get(thread_id)
            if use is None:
                self._threads[thread_id] = _Use(((scope, now),), serial, serial, now)
                return
            # One party per user and session. The newest scope replaces an older one: it can still be amended.
            who = (scope.identity.user_id, scope.identity.session_id)
            others = [
                (other, at)
                for other, at in use.parties
                if now - at < self._ttl_s and (other.identity.user_id, other.identity.session_id) != who
            ]
            self._threads[thread_id] = _Use((*_bounded(others), (scope, now)), use.first, serial, now)

    def get(self, *, thread_id: str | None = None, task: str | None = None) -> Entry | None:
        if task is not None:
            for name in task_lineage(task):
                found = self._tasks.get(name, None)
                if found is not None:
                    scope, serial = found
                    return Entry(scope.identity, False, serial, serial)
        if thread_id is None:
            return None
        return judge(*self.parties(thread_id))

    def parties(self, thread_id: str) -> tuple[list[CallContext], int, int]:
        """Return who has used the thread, the newest last, and the numbers of the first and the newest use."""
        known: _Use | None = self._threads.get(thread_id)
        if known is None:
            return [], 0, 0
        oldest = time.monotonic() - self._ttl_s
        return [scope.identity for scope, at in known.parties if at > oldest], known.first, known.last

    def forget(self, *, thread_id: str | None = None, user_id: str | None = None) -> int:
        gone = 0
        with self._lock:
            if thread_id is not None and self._threads.pop(thread_id, None) is not None:
                gone += 1
            if user_id is not None:
                for key, use in list(self._threads.items()):
                    if any(scope.identity.user_id == user_id for scope, _ in use.parties):
                        del self._threads[key]
                        gone += 1
                for key, (scope, _) in list(self._tasks.items()):
                    if scope.identity.user_id == user_id:
                        del self._tasks[key]
                        gone += 1
        return gone

    def renew_lock(self) -> None:
        """In a forked child: a lock that another thread held at that moment would never be released."""
        self._lock = RecoverableLock()

    def __len__(self) -> int:
        return len(self._threads) + len(self._tasks)


def judge(identities: list[CallContext], first: int, last: int) -> Entry | None:
    """Return what several uses of one thread say together.

    One user: that user, with the session if it was always the same. Several users, or a user and somebody
    anonymous who shares no session with them: nobody.
    """
    if not identities:
        return None
    users = {i.user_id for i in identities if i.user_id is not None}
    sessions = {i.session_id for i in identities if i.session_id is not None}
    of_users = {i.session_id for i in identities if i.user_id is not None}
    strangers = [i for i in identities if i.user_id is None and (users or len(sessions) > 1)]
    if len(users) > 1 or any(i.session_id is None or i.session_id not in of_users for i in strangers):
        return Entry(EMPTY, True, first, last)
    user = users.pop() if users else None
    if len(sessions) > 1:
        return Entry(CallContext(user_id=user), False, first, last)
    newest = identities[-1]
    return Entry(newest if newest.user_id == user else newest.overlay(CallContext(user_id=user)), False, first, last)


def _bounded(parties: list[tuple[Scope, float]]) -> list[tuple[Scope, float]]:
    """At most `PARTIES`, never forgetting a user while another one is remembered twice: that would unshare a thread."""
    while len(parties) > PARTIES:
        users = [scope.identity.user_id for scope, _ in parties]
        del parties[next((i for i, user in enumerate(users) if users.count(user) > 1), 0)]
    return parties


def task_lineage(task: str) -> list[str]:
    """Return a checkpoint namespace and those of the tasks around it, innermost first: `a:1|b:2` -> itself, `a:1`."""
    names = [task]
    while (cut := task.rfind("|")) > 0:
        task = task[:cut]
        names.append(task)
    return names


_all: Final = Forkable(ForkStage.REGISTRY, MemoryRegistry.renew_lock)
