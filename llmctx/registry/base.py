"""The contract of a registry: who has used a LangGraph thread, or runs a LangGraph task.

Two users on one thread are no reason to pick one of them: the thread then testifies to nobody (`Entry.shared`).
There is no last writer who wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from llmctx.context import EMPTY, CallContext, Scope


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


active: Final[list[Registry]] = []
"""The registries of the call logs that run in this process. Wrapped graphs file into each of them."""
