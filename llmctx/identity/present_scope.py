"""The scope that holds here, where a context still has one that was inherited, left or replaced: `present_scope`.

- A scope that was entered in this context and left in another (a bridge between sync and async, a generator that
  another task closed) is over: what was there before it holds.
- On a connection whose user has changed, what goes on in the connection's own flow is the new user's; a task that was
  started before is not.
- A server that holds sessions runs the requests of all its clients in tasks that inherited the context of the one who
  opened the session; one that answers from a queue of its own, in tasks without any. Some keep the request at hand
  (`_VARIABLES`): then that request's scope holds.
- A generator may hold a scope across its yields (`held_scopes.py`).

To be deleted, as far as sessions go, once `mcp` 1.x is out of use: 2.x runs each request in its sender's context.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from llmctx.core.guard import guard_harmless, guard_without_ids
from llmctx.identity.held_scopes import held, held_scope
from llmctx.identity.scope import (
    EMPTY,
    FAILED_SCOPE,
    CallContext,
    Scope,
    current_scope,
    replace_current,
    restore_current,
    worker_here,
)

SCOPE_KEY: Final = "llmctx.scope"
"""Where `ContextMiddleware` keeps the scope of a request, in the connection."""

_SESSION_SERVER: Final = "mcp.server.lowlevel.server"
_QUEUE_SERVER: Final = "gradio.context"
_VARIABLES: Final = {_SESSION_SERVER: ("request_ctx",), _QUEUE_SERVER: ("LocalContext", "request")}
"""Where those modules have the context variable whose value has, as `request`, the request that is being answered.
A queue's request is over by then. Of a batch there are several, and the value has none."""

modules: Final = sys.modules


def may_be_elsewhere() -> bool:
    """Return whether another scope may hold than that of the context: then `present_scope` has to be asked."""
    return bool(held) or _SESSION_SERVER in modules or _QUEUE_SERVER in modules


@guard_without_ids("scope_failed", otherwise=lambda: FAILED_SCOPE)
def present_scope() -> Scope | None:
    """Return the scope that holds for what runs here; None if there is none. Never raises."""
    scope = current_scope()
    if scope is not None and scope.history is not None:
        scope = _followed(scope)
    return answered_scope(held_scope(scope) if held else scope)


def current() -> CallContext:
    """Return the identity of the current scope; an empty one where nothing is known."""
    scope = present_scope()
    return EMPTY if scope is None else scope.identity


@guard_without_ids("scope_failed", otherwise=lambda scope: FAILED_SCOPE)
def answered_scope(scope: Scope | None) -> Scope | None:
    """Return the scope of the request that a server's task is answering, unless `scope` was opened for it."""
    if _SESSION_SERVER not in modules and _QUEUE_SERVER not in modules:
        return scope
    own = _newest(_scope_at_hand(server) for server in _VARIABLES)
    if own is None or (scope is not None and own.serial < scope.serial and (scope.is_open or not own.is_open)):
        return scope
    return own


def _newest(scopes: Iterable[Scope | None]) -> Scope | None:
    return max((scope for scope in scopes if scope is not None), key=lambda scope: scope.serial, default=None)


def _scope_at_hand(server: str) -> Scope | None:
    """Return the scope of the request that a server keeps at hand here."""
    variable: Any = modules.get(server)
    for name in _VARIABLES[server]:
        variable = getattr(variable, name, None)
    request = getattr(variable.get(None), "request", None) if isinstance(variable, ContextVar) else None
    connection = getattr(request, "scope", None)
    scope = connection.get(SCOPE_KEY) if isinstance(connection, Mapping) else None
    return scope if isinstance(scope, Scope) else None


def is_answered_here(scope: Scope) -> bool:
    """Return whether a session's task is answering the very request that `scope` is part of."""
    own = _scope_at_hand(_SESSION_SERVER) if _SESSION_SERVER in modules else None
    return own is not None and own.of_request == scope.of_request


def _followed(scope: Scope) -> Scope | None:
    """Return what holds in place of a scope that was left or replaced, and make it current where that is certain."""
    present: Scope | None = scope
    while present is not None and (history := present.history) is not None:
        if history.left is not None and not present.is_open:
            try:
                restore_current(history.left)
            except (ValueError, RuntimeError):  # another context: a task that was started inside of the scope
                return present
            history.left = None
            present = current_scope()
        elif history.successor is not None and present.is_open:
            if present.owner == worker_here():
                present = history.successor
                replace_current(present)
            elif history.is_replaced_here:
                return present
            else:  # started before or after, it cannot be told
                return _of_nobody(present)
        else:
            return present
    return present


def _of_nobody(scope: Scope) -> Scope:
    """Return a scope of the same connection that names no user."""
    unknown = Scope(scope.identity.without_people(), "request")
    unknown.of_request = scope.of_request
    return unknown


def newest_of(scope: Scope) -> Scope:
    """Return the scope of the user who is on the connection of `scope` by now."""
    while scope.history is not None and scope.history.successor is not None:
        scope = scope.history.successor
    return scope


@guard_harmless("scope_failed")
def follow_connection() -> None:
    """Make the newest scope of a connection current, in the task that reads from it, if an older one is."""
    here = current_scope()
    if here is not None and here.history is not None and here.is_open:
        replace_current(newest_of(here))
