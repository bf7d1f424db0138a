"""Questions that only another process may answer: whether a scope may speak for a thread that is new here.

A worker that was started inside user A's request inherits A's scope. Where B's thread is known in this process, the
registry objects (`worker_inheritance.py`). With a shared registry B's request may run in another process, and its word
is not here yet when the call starts. So where a shared registry exists, a scope speaks at once for a thread that it has
never used only if what runs is the scope's own work; all else waits until the others have been asked, in the pipeline.

With a registry of this process alone nothing of this applies, and nothing is spent on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from llmctx.identity.await_graph import is_part_of
from llmctx.identity.registry.base import ELSEWHERE, Entry, Registry, SharedRegistry, guard_registry, mark_unreliable
from llmctx.identity.scope import CallContext, Scope


def is_shared(registry: Registry) -> TypeGuard[SharedRegistry]:
    """Return whether other processes may know what this registry does not."""
    return getattr(registry, "exchange", None) is not None


def is_own_work(scope: Scope, thread_id: str | None, sent: CallContext, registries: Sequence[Registry]) -> bool | None:
    """Return whether `scope` may speak here and now for the thread, whatever other processes know of it.

    False where it is a worker's call, or may be one: the scope has closed. None: cannot be told.
    """
    if thread_id is None or thread_id in scope.threads or not any(is_shared(registry) for registry in registries):
        return True
    if not scope.identity and not scope.anonymous:
        return True  # it has nothing to say
    if sent.user_id is not None and sent.agrees(scope.identity):
        return True  # the call's own metadata says the same
    return is_part_of(scope) if scope.is_open else False


def is_inherited_by_worker(
    scope: Scope, was_open: bool, own: bool | None, thread: Entry | None, *, answered: bool
) -> bool | None:
    """Answer the question of that name in `worker_inheritance.py` of a call that waited for others. `thread` is what
    all know."""
    if thread is not None and scope.identity.user_id is not None and thread.identity.user_id == scope.identity.user_id:
        return False
    if not answered:
        return None
    if thread is None or thread.last < ELSEWHERE:
        return False  # what this process alone knew was weighed when the call started
    if was_open and scope.anonymous:
        return None  # an anonymous request must not borrow a user's name by naming the user's thread
    return True if own is False else None


def _not_claimed(scope: Scope, registries: Sequence[Registry], *, thread_id: str, task: str | None = None) -> None:
    mark_unreliable(thread_id, task)


@guard_registry(otherwise=_not_claimed)
def claim(scope: Scope, registries: Sequence[Registry], *, thread_id: str, task: str | None = None) -> None:
    """Let `scope` be a party of the thread once the others had nothing to say against it."""
    if not scope.is_open or not (scope.identity or scope.anonymous):
        return
    for registry in registries:
        if is_shared(registry):
            registry.claim(scope, thread_id=thread_id, task=task if scope.identity else None)
        else:
            registry.put(scope, thread_id=thread_id, task=task if scope.identity else None)
