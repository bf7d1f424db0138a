"""Scopes: the identity of calls, what it belongs to, and the one context variable of the package.

The variable holds a small `Scope`, not the identity itself. A synchronous FastAPI dependency runs in another
thread on a *copy* of the context: what it sets there is lost, but what it changes on the shared scope is seen
(`binding.amend`). The identity is a frozen value that is replaced, never edited, so a reader keeps what was
true at that moment.

A scope is open until the end of its request or block and closed afterwards. Tasks and threads may outlive it and
still carry it; a closed scope is a weaker source than an open one (`sources.py`).

Where llmctx itself fails to find out whose the code is that runs, that code is in a scope that is `failed`: it
belongs to no user, and no weaker source is believed there, for it may name another user.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from _thread import get_ident
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar, Token
from typing import TYPE_CHECKING, Any, Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.guard import guard_harmless, guard_without_ids, swallow
from llmctx.core.process import ForkStage, in_forked_child
from llmctx.identity.call_context import EMPTY as EMPTY  # these are part of what stands here
from llmctx.identity.call_context import ID_FIELDS as ID_FIELDS
from llmctx.identity.call_context import ID_LIMIT as ID_LIMIT
from llmctx.identity.call_context import CallContext as CallContext
from llmctx.identity.call_context import clean_id as clean_id

if TYPE_CHECKING:
    from llmctx.core.tracing import Span

carrying_call_logs: Final[list[object]] = []
"""The call logs for which `propagation.threads` carries scopes into threads, jobs and queues."""

next_serial: Final = itertools.count(1).__next__
"""Numbers scopes and registrations on one counter, so that their order can be asked."""


class History:
    """The record of those few scopes that were left or replaced elsewhere."""

    __slots__ = ("is_replaced_here", "is_successor", "left", "successor")

    def __init__(self) -> None:
        self.left: Token[Scope | None] | None = None
        """Takes it out of the context in which it was entered, for it was left in another (`present_scope.py`)."""
        self.successor: Scope | None = None
        """The scope of the user who has logged in on this connection since (`binding.py`)."""
        self.is_successor = False
        """Whether it is such a successor itself."""
        self.is_replaced_here = False
        """Whether that was done in the context of the scope's owner: what still holds this scope is older."""


class Scope:
    """The span of code to which an identity belongs. Open until `close`, closed for ever afterwards.

    `kind` says what opened it: "request", "bind", "node", "job", "item", or "thread" and "fork" for one that a
    thread or a process has merely inherited from where it was started. `reason` is the code of a row when this
    scope knows no user. `threads` are the LangGraph threads that ran inside it. `refresh`, if any, is asked again
    for an identity while the user is unknown (authentication that runs further in than the middleware). `route`
    tells which of the application's routes a request has come to. `owner` is the task that opened it, or the number
    of the thread; it tells the scope's own work from a worker that it started. `displaced` is, for what a worker
    runs, the scope that the worker was started in. `refused` is what data said in a node and was not believed.
    `redacts` says that one of the team's functions for redaction is at work in it. `used` says that something was
    done in it, or handed on. `failed` says that llmctx has failed, here or around it: no source is believed before
    the code says outright whose this is. `authority` is that part of the identity which the server's own code has
    given; the rest are data of the caller (`authority.py`). `of_request` is the number of the outermost request
    around it, open or closed; 0 outside of requests. `is_socket` says that this request is a websocket, whose user
    may change; `may_be_of_others` that what looks like a worker has handed on this job when the request was over.
    `history` is None for most; `early_work` is what was seen at work in it beside its owner (`background_work.py`),
    `tasks_at_end` how far asyncio had counted when it closed (`task_numbers.py`). `span` is the span of
    OpenTelemetry, in another process, that has handed this job over. `graph`, set only where there is one, is the
    name of a node's graph.
    """

    __slots__ = (
        "__weakref__",
        "anchor",
        "attribution",
        "authority",
        "closed_at",
        "conflict",
        "displaced",
        "early_work",
        "failed",
        "graph",
        "handlers",
        "history",
        "identity",
        "is_socket",
        "kind",
        "may_be_of_others",
        "of_request",
        "on_close",
        "owner",
        "packed",
        "parent",
        "reason",
        "redacts",
        "refresh",
        "refused",
        "route",
        "serial",
        "span",
        "tasks_at_end",
        "threads",
        "used",
    )

    graph: str

    def __init__(self, identity: CallContext, kind: str, parent: Scope | None = None) -> None:
        self.identity = identity
        self.kind = kind
        self.parent = parent
        self.serial = next_serial()
        self.authority = identity
        self.is_socket = self.redacts = self.may_be_of_others = False
        if parent is None:
            self.of_request: int = self.serial if kind == "request" else 0
            self.span: Span | None = None
        else:
            self.of_request = parent.of_request or (self.serial if kind == "request" else 0)
            self.is_socket = parent.is_socket
            self.redacts = parent.redacts
            self.span = parent.span
            if parent.identity is identity:
                self.authority = parent.authority
        if kind == "redaction":
            self.redacts = True
        self.closed_at: float | None = None  # monotonic seconds
        self.conflict = False
        self.refused: tuple[CallContext, ...] = ()
        self.reason: str | None = None
        self.displaced: Scope | None = None if parent is None else parent.displaced
        self.threads: set[str] = set() if identity.thread_id is None else {identity.thread_id}
        self.owner: object = None if kind in ("node", "thread") else worker_here()
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
        self.history: History | None = None
        self.early_work: Any = None
        self.tasks_at_end = 0
        self.attribution: Any = None  # what its word alone amounts to (`resolution.decide`)
        self.packed: Any = None  # its identity as it travels in metadata (`config_carrier.CarriedIdentity`)
        if parent is not None:
            parent.anchor.used = True

    @property
    def is_open(self) -> bool:
        return self.closed_at is None

    def get_history(self) -> History:
        """Return its history, which is made at first need."""
        if self.history is None:
            self.history = History()
        return self.history

    @property
    def anonymous(self) -> bool:
        """Return whether this is (part of) a request whose user is not known."""
        return self.of_request != 0 and self.identity.user_id is None

    def _shut(self) -> None:
        self.closed_at = self.closed_at or time.monotonic()

    @guard_harmless("scope_failed", otherwise=_shut)
    def close(self) -> None:
        """Close it and call the watchers. Closing twice is closing once. Never raises."""
        self._end()

    def _end(self) -> None:
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


def with_parents(scope: Scope | None) -> Iterator[Scope]:
    """Yield `scope` and those around it, the innermost first."""
    while scope is not None:
        yield scope
        scope = scope.parent


def is_left_over(scope: Scope) -> bool:
    """Return whether a scope is closed, or was only inherited (`propagation.threads`) from one that is closed."""
    if not scope.is_open:
        return True
    while scope.kind == "node" and scope.parent is not None:
        scope = scope.parent
    while scope.kind == "thread" and scope.parent is not None and scope.parent.is_open:
        scope = scope.parent
    return scope.kind == "thread"


def worker_here() -> object:
    """Return the running task, or else the thread's number. It does not import asyncio: `import llmctx` stays quick."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return asyncio.current_task() or get_ident()
    return get_ident()


_current: Final[ContextVar[Scope | None]] = ContextVar("llmctx_scope", default=None)


current_scope: Final[Callable[[], Scope | None]] = _current.get
"""The innermost scope of this context, open or closed. It may be inherited: see `present_scope.present_scope`."""


def scope_in(context: Context) -> Scope | None:
    """Return the innermost scope of another context."""
    return context.get(_current)


replace_current: Final = _current.set
restore_current: Final = _current.reset


# What surrounds the application's own code is made of these. None of them ever raises. Where one fails, the code runs
# in a scope that has failed; never in the one around, nor in none.

Entry = Token[Scope | None] | None
"""What restores the scope that was current before; None if that is the current one still."""

FAILED_SCOPE: Final = Scope(EMPTY, "lost")
"""Where not even a scope can be made any more. It is shared, so it never closes and takes no identity."""
FAILED_SCOPE.failed, FAILED_SCOPE.owner = True, None


@guard_without_ids("scope_failed", otherwise=lambda kind: FAILED_SCOPE)
def failed_scope(kind: str) -> Scope:
    """Return a new scope without identity, for code whose own could not be opened. `amend` may still give it one."""
    scope = Scope(EMPTY, kind)
    scope.failed = True
    return scope


@guard_without_ids("scope_failed", otherwise=lambda kind, identity=EMPTY, parent=None: FAILED_SCOPE)
def new_scope(kind: str, identity: CallContext = EMPTY, parent: Scope | None = None) -> Scope:
    """Return a new scope, which is not current yet."""
    return Scope(identity, kind, parent)


@guard_without_ids("scope_failed", otherwise=lambda scope: _current.set(FAILED_SCOPE))
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


@guard_harmless("scope_failed", otherwise=_restore)
def suspend(token: Entry) -> None:
    """Restore what was current before `enter`; the scope stays open. For generators, between two steps."""
    if token is not None:
        _current.reset(token)


def _drop(scope: Scope | None, token: Entry, is_held: bool = False) -> None:
    _restore(token)
    if scope is not None:
        scope.close()


@guard_harmless("scope_failed", otherwise=_drop)
def leave(scope: Scope | None, token: Entry, is_held: bool = False) -> None:
    """Close `scope` and restore what was current before. `is_held`: a generator may leave it in another context."""
    try:
        if token is not None:
            _current.reset(token)
    except ValueError:
        _restore(token)  # it need not have been that which failed
        _restore_here(token, scope)
        if scope is not None:
            scope.get_history().left = token  # its context may live on: a pooled thread's, a generator's
        if not is_held:
            diagnostics.count("scope_left_elsewhere", "a scope was closed in another context than it was opened in")
    if scope is not None:
        scope._end()  # guarded here as it is


def _is_inside(scope: Scope | None, around: Scope) -> bool:
    """Return whether `scope` was entered after `around`, and not been left: the two are not left in order."""
    return (
        scope is not None and scope.closed_at is None and scope.serial > around.serial and scope.kind in ("bind", "job")
    )


@guard_harmless("scope_failed", otherwise=_drop)
def release(scope: Scope | None, token: Entry, is_held: bool = False) -> None:
    """Leave a scope that the application holds open by hand: others that were entered since may go on."""
    if scope is not None and _is_inside(_current.get(), scope):
        scope.get_history().left = token
        scope.close()
    else:
        leave(scope, token, is_held)


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


def change_job(scope: Scope | None) -> None:
    """Let this task or thread, a worker, be in `scope` from here on, or in none. Its previous job's scope is over."""
    before = _current.get()
    if before is not None and before.kind == "item":
        before.close()
    _current.set(scope)


class InsideBlock(Inside):
    """`Inside` for a block that the application may end wherever and whenever it likes."""

    __slots__ = ("is_held",)

    def __init__(self, scope: Scope | None, *, is_held: bool) -> None:
        self.scope, self.is_held = scope, is_held

    def __exit__(self, *_: object) -> None:
        release(self.scope, self.token, self.is_held)


@in_forked_child(ForkStage.SCOPE)
@guard_without_ids("scope_failed", otherwise=lambda: _current.set(FAILED_SCOPE))
def _forked() -> None:
    """Close the inherited scopes in a forked child: they are the parent's, maybe those of the request that forked."""
    scope = _current.get()
    while scope is not None:
        scope.on_close, parent = [], scope.parent  # its watchers are the parent process's
        scope.close()
        scope.kind, scope.of_request = "fork", 0
        scope = parent
