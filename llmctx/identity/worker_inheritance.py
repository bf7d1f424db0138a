"""Scopes that a worker has inherited: told from the call's own, for the worker works for others.

A worker that was started inside user A's request has inherited A's scope, and works for B now. When others have
registered the call's thread and A's scope never has, it matters who waits for whom (`await_graph.py`): what A's request
itself does, or waits for, is A's, whatever others use that thread, unless they wait for it as well; what it does not
wait for is a worker's. `remote.py` asks the same where only another process may know that others use the thread.
"""

from __future__ import annotations

from llmctx.identity.authority import is_foreign
from llmctx.identity.await_graph import is_part_of
from llmctx.identity.background_work import await_light, is_in_the_dark
from llmctx.identity.registry.base import Entry, is_unreliable
from llmctx.identity.scope import CallContext, Scope, carrying_call_logs, is_left_over
from llmctx.identity.spawned_work import may_be_of_others, works_for
from llmctx.identity.task_creators import is_awaited_by_a_user


def is_inherited_by_worker(
    scope: Scope,
    thread_id: str | None,
    thread: Entry | None,
    sent: CallContext,
    carried: Scope | None,
    sent_request: int = 0,
    node: Scope | None = None,
    *,
    is_final: bool = True,
) -> bool | None:
    """Return whether a worker that has only inherited `scope` works here: on a thread of others, or with the config of
    another user's call. None: cannot be told, and so neither is believed. `node` is the scope inside of it, if the call
    is made in one. Unless the answer `is_final` it will be asked for again when the call ends.
    """
    if is_unreliable(thread_id, None) and thread_id not in scope.threads:  # others may have used it
        return False if scope.is_open and is_part_of(scope) else None
    user_id = scope.identity.user_id
    of_others = (
        thread is not None
        and thread_id not in scope.threads
        and not (node is not None and node.is_open and thread_id in node.threads)  # it was asked where the node began
        and (user_id is None or thread.identity.user_id != user_id)
    )
    registered_since = of_others and thread is not None and thread.last > scope.serial
    used = thread if registered_since else None
    if is_left_over(scope):
        # What is left of a request yields to a thread that others have used since, as a worker does. If they used it
        # before only, it may as well be the request's own work on another user's thread.
        if not of_others:
            return False
        own = works_for(scope, thread_id, used, is_final=is_final)
        for_users = _is_for_users(scope, thread_id, own, is_final)
        if for_users is not False:
            return for_users
        if own or (not registered_since and _is_carried(scope)):
            return False
        return True if registered_since and (own is False or scope.is_open) else None
    handed_on = is_foreign(scope, sent, sent_request) or (
        carried is not None and is_foreign(scope, carried.identity, carried.of_request)
    )
    if not of_others and not handed_on:
        return False
    own = is_part_of(scope) if handed_on else works_for(scope, thread_id, used, is_final=is_final)
    for_users = of_others and _is_for_users(scope, thread_id, own, is_final)
    if for_users is not False:
        return for_users
    if own is None:
        return None if registered_since else False
    unclear = not registered_since and not handed_on  # used by others before this scope only: as above
    if own or (unclear and _is_carried(scope)):
        return False
    return None if unclear else True


def _is_for_users(scope: Scope, thread_id: str | None, own: bool | None, is_final: bool) -> bool | None:
    """Return whether another, who uses the thread, waits for what runs here, too. None: cannot be seen yet of what is
    the scope's `own`.
    """
    is_dark = bool(own) and is_in_the_dark()
    if is_dark and is_final:
        await_light()
    return is_awaited_by_a_user(scope, thread_id) or (None if is_dark and not is_final else False)


def _is_carried(scope: Scope) -> bool:
    """Return whether what runs here works for `scope`, for all that others hand on brings their scope."""
    return bool(carrying_call_logs) and not may_be_of_others(scope)
