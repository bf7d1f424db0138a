"""Whose call it is: the identity, the scopes to which it belongs, and the one context variable of the package.

The variable holds a small `Scope`, not the identity itself. A synchronous FastAPI dependency runs in another
thread on a *copy* of the context: what it sets there is lost, but what it changes on the shared scope is seen
(`amend`). The identity is a frozen value that is replaced, never edited, so a reader keeps what was
true at that moment.

A scope is open until the end of its request or block and closed afterwards. Tasks and threads may outlive it and
still carry it; a closed scope is a weaker source than an open one (`sources.py`).

Where llmctx itself fails to find out whose the code is that runs, that code is in a scope that is `failed`: it
belongs to nobody, and no weaker source is believed there, for it may name another user.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from _thread import get_ident
from collections.abc import Callable, Iterator
from contextvars import ContextVar, Token
from typing import Any, Final, ParamSpec, TypeVar

from llmctx.core.diagnostics import diagnostics
from llmctx.core.guard import guarded, harmless, swallow, without_ids
from llmctx.core.process import ForkStage, in_forked_child
from llmctx.identity.call_context import EMPTY as EMPTY  # these are part of what stands here
from llmctx.identity.call_context import ID_FIELDS as ID_FIELDS
from llmctx.identity.call_context import ID_LIMIT as ID_LIMIT
from llmctx.identity.call_context import CallContext as CallContext
from llmctx.identity.call_context import clean_id as clean_id

P = ParamSpec("P")
R = TypeVar("R")

_NAMES: Final = frozenset((*ID_FIELDS, "attributes"))

carries: Final[list[object]] = []
"""The call logs for which `propagation.threads` carries scopes into threads, jobs and queues."""

next_serial: Final = itertools.count(1).__next__
"""Numbers scopes and registrations on one counter, so that their order can be asked."""


class Scope:
    """The span of code to which an identity belongs. Open until `close`, closed for ever afterwards.

    `kind` says what opened it: "request", "bind", "node", "job", "item", or "thread" and "fork" for one that a thread
    or a process has merely inherited from where it was started. `reason` is the code of a row when this scope knows
    nobody. `threads` are the LangGraph threads that ran inside it. `refresh`, if any, is asked again for an identity
    while the user is unknown (authentication that runs further in than the middleware). `route` tells which of the
    application's routes a request has come to. `owner` is the task that opened it, or the number of the thread; it
    tells the scope's own work from a worker that it started. `displaced` is, for what a worker runs, the scope that the
    worker was started in. `redacts` says that one of the team's functions for redaction is at work in it. `used` says
    that something was done in it, or handed on. `failed` says that llmctx has failed, here or around it: no
    source is believed before the code says outright whose this is. `authority` is that part of the identity which the
    server's own code has given; the rest are data of the caller (`authority.py`). `of_request` is the number of the
    outermost request around it, open or closed; 0 outside of requests. `is_socket` says that this request is a
    websocket, whose user may change.
    """

    __slots__ = (
        "__weakref__",
        "anchor",
        "attribution",
        "authority",
        "closed_at",
        "conflict",
        "displaced",
        "failed",
        "handlers",
        "identity",
        "is_socket",
        "kind",
        "of_request",
        "on_close",
        "owner",
        "packed",
        "parent",
        "reason",
        "redacts",
        "refresh",
        "route",
        "serial",
        "threads",
        "used",
    )

    def __init__(self, identity: CallContext, kind: str, parent: Scope | None = None) -> None:
        self.identity = identity
        self.kind = kind
        self.parent = parent
        self.serial = next_serial()
        self.authority = identity
        self.is_socket = self.redacts = False
        if parent is None:
            self.of_request: int = self.serial if kind == "request" else 0
        else:
            self.of_request = parent.of_request or (self.serial if kind == "request" else 0)
            self.is_socket = parent.is_socket
            self.redacts = parent.redacts
            if parent.identity is identity:
                self.authority = parent.authority
        if kind == "redaction":
            self.redacts = True
        self.closed_at: float | None = None  # monotonic seconds
        self.conflict = False
        self.reason: str | None = None
        self.displaced: Scope | None = None if parent is None else parent.displaced
        self.threads: set[str] = set() if identity.thread_id is None else {identity.thread_id}
        self.owner: object = None if kind in ("node", "thread") else _here()
        self.refresh: Callable[[], CallContext | None] | None = None
        self.route: Callable[[], str | None] | None = None
        self.on_close: list[Callable[[Scope], None]] = []
        self.handlers: dict[int, Any] | None = None
        self.failed: bool = parent is not None and parent.failed and None in (identity.user_id, identity.session_id)
        # The scope on whose behalf callbacks are carried: scopes of one identity share it, so that a run which
        # passes through all of them meets one handler, not one per scope.
        anchor = self
        if (
            parent is not None
            and parent.anchor.closed_at is None
            and not parent.failed
            and (kind == "node" or parent.identity.agrees(identity))
        ):
            anchor = parent.anchor
        self.anchor: Scope = anchor
        self.used = False
        self.attribution: Any = None  # what its word alone amounts to (`resolution.decide`)
        self.packed: tuple[CallContext, dict[str, str]] | None = None  # its identity as it travels in metadata
        if parent is not None:
            parent.anchor.used = True

    @property
    def is_open(self) -> bool:
        return self.closed_at is None

    @property
    def anonymous(self) -> bool:
        """Whether this is (part of) a request whose user is not known."""
        return self.of_request != 0 and self.identity.user_id is None

    def _shut(self) -> None:
        self.closed_at = self.closed_at or time.monotonic()

    @harmless("scope_failed", otherwise=_shut)
    def close(self) -> None:
        """Close it and call the watchers. Closing twice is closing once. Never raises."""
        if self.closed_at is not None or self is FAILED_SCOPE:
            return
        self.closed_at = time.monotonic()
        # they lead to the request's objects, which must not live on here
        self.refresh = self.route = self.handlers = self.owner = None
        if self.identity or self.kind != "node":
            self.parent = None  # contexts that breed contexts would grow a chain without end
        watchers, self.on_close = self.on_close, []
        for watcher in watchers:
            try:
                watcher(self)
            except BaseException as problem:  # noqa: BLE001  the others are to be told all the same
                swallow(problem, "scope_watcher_failed", "a watcher of a closing scope failed")


def _here() -> object:
    """Return the running task, or else the thread's number. It does not import asyncio: `import llmctx` stays quick."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return asyncio.current_task() or get_ident()
    return get_ident()


_current: Final[ContextVar[Scope | None]] = ContextVar("llmctx_scope", default=None)


current_scope: Final[Callable[[], Scope | None]] = _current.get
"""The innermost scope of this context, open or closed."""


def current() -> CallContext:
    """Return the identity of the current scope; an empty one where nothing is known."""
    scope = _current.get()
    return EMPTY if scope is None else scope.identity


# What surrounds the application's own code is made of these. None of them ever raises. Where one fails, the code runs
# in a scope that has failed; never in the one around, nor in none.

Entry = Token[Scope | None] | None
"""What restores the scope that was current before; None if that is the current one still."""

FAILED_SCOPE: Final = Scope(EMPTY, "lost")
"""Where not even a scope can be made any more. It is shared, so it never closes and takes no identity."""
FAILED_SCOPE.failed, FAILED_SCOPE.owner = True, None


@without_ids("scope_failed", otherwise=lambda kind: FAILED_SCOPE)
def failed_scope(kind: str) -> Scope:
    """Return a new scope without identity, for code whose own could not be opened. `amend` may still give it one."""
    scope = Scope(EMPTY, kind)
    scope.failed = True
    return scope


@without_ids("scope_failed", otherwise=lambda kind, identity=EMPTY, parent=None: FAILED_SCOPE)
def opened(kind: str, identity: CallContext = EMPTY, parent: Scope | None = None) -> Scope:
    """Return a new scope, which is not current yet."""
    return Scope(identity, kind, parent)


@without_ids("scope_failed", otherwise=lambda scope: _current.set(FAILED_SCOPE))
def enter(scope: Scope | None) -> Entry:
    """Make `scope` the current one; `FAILED_SCOPE`, if there is none. Give the token to `leave` in a `finally`."""
    return _current.set(FAILED_SCOPE if scope is None else scope)


def _restore(token: Entry) -> None:
    if token is not None:
        with contextlib.suppress(ValueError, RuntimeError):  # another context; or it has been restored before it failed
            _current.reset(token)


def _restore_here(token: Entry, scope: Scope | None) -> None:
    """Restore what was current before `scope`, where the context is a copy of the one in which it was entered."""
    if token is not None and scope is not None and _current.get() is scope:
        before = token.old_value
        _current.set(None if before is Token.MISSING else before)


@harmless("scope_failed", otherwise=_restore)
def suspend(token: Entry) -> None:
    """Restore what was current before `enter`; the scope stays open. For generators, between two steps."""
    if token is not None:
        _current.reset(token)


def _drop(scope: Scope | None, token: Entry) -> None:
    _restore(token)
    if scope is not None:
        scope.close()


@harmless("scope_failed", otherwise=_drop)
def leave(scope: Scope | None, token: Entry) -> None:
    """Close `scope` and restore what was current before."""
    try:
        if token is not None:
            _current.reset(token)
    except ValueError:
        _restore(token)  # it need not have been that which failed
        _restore_here(token, scope)
        # Another context: a generator that held the scope open was closed by another task. The token is
        # useless there, and the context that it belongs to has gone.
        diagnostics.count(
            "scope_left_elsewhere", "a scope was left in another context; do not hold bind() across a yield"
        )
    if scope is not None:
        scope.close()


class Inside:
    """Run a block of the application's in `scope`, and close that behind it: `with Inside(scope): return await fn()`.

    Never raises.
    """

    __slots__ = ("scope", "token")

    def __init__(self, scope: Scope | None) -> None:
        self.scope = scope

    def __enter__(self) -> None:
        self.token = enter(self.scope)

    def __exit__(self, *_: object) -> None:
        leave(self.scope, self.token)


class StepInside(Inside):
    """`Inside` for one step of a generator: the scope stays open."""

    __slots__ = ()

    def __exit__(self, *_: object) -> None:
        suspend(self.token)


@contextlib.contextmanager
def bind(identity: CallContext | None = None, /, **ids: Any) -> Iterator[CallContext]:
    """Open a scope inside the current one; ids that are not named are inherited.

        with bind(session_id="s-7", user_id=user.id):
            graph.invoke(...)

    Takes the fields of `CallContext` by name, or a whole `CallContext` first. A name that is no field is a
    TypeError. Do not hold it open across a `yield` of an async generator: open it inside, around each step.
    """
    _check_names(ids)
    if identity is not None and not isinstance(identity, CallContext):
        raise TypeError(f"bind() takes a CallContext, or its fields by name, not {type(identity).__name__}")
    scope = _bound(identity, ids)
    with Inside(scope):
        yield EMPTY if scope is None else scope.identity


def _check_names(ids: dict[str, Any]) -> None:
    if unknown := ids.keys() - _NAMES:
        raise TypeError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join((*ID_FIELDS, 'attributes'))}")


# Where this fails, the scope around must not count: the block belongs to another user.
@without_ids("scope_failed", otherwise=lambda identity, ids: failed_scope("bind"))
def _bound(identity: CallContext | None, ids: dict[str, Any]) -> Scope | None:
    over = CallContext(**ids)
    if identity is not None:
        over = identity.overlay(over)
    outer = _current.get()
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
    """Change the *current* scope, for everybody in it, and return its new identity.

    For what is known late: authentication in a FastAPI dependency, synchronous ones included. Turning one user
    into another is counted as a conflict, save on a websocket; calls that have started keep the user they started
    with. `user_id=None` logs the user out, and the session with them: later calls are anonymous. Outside of any scope
    nothing happens, apart from a line in the log.
    """
    _check_names(ids)
    return _amended(ids)


def _doubtful(ids: dict[str, Any]) -> CallContext:
    """Answer where an amendment has failed: what the scope does not know without it, no other source may say."""
    scope = _current.get()
    if scope is not None and scope is not FAILED_SCOPE:
        scope.failed = True
        if ids.get("user_id") not in (None, scope.identity.user_id):
            scope.identity = EMPTY
    return current()


@guarded("amend_failed", "%s failed: the scope stays as it was", otherwise=_doubtful)
def _amended(ids: dict[str, Any]) -> CallContext:
    over = CallContext(**ids)
    scope = _current.get()
    if scope is None:
        diagnostics.count("amend_without_scope", "amend() outside of any scope: add ContextMiddleware, or use bind()")
        return EMPTY
    if "user_id" in ids and over.user_id is None and scope.identity.user_id is not None:
        _log_out(scope)
    amend_scope(scope, over)
    return scope.identity


def _log_out(scope: Scope) -> None:
    """Take user and session from `scope`, and from the request around, for what comes later."""
    user_id = scope.identity.user_id
    around: Scope | None = scope
    while around is not None and around.identity.user_id == user_id and around is not FAILED_SCOPE:
        before = around.identity
        around.identity = around.authority = before.without_people()
        around.refresh = None
        tell_named(around, EMPTY, before)
        if around.kind != "node":
            break
        around = around.parent


on_named: Final[list[Callable[[Scope, CallContext], None]]] = []
"""Called with a scope that has been given a thread, or another user, and its identity before (`registration.py`)."""


def tell_named(scope: Scope, over: CallContext, before: CallContext = EMPTY) -> None:
    """Let the registries know of a scope to which `over` has given a thread, or another user than `before` had."""
    if over.thread_id is not None or before.user_id not in (None, scope.identity.user_id):
        for tell in on_named:
            tell(scope, before)


def amend_scope(scope: Scope, over: CallContext) -> None:
    """`amend` for a given scope."""
    if scope is FAILED_SCOPE:
        return
    before = scope.identity
    is_another = None not in (before.user_id, over.user_id) and over.user_id != before.user_id
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


def change_job(scope: Scope | None) -> None:
    """Let this task or thread, a worker, be in `scope` from here on, or in none. Its previous job's scope is over."""
    before = _current.get()
    if before is not None and before.kind == "item":
        before.close()
    _current.set(scope)


@in_forked_child(ForkStage.SCOPE)
@without_ids("scope_failed", otherwise=lambda: _current.set(FAILED_SCOPE))
def _forked() -> None:
    """Close the inherited scopes in a forked child: they are the parent's, maybe those of the request that forked."""
    scope = _current.get()
    while scope is not None:
        scope.on_close, parent = [], scope.parent  # those who watch are the parent process's
        scope.close()
        scope.kind, scope.of_request = "fork", 0
        scope = parent
