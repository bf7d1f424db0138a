"""Ids that the application names: `bind` opens a scope with them, `amend` changes the current one.

Both are the word of the server's own code (`authority.py`). A thread that they name is registered at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.guard import guard, guard_without_ids
from llmctx.identity.held_scopes import hold
from llmctx.identity.present_scope import current, newest_of, present_scope
from llmctx.identity.scope import (
    EMPTY,
    FAILED_SCOPE,
    ID_FIELDS,
    CallContext,
    InsideBlock,
    Scope,
    current_scope,
    failed_scope,
    replace_current,
    worker_here,
)

_NAMES: Final = frozenset((*ID_FIELDS, "attributes"))


@contextlib.contextmanager
def bind(identity: CallContext | None = None, /, **ids: Any) -> Iterator[CallContext]:
    """Open a scope inside the current one; ids that are not named are inherited.

        with bind(session_id="s-7", user_id=user.id):
            graph.invoke(...)

    Takes the fields of `CallContext` by name, or a whole `CallContext` first. A name that is no field is a
    TypeError. Around the yields of a generator it holds for all that its code does, in whatever thread or task each
    step runs; where all steps run in one, the consumer is in that scope between them.
    """
    _check_names(ids)
    if identity is not None and not isinstance(identity, CallContext):
        raise TypeError(f"bind() takes a CallContext, or its fields by name, not {type(identity).__name__}")
    scope = _bound(identity, ids)
    with InsideBlock(scope, is_held=hold(scope)):
        yield EMPTY if scope is None else scope.identity
    present_scope()  # what was there before may have been left meanwhile


def _check_names(ids: dict[str, Any]) -> None:
    if unknown := ids.keys() - _NAMES:
        raise TypeError(f"unknown: {', '.join(sorted(unknown))}. Choose from {', '.join((*ID_FIELDS, 'attributes'))}")


# Where this fails, the scope around must not count: the block belongs to another user.
@guard_without_ids("scope_failed", otherwise=lambda identity, ids: failed_scope("bind"))
def _bound(identity: CallContext | None, ids: dict[str, Any]) -> Scope | None:
    over = CallContext(**ids)
    if identity is not None:
        over = identity.overlay(over)
    outer = present_scope()
    # A closed scope is a weak source; what is bound inside of it must not make its ids strong again.
    if outer is None or not outer.is_open:
        scope = Scope(over, "bind", outer)
    else:
        scope = Scope(outer.identity.overlay(over), "bind", outer)
        if outer.authority is not outer.identity:
            scope.authority = outer.authority.overlay(over)
    tell_named(scope, over)
    return scope


def amend(**ids: Any) -> CallContext:
    """Change the *current* scope, for all code in it, and return its new identity.

    For what is known late: authentication in a FastAPI dependency, synchronous ones included. Turning one user
    into another is counted as a conflict, save on a websocket; calls that have started keep the user they started
    with. `user_id=None` logs the user out, and the session with them: later calls are anonymous. Outside of any scope
    nothing happens, apart from a line in the log.
    """
    _check_names(ids)
    return _amended(ids)


def _doubtful(ids: dict[str, Any]) -> CallContext:
    """Answer where an amendment has failed: what the scope does not know without it, no other source may say."""
    scope = current_scope()
    if scope is not None and scope is not FAILED_SCOPE:
        scope.failed = True
        if ids.get("user_id") not in (None, scope.identity.user_id):
            scope.identity = EMPTY
    return current()


@guard("amend_failed", "%s failed: the scope stays as it was", otherwise=_doubtful)
def _amended(ids: dict[str, Any]) -> CallContext:
    over = CallContext(**ids)
    scope = _amendable()
    if scope is None:
        diagnostics.count("amend_without_scope", "amend() outside of any scope: add ContextMiddleware, or use bind()")
        return EMPTY
    if "user_id" in ids and over.user_id is None and scope.identity.user_id is not None:
        _log_out(scope)
        scope = newest_of(scope)
    amend_scope(scope, over)
    return newest_of(scope).identity


def _amendable() -> Scope | None:
    """Return the scope that `amend` changes: on a connection whose user has changed, that of the newest user."""
    here = current_scope()
    if here is None or here.history is None or here.history.successor is None or here.history.is_replaced_here:
        return present_scope()
    return newest_of(here)


def _log_out(scope: Scope) -> None:
    """Take user and session from `scope`, and from the request around, for what comes later."""
    user_id = scope.identity.user_id
    around: Scope | None = scope
    while around is not None and around.identity.user_id == user_id and around is not FAILED_SCOPE:
        before = around.identity
        if around.is_socket and around.kind == "request":
            _succeed(around, before.without_people())
        else:
            around.identity = around.authority = before.without_people()
            around.refresh = None
            tell_named(around, EMPTY, before)
        if around.kind != "node":
            break
        around = around.parent


def _succeed(scope: Scope, identity: CallContext) -> None:
    """Give a connection a new scope, for another user: tasks of the user before go on in the one that they have."""
    successor = Scope(identity, "request")
    successor.is_socket, successor.owner, successor.route = True, scope.owner, scope.route
    history = scope.get_history()
    history.successor = successor
    successor.get_history().is_successor = True
    scope.on_close.append(lambda _: successor.close())
    if current_scope() is scope:
        history.is_replaced_here = scope.owner == worker_here()
        replace_current(successor)
    tell_named(successor, identity, scope.identity)


def _is_next(scope: Scope, over: CallContext) -> bool:
    """Return whether `over` logs a user in on a connection from which another has logged out."""
    history = scope.history
    return history is not None and history.is_successor and scope.identity.user_id is None and over.user_id is not None


on_named: Final[list[Callable[[Scope, CallContext], None]]] = []
"""Called with a scope that has been given a thread, or another user, and its identity before (`registration.py`)."""


def tell_named(scope: Scope, over: CallContext, before: CallContext = EMPTY) -> None:
    """Let the registries know of a scope to which `over` has given a thread, or another user than `before` had."""
    if over.thread_id is not None or before.user_id not in (None, scope.identity.user_id):
        for tell in on_named:
            tell(scope, before)


def amend_scope(scope: Scope, over: CallContext) -> None:
    """Amend a given scope as `amend` does the current one."""
    if scope is FAILED_SCOPE:
        return
    before = scope.identity
    is_another = None not in (before.user_id, over.user_id) and over.user_id != before.user_id
    if scope.is_socket and scope.kind == "request" and (is_another or _is_next(scope, over)):
        _succeed(scope, before.overlay(over))
        return
    if is_another and not scope.is_socket:  # there, another user may log in
        scope.conflict = True
        diagnostics.count("amended_into_another_user", "amend() turned one user into another; open a scope with bind()")
    whole = scope.authority is before
    scope.identity = before.overlay(over)
    scope.authority = scope.identity if whole else scope.authority.overlay(over)
    around = scope.parent
    if scope.kind == "node" and around is not None and around.is_open and around.identity.agrees(before):
        amend_scope(around, over)  # a node is a part of it: wrapping must make no difference
    tell_named(scope, over, before)
