"""The contract of a registry: who has used a LangGraph thread, or runs a LangGraph task.

Two users on one thread are no reason to pick one of them: the thread then names no user (`Entry.shared`).
There is no last writer who wins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from llmctx.core.guard import guard
from llmctx.identity.registry.fingerprints import Fingerprints
from llmctx.identity.scope import EMPTY, CallContext, Scope

ELSEWHERE: Final = 2**63
"""The number of a registration in another process: later than any scope of this one, for it is not known when."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The entry of a thread or task in a registry.

    `identity` is empty where no user, more than one user, or a user who is forgotten has used it. `shared` says that
    there is more than one. `first` and `last` number the first and the newest registration on the counter that also
    numbers scopes, so that "after this scope was opened" can be asked. Those after `quiet_until` were all made by one
    request or block, the first of them in a task of the number `task` (`task_numbers.py`); 0 where that is unknown.
    """

    identity: CallContext = EMPTY
    shared: bool = False
    first: int = 0
    last: int = 0
    quiet_until: int = ELSEWHERE
    task: int = 0


class Registry(Protocol):
    """Bounded, expiring, and safe to call from any thread."""

    def put(self, scope: Scope, *, thread_id: str | None = None, task: str | None = None) -> None:
        """Remember that `scope` uses the thread, or runs the task. Later amendments of the scope count too."""
        ...

    def get(self, *, thread_id: str | None = None, task: str | None = None) -> Entry | None:
        """Return what is known of the task, or else of the thread; None if nothing."""
        ...

    def forget(self, *, thread_id: str | None = None, user_id: str | None = None) -> int:
        """Drop what is known of a thread, or all that names a user. Returns how many entries went."""
        ...


class SharedRegistry(Registry, Protocol):
    """A registry of several processes. The methods above do no I/O in it either: they know what this process knows.

    The pipeline runs it in its own loop and lets it ask the others, in batches, before it makes rows of calls that
    need it. A call whose scope may be a mere inheritance (`llmctx.identity.remote`) waits for that answer.
    """

    on_news: Callable[[], None] | None
    """Told of news while nothing runs it: in a forked child, before its first call."""

    async def exchange(self, *, threads: Collection[str] = (), tasks: Collection[str] = (), since: float = 0.0) -> bool:
        """Learn what others know of these, and tell what is new here; afterwards `get` knows it too.

        `since`, if given, is the monotonic time before which others must have had time to tell. False if there was no
        answer. Never raises, never takes long.
        """
        ...

    def claim(self, scope: Scope, *, thread_id: str, task: str | None = None) -> None:
        """Put the entry once it turns out that no other user has the thread; until then, nothing."""
        ...

    async def run(self) -> None:
        """Tell others what is new here, for as long as the pipeline runs."""
        ...

    async def publish(self, timeout_s: float) -> int:
        """Tell what has not been told yet, at most for so long. Returns how much is left."""
        ...

    async def aclose(self) -> None:
        """Close what the running loop has opened."""
        ...


active: Final[list[Registry]] = []
"""The registries of the call logs that run in this process. Wrapped graphs file into each of them."""


# -- filing, which may fail --------------------------------------------------------------------------------------------

_UNRELIABLE: Final = Fingerprints(0)
"""Threads and tasks that a registry could not be told of: what it says of them may be of another user."""
_pending: Final[list[tuple[str | None, str | None]]] = []
"""What is about to be marked; it stays where the mark fails, and no thread or task names a user then."""


guard_registry: Final = partial(guard, "registry_failed", "%s failed: a thread names no user from here on")
"""Guard what tells a registry whose a thread is."""


def mark_unreliable(thread_id: str | None, task: str | None = None) -> None:
    """Believe no registry any more about these: a use of them could not be filed."""
    _pending.append((thread_id, task))  # should the mark fail as well, everything is in doubt
    for name in (thread_id, task):
        if name is not None:
            _UNRELIABLE.record(name, None)
    _pending.pop()


def believe_again() -> None:
    """Forget all marks of `mark_unreliable`. For tests."""
    _UNRELIABLE.clear()
    _pending.clear()


def is_unreliable(thread_id: str | None, task: str | None) -> bool:
    """Return whether what registries know of a thread, or of a task and those around it, may lack a use."""
    if _pending:
        return True
    if not _UNRELIABLE:
        return False
    if thread_id is not None and thread_id in _UNRELIABLE:
        return True
    while task:
        if task in _UNRELIABLE:
            return True
        task = task.rpartition("|")[0]
    return False


def _not_registered(registries: Sequence[Registry], scope: Scope, thread_id: str | None, task: str | None) -> None:
    mark_unreliable(thread_id, task)


@guard_registry(otherwise=_not_registered)
def register_in_all(registries: Sequence[Registry], scope: Scope, thread_id: str | None, task: str | None) -> None:
    """Tell all `registries` that `scope` uses the thread, or runs the task."""
    for registry in registries:
        registry.put(scope, thread_id=thread_id, task=task)
