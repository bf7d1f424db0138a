"""The registry of one process: two bounded, expiring caches.

Entries hold scopes, not copies of their identity, so that an identity which becomes known late (`amend`) is known
here as well. Readers take no lock: what they read is an immutable tuple that writers replace.

What is forgotten, by age or for want of room, never makes "several" into "one". As long as a thread is in use it keeps
its users; of one whose entry has gone a fingerprint stays (`fingerprints.py`), and where that tells of another user
than the one that uses it now, the thread names no user.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from cachebox import TTLCache

from llmctx.core.locks import RecoverableLock
from llmctx.core.process import Forkable, ForkStage
from llmctx.identity.registry.base import ELSEWHERE, Entry
from llmctx.identity.registry.fingerprints import KEEP_S, Fingerprints
from llmctx.identity.scope import EMPTY, CallContext, Scope, next_serial
from llmctx.identity.task_numbers import number_at_work

T = TypeVar("T")

PARTIES = 8
"""Users and sessions remembered for one thread beside the newest. Two users are enough to know that it is shared."""


Party = tuple[Scope, float]
"""Who has used a thread, and the monotonic seconds of the last use."""


@dataclass(slots=True)
class _Use:
    """The users of a thread, in the order of their last use."""

    parties: tuple[Party, ...]
    first: int
    last: int
    stored: float
    """Monotonic seconds of when the cache was given it, and began to count its time."""
    unclear: bool
    """Others may have used it of whom nothing else is known any more."""
    recorded: tuple[str | None, float]
    """Whose fingerprint it has left last, and when."""
    quiet_until: int
    task: int
    """As in `Entry`."""


class MemoryRegistry:
    """Registry for a single process.

    Args:
        entries: how many threads, and how many tasks, are remembered at most; the oldest go first.
        ttl_s: seconds after which a use is forgotten.
    """

    def __init__(self, *, entries: int = 100_000, ttl_s: float = 86_400.0) -> None:
        self._entries = entries
        self._ttl_s = ttl_s
        self._evicted_at = -ttl_s
        self._fresh_s = ttl_s / 16  # a use is stored anew this often, for the cache counts from there
        self._threads: TTLCache[str, _Use] = TTLCache(entries, ttl_s)
        self._tasks: TTLCache[str, tuple[Scope | None, int]] = TTLCache(entries, ttl_s)
        self._fingerprints = Fingerprints(entries, keep_s=max(KEEP_S, 2 * ttl_s))
        # Writers only: read, change, replace must be one step. Reentrant, for the garbage collector may end a
        # stream in the middle of it.
        self._lock = RecoverableLock()
        _all.add(self)

    def put(self, scope: Scope, *, thread_id: str | None = None, task: str | None = None) -> None:
        serial = next_serial()
        if task is not None:
            runs = self._tasks.get(task)
            # Two users run a task of one name where both replay one checkpoint.
            is_shared = runs is not None and (runs[0] is None or not _is_same(runs[0], scope))
            _store(self._tasks, task, (None if is_shared else scope, serial))
        if thread_id is None:
            return
        now = time.monotonic()
        known: _Use | None = self._threads.get(thread_id)
        if known is not None and known.parties[-1][0] is scope and now - known.stored < self._fresh_s:
            known.last = serial  # the usual case, node after node: nothing else is new
            return
        with self._lock:
            use: _Use | None = self._threads.get(thread_id)
            owner, recorded = _owner(scope.identity), None if use is None else use.recorded
            if recorded is None or recorded[0] != owner or now - recorded[1] >= self._fresh_s:
                recorded, had_others = (owner, now), self._fingerprints.record(thread_id, owner)
                if use is None:
                    if len(self._threads) >= self._entries:
                        self._evicted_at = now
                    quiet_until = serial if had_others else 0
                    use = _Use(
                        ((scope, now),), serial, serial, now, had_others, recorded, quiet_until, number_at_work(scope)
                    )
                    _store(self._threads, thread_id, use)
                    return
            assert use is not None
            # One party per user and session. The newest scope replaces an older one: it can still be amended.
            kept = others = [party for party in use.parties if not _replaces(scope, party[0])]
            unclear = use.unclear
            if others:
                kept = _bounded(_remembered(others, scope, now - self._ttl_s))
                unclear = unclear or (len(kept) < len(others) and _are_several([*others, (scope, now)]))
            quiet_until, number = use.quiet_until, use.task
            if use.parties[-1][0].anchor is not scope.anchor:
                quiet_until, number = use.last, number_at_work(scope)
            use = _Use((*kept, (scope, now)), use.first, serial, now, unclear, recorded, quiet_until, number)
            _store(self._threads, thread_id, use)

    def get(self, *, thread_id: str | None = None, task: str | None = None) -> Entry | None:
        if task is not None:
            for name in task_lineage(task):
                found = self._tasks.get(name, None)
                if found is not None:
                    scope, serial = found
                    return Entry(EMPTY if scope is None else scope.identity, scope is None, serial, serial)
        return None if thread_id is None else merge_uses(self.uses(thread_id))

    def uses(self, thread_id: str) -> Uses:
        """Return who has used the thread."""
        known: _Use | None = self._threads.get(thread_id)
        if known is None:
            return NO_USES
        parties = known.parties
        if len(parties) > 1:
            parties = (*_remembered(parties[:-1], parties[-1][0], time.monotonic() - self._ttl_s), parties[-1])
        identities = [scope.identity for scope, _ in parties]
        return Uses(identities, known.first, known.last, known.unclear, known.quiet_until, known.task)

    def had_others(self, thread_id: str, user_id: str) -> bool:
        """Return whether another one has used a thread of which nothing else is known here any more."""
        return thread_id not in self._threads and self._fingerprints.had_others(thread_id, user_id)

    @property
    def has_evicted(self) -> bool:
        """Return whether threads have gone for want of room that would not have expired yet."""
        return time.monotonic() - self._evicted_at < self._ttl_s

    def scopes(self, thread_id: str) -> list[Scope]:
        """Return the scopes that have used the thread, as far as they are remembered."""
        known: _Use | None = self._threads.get(thread_id)
        return [] if known is None else [scope for scope, _ in known.parties]

    def threads(self) -> list[str]:
        return [key for key, _ in _items(self._threads)]

    def forget(self, *, thread_id: str | None = None, user_id: str | None = None) -> int:
        gone = 0
        with self._lock:
            if thread_id is not None and self._threads.pop(thread_id, None) is not None:
                gone += 1
            if user_id is not None:
                for key, use in _items(self._threads):
                    if any(scope.identity.user_id == user_id for scope, _ in use.parties):
                        gone += self._threads.pop(key, None) is not None  # it may have expired just now
                for key, (runs, _) in _items(self._tasks):
                    if runs is not None and runs.identity.user_id == user_id:
                        gone += self._tasks.pop(key, None) is not None
        return gone

    def renew_lock(self) -> None:
        """Renew the lock in a forked child: one that another thread held at that moment would never be released."""
        self._lock = RecoverableLock()

    def __len__(self) -> int:
        return len(self._threads) + len(self._tasks)


def _store(cache: TTLCache[str, T], key: str, value: T) -> None:
    try:
        cache[key] = value
    except KeyError:  # cachebox 6: the entry that was to make room has expired just then
        cache[key] = value


def _items(cache: TTLCache[str, T]) -> list[tuple[str, T]]:
    """Return what is in `cache`. cachebox 5 does not go on where an entry has expired meanwhile."""
    for _ in range(_TRIES):
        with contextlib.suppress(RuntimeError):
            return list(cache.items())
    return list(cache.items())


_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Uses:
    """The users of a thread, the newest last; the numbers of the first and the newest use; and as in `_Use`."""

    identities: list[CallContext]
    first: int
    last: int
    unclear: bool = False
    quiet_until: int = ELSEWHERE
    task: int = 0


NO_USES: Final = Uses([], 0, 0)


def merge_uses(uses: Uses) -> Entry | None:
    """Return what several uses of one thread say together.

    One user: that user, with the session if it was always the same. Several users, or a user and someone
    anonymous who shares no session with them: none.
    """
    identities = uses.identities
    when = (uses.first, uses.last, uses.quiet_until, uses.task)
    if not identities and not uses.unclear:
        return None
    users = {i.user_id for i in identities if i.user_id is not None}
    sessions = {i.session_id for i in identities if i.session_id is not None}
    of_users = {i.session_id for i in identities if i.user_id is not None}
    strangers = [i for i in identities if i.user_id is None and (users or len(sessions) > 1)]
    if len(users) > 1 or any(i.session_id is None or i.session_id not in of_users for i in strangers):
        return Entry(EMPTY, True, *when)
    if uses.unclear:
        return Entry(EMPTY, False, *when)
    user = users.pop() if users else None
    if len(sessions) > 1:
        return Entry(CallContext(user_id=user), False, *when)
    newest = identities[-1]
    return Entry(newest if newest.user_id == user else newest.overlay(CallContext(user_id=user)), False, *when)


def _owner(who: CallContext) -> str | None:
    """Return whose fingerprint a use leaves; None where it can be anyone's."""
    return who.user_id or (None if who.session_id is None else f"\0{who.session_id}")


def _is_same(one: Scope, other: Scope) -> bool:
    """Return whether two scopes are of one user, or may turn out to be."""
    mine, theirs = one.identity, other.identity
    if mine.user_id is None or theirs.user_id is None:
        in_one_request = one.of_request != 0 and one.of_request == other.of_request
        return one is other or in_one_request or (mine.user_id, mine.session_id) == (theirs.user_id, theirs.session_id)
    return mine.user_id == theirs.user_id


def _replaces(scope: Scope, other: Scope) -> bool:
    """Return whether a use by `other` needs no place of its own beside one by `scope`."""
    mine, theirs = scope.identity, other.identity
    if other is scope:
        return True
    if theirs.user_id is None and other.closed_at is None:  # it may turn out to be a user, by `amend`
        return False
    return mine is theirs or (mine.user_id == theirs.user_id and mine.session_id == theirs.session_id)


def _are_several(parties: Sequence[Party]) -> bool:
    verdict = merge_uses(Uses([scope.identity for scope, _ in parties], 0, 0))
    return verdict is not None and verdict.shared


def _remembered(others: Sequence[Party], newest: Scope, oldest: float) -> list[Party]:
    """Return `others` without uses before `oldest` by a user of whom there is a newer one: sessions, not users, age."""
    users = {newest.identity.user_id, *(scope.identity.user_id for scope, at in others if at > oldest)}
    return [(scope, at) for scope, at in others if at > oldest or scope.identity.user_id not in users]


def _bounded(parties: list[Party]) -> list[Party]:
    """Return at most `PARTIES`, never forgetting a user while another one is remembered twice."""
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
