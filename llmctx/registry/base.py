"""The contract of a registry: who has used a LangGraph thread, or runs a LangGraph task.

Two users on one thread are no reason to pick one of them: the thread then testifies to nobody (`Entry.shared`).
There is no last writer who wins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol

from llmctx.context import EMPTY, CallContext, Scope

ELSEWHERE: Final = 2**63
"""The number of a registration in another process: later than any scope of this one, for it is not known when."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a registry knows of a thread or task.

    `identity` is empty where nobody, or more than one user, has used it. `shared` tells the two apart. `first` and
    `last` number the first and the newest registration on the counter that also numbers scopes, so that "after this
    scope was opened" can be asked.
    """

    identity: CallContext = EMPTY
    shared: bool = False
    first: int = 0
    last: int = 0


class Registry(Protocol):
    """Bounded, expiring, and safe to call from any thread."""

    def put(self, scope: Scope, *, thread_id: str | None = None, task: str | None = None) -> None:
        """Remember that `scope` uses the thread, or runs the task. Later amendments of the scope count too."""
        ...

    def get(self, *, thread_id: str | None = None, task: str | None = None) -> Entry | None:
        """What is known of the task, or else of the thread; None if nothing."""
        ...

    def forget(self, *, thread_id: str | None = None, user_id: str | None = None) -> int:
        """Drop what is known of a thread, or all that names a user. Returns how many entries went."""
        ...


class SharedRegistry(Registry, Protocol):
    """A registry of several processes. The methods above do no I/O in it either: they know what this process knows.

    The pipeline runs it in its own loop and lets it ask the others, in batches, before it makes rows of calls that
    need it. A call whose scope may be a mere inheritance (`llmctx.elsewhere`) waits for that answer.
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
        """`put`, once it turns out that nobody else uses the thread; until then, nothing."""
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
