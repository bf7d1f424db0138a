"""Whose call it is: the identity, the scopes to which it belongs, and the one context variable of the package.

The variable holds a small `Scope`, not the identity itself. A synchronous FastAPI dependency runs in another
thread on a *copy* of the context: what it sets there is lost, but what it changes on the shared scope is seen
(`amend`). The identity is a frozen value that is replaced, never edited, so whoever has read it keeps what was
true at that moment.

A scope is open until the end of its request or block and closed afterwards. Tasks and threads may outlive it and
still carry it; a closed scope is a weaker witness than an open one (`attribution.py`).
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import sys
import time
from _thread import get_ident
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, fields
from typing import Any, Final, ParamSpec, TypeVar, cast

from llmctx.incidents import incidents

P = ParamSpec("P")
R = TypeVar("R")

ID_LIMIT: Final = 256
"""Longest id, in characters, that is stored as it is."""

carries: Final[list[object]] = []
"""The call logs for which scopes are carried into threads, jobs and queues (`carrying.py`): workers are told apart."""

next_serial: Final = itertools.count(1).__next__
"""Numbers scopes and registrations on one counter, so that their order can be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """Who an LLM call belongs to. `None` means unknown.

    Ids are text of at most 256 printable characters. Numbers and UUIDs become text; an empty id is unknown. An id
    that is longer or holds control characters is stored in a cleaned form that ends in `~` and a hash of the whole,
    so that two different ids stay different; it is counted and logged.
    """

    session_id: str | None = None
    user_id: str | None = None
    trace_id: str | None = None
    conversation_id: str | None = None
    agent_key: str | None = None
    thread_id: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ID_FIELDS:
            value = getattr(self, name)
            if value is not None and not (type(value) is str and 0 < len(value) <= ID_LIMIT and value.isprintable()):
                object.__setattr__(self, name, clean_id(value, name))

    def __bool__(self) -> bool:
        """True when the session or the user is known."""
        return self.session_id is not None or self.user_id is not None

    def agrees(self, other: CallContext) -> bool:
        """Whether both may speak of one person: no two different users, no two different sessions."""
        return (self.user_id is None or other.user_id is None or self.user_id == other.user_id) and (
            self.session_id is None or other.session_id is None or self.session_id == other.session_id
        )

    def overlay(self, over: CallContext) -> CallContext:
        """This identity with every field that `over` knows taken from `over`."""
        if over is EMPTY:
            return self
        if self is EMPTY:
            return over
        ids = {name: new if (new := getattr(over, name)) is not None else getattr(self, name) for name in ID_FIELDS}
        attributes = {**self.attributes, **over.attributes} if over.attributes else self.attributes
        return CallContext(**ids, attributes=attributes)


ID_FIELDS: Final = tuple(f.name for f in fields(CallContext) if f.name != "attributes")
EMPTY: Final = CallContext()


def clean_id(value: object, name: str = "id") -> str | None:
    """`value` as an id: text, at most `ID_LIMIT` printable characters, None if empty.

    Cleaned ids end in `~` and 16 hex digits of a hash over the original, so that no two of them become the same.
    """
    text = value if isinstance(value, str) else str(value)
    if not text:
        return None
    # str.isprintable is too strict for the last word: it refuses spaces of other scripts
    bad = [c for c in text[: ID_LIMIT + 1] if not c.isprintable() and _is_control(c)]
    if not bad and len(text) <= ID_LIMIT:
        return text
    what = f"{len(text)} characters long (limit {ID_LIMIT})" if len(text) > ID_LIMIT else "with control characters"
    incidents.note("cleaned_id", "%s is %s: stored cleaned, with a hash. Pass a short, printable id.", name, what)
    import hashlib  # late: most processes never clean an id, and `import llmctx` stays quick

    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    head = "".join("\ufffd" if _is_control(c) else c for c in text[: ID_LIMIT - 17])
    return f"{head}~{digest}"


def _is_control(char: str) -> bool:
    code = ord(char)
    return code < 0x20 or 0x7F <= code <= 0x9F or 0xD800 <= code <= 0xDFFF or 0x2028 <= code <= 0x202E


class Scope:
    """The span of code to which an identity belongs. Open until `close`, closed for ever afterwards.

    `kind` says what opened it: "request", "bind", "node", "job", "item", or "thread" and "fork" for one that a thread
    or a process has merely inherited from where it was started. `reason` is the code of a row when this scope knows
    nobody. `threads` are the LangGraph threads that ran inside it. `refresh`, if any, is asked again for an identity
    while the user is unknown (authentication that runs further in than the middleware). `route` tells which of the
    application's routes a request has come to. `owner` is the task that opened it, or the number of the thread; it
    tells the scope's own work from a worker that it started. `displaced` is, for what a worker runs, the scope that the
    worker was started in. `used` says that something was done in it, or handed on.
    """

    __slots__ = (
        "__weakref__",
        "anchor",
        "closed_at",
        "conflict",
        "displaced",
        "handlers",
        "identity",
        "kind",
        "on_close",
        "owner",
        "packed",
        "parent",
        "reason",
        "refresh",
        "request",
        "route",
        "serial",
        "threads",
        "used",
    )

    def __init__(self, identity: CallContext, kind: str, parent: Scope | None = None) -> None:
        self.identity = identity
        self.kind = kind
        self.parent = parent
        self.request: bool = kind == "request" or (parent is not None and parent.closed_at is None and parent.request)
        self.serial = next_serial()
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
        # The scope on whose behalf callbacks are carried: scopes of one identity share it, so that a run which
        # passes through all of them meets one handler, not one per scope.
        anchor = self
        if (
            parent is not None
            and parent.anchor.closed_at is None
            and (kind == "node" or parent.identity.agrees(identity))
        ):
            anchor = parent.anchor
        self.anchor: Scope = anchor
        self.used = False
        self.packed: tuple[CallContext, dict[str, str]] | None = None  # its identity as it travels in metadata
        if parent is not None:
            parent.anchor.used = True

    @property
    def is_open(self) -> bool:
        return self.closed_at is None

    @property
    def anonymous(self) -> bool:
        """Whether this is (part of) a request whose user is not known."""
        return self.request and self.identity.user_id is None

    def close(self) -> None:
        """Close it and tell whoever asked to know. Closing twice is closing once."""
        if self.closed_at is not None:
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
            except Exception as problem:  # noqa: BLE001  the end of a request is the host's, not ours to break
                incidents.note("scope_watcher_failed", "a watcher of a closing scope failed", exc=problem)


def _here() -> object:
    """The task that runs, or else the thread's number. asyncio is not imported for it: `import llmctx` stays quick."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return asyncio.current_task() or get_ident()
    return get_ident()


_current: Final[ContextVar[Scope | None]] = ContextVar("llmctx_scope", default=None)


def current_scope() -> Scope | None:
    """The innermost scope of this context, open or closed."""
    return _current.get()


def current() -> CallContext:
    """The identity of the current scope; an empty one where nothing is known."""
    scope = _current.get()
    return EMPTY if scope is None else scope.identity


def enter(scope: Scope) -> Token[Scope | None]:
    """Make `scope` the current one. Give the token to `leave` in a `finally`."""
    return _current.set(scope)


def suspend(token: Token[Scope | None]) -> None:
    """Restore what was current before `enter`; the scope stays open. For generators, between two steps."""
    _current.reset(token)


def leave(scope: Scope, token: Token[Scope | None]) -> None:
    """Close `scope` and restore what was current before. Never raises."""
    try:
        _current.reset(token)
    except ValueError:
        # Another context: a generator that held the scope open was closed by somebody else's task. The token is
        # useless there, and the context that it belongs to has gone.
        incidents.note("scope_left_elsewhere", "a scope was left in another context; do not hold bind() across a yield")
    scope.close()


@contextmanager
def bind(identity: CallContext | None = None, /, **ids: Any) -> Iterator[CallContext]:
    """Open a scope inside the current one; ids that are not named are inherited.

        with bind(session_id="s-7", user_id=user.id):
            graph.invoke(...)

    Takes the fields of `CallContext` by name, or a whole `CallContext` first. A name that is no field is a
    TypeError. Do not hold it open across a `yield` of an async generator: open it inside, around each step.
    """
    over = CallContext(**ids)
    if identity is not None:
        over = identity.overlay(over)
    outer = _current.get()
    # A closed scope is a weak witness; what is bound inside of it must not make its ids strong again.
    inherited = outer.identity if outer is not None and outer.is_open else EMPTY
    scope = Scope(inherited.overlay(over), "bind", outer)
    token = _current.set(scope)
    try:
        yield scope.identity
    finally:
        leave(scope, token)


def amend(**ids: Any) -> CallContext:
    """Change the *current* scope, for everybody in it, and return its new identity.

    For what is known late: authentication in a FastAPI dependency, synchronous ones included. Turning one user
    into another is counted as a conflict; calls that have started keep the user they started with. Outside of any
    scope nothing happens, apart from a line in the log.
    """
    over = CallContext(**ids)
    scope = _current.get()
    if scope is None:
        incidents.note("amend_without_scope", "amend() outside of any scope: add ContextMiddleware, or use bind()")
        return EMPTY
    amend_scope(scope, over)
    return scope.identity


def amend_scope(scope: Scope, over: CallContext) -> None:
    """`amend` for a given scope."""
    before = scope.identity
    if before.user_id is not None and over.user_id is not None and over.user_id != before.user_id:
        scope.conflict = True
        incidents.note("amended_into_another_user", "amend() turned one user into another; open a scope with bind()")
    scope.identity = before.overlay(over)
    around = scope.parent
    if scope.kind == "node" and around is not None and around.is_open and around.identity.agrees(before):
        amend_scope(around, over)  # a node is a part of it: wrapping must make no difference


def change_job(scope: Scope | None) -> None:
    """Let this task or thread, a worker, be in `scope` from here on, or in none. Its previous job's scope is over."""
    before = _current.get()
    _current.set(scope)
    if before is not None and before.kind == "item":
        before.close()


def _forked() -> None:
    """In a forked child: what it has inherited is its parent's, and may be the request of whoever caused the fork."""
    scope = _current.get()
    while scope is not None:
        scope.on_close, parent = [], scope.parent  # those who watch are the parent process's
        scope.close()
        scope.kind = "fork"
        scope = parent


os.register_at_fork(after_in_child=_forked)


def carry(fn: Callable[P, R]) -> Callable[P, R]:
    """Return `fn` bound to the scope in which `carry` was called, for executors, threads and tasks.

        executor.submit(carry(summarise), text)

    Each call runs in a scope of its own with the identity that the scope has by then, and leaves nothing behind in
    the thread. Works for functions and coroutine functions.
    """
    outer = _current.get()

    def job() -> Scope:
        return Scope(EMPTY if outer is None else outer.identity, "job", outer)

    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            scope = job()
            token = _current.set(scope)
            try:
                return await fn(*args, **kwargs)
            finally:
                leave(scope, token)

        return cast("Callable[P, R]", run_async)

    @functools.wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        scope = job()
        token = _current.set(scope)
        try:
            return fn(*args, **kwargs)
        finally:
            leave(scope, token)

    return run
