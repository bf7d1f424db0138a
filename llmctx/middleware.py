"""ContextMiddleware: opens a scope for each request and websocket, with the identity of the authenticated user.

Pure ASGI, so that the scope is seen by endpoints, dependencies, streaming bodies and background tasks. It trusts
nothing by default: the user is the authenticated `scope["user"]`, or what the team's `identify` says. Headers count
only where `identify` reads them. Whatever `identify` does, the request goes on.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import uuid4

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from llmctx.core.diagnostics import diagnostics
from llmctx.core.guard import guard, guard_harmless, guard_without_ids, is_from_outside
from llmctx.core.process import flush_at_shutdown
from llmctx.core.record import Reason
from llmctx.core.tracing import current_span
from llmctx.identity.binding import tell_named
from llmctx.identity.present_scope import SCOPE_KEY, follow_connection
from llmctx.identity.scope import EMPTY, CallContext, Inside, Scope, failed_scope
from llmctx.identity.task_numbers import note_end

Identify = Callable[[HTTPConnection], CallContext | Awaitable[CallContext | None] | None]


class ContextMiddleware:
    """Gives each request, and every LLM call made inside of it, its identity.

        app.add_middleware(ContextMiddleware, identify=who)

    Args:
        app: the application inside.
        identify: gets the `HTTPConnection`, returns a `CallContext`, or None for an anonymous request; may be async.
            By default the user is `scope["user"]` as starlette's AuthenticationMiddleware leaves it, also when that
            middleware runs further in. A request without a trace_id gets that of OpenTelemetry's span, or a new one.
    """

    def __init__(self, app: ASGIApp, identify: Identify | None = None) -> None:
        self.app = app
        self.identify = identify

    async def __call__(self, connection: Connection, receive: Receive, send: Send) -> None:
        if connection["type"] not in ("http", "websocket"):
            await self.app(connection, receive, _flushing(send) if connection["type"] == "lifespan" else send)
            return
        identity, reason = await self._ask(connection)
        with Inside(self._opened(connection, identity, reason)):
            await self.app(connection, _following(receive) if connection["type"] == "websocket" else receive, send)

    def _of_nobody(self, connection: Connection, identity: CallContext, reason: str | None) -> Scope:
        return failed_scope("request")

    @guard_without_ids("request_scope_failed", otherwise=_of_nobody)
    def _opened(self, connection: Connection, identity: CallContext, reason: str | None) -> Scope:
        """Return the scope of a request."""
        outer = connection.get(SCOPE_KEY)
        if isinstance(outer, Scope) and outer.is_open:
            # A mounted application with a middleware of its own: what it knows is laid over what is known outside,
            # unless the two speak of different people.
            if identity.user_id is None or outer.identity.user_id in (None, identity.user_id):
                identity = outer.identity.overlay(identity)
            elif identity.trace_id is None:
                identity = identity.overlay(CallContext(trace_id=outer.identity.trace_id))
            scope = Scope(identity, "request", outer)
        else:
            # A request has no scope around it, whatever the server's own context holds: on a kept-alive connection
            # that may be the request before.
            if identity.trace_id is None:
                identity = identity.overlay(CallContext(trace_id=_trace_id()))
            scope = Scope(identity, "request")
        scope.reason = reason
        scope.is_socket = connection["type"] == "websocket"
        if self.identify is None and identity.user_id is None:
            scope.refresh = lambda: authenticated_identity(connection)
        scope.route = lambda: route(connection)
        scope.on_close.append(note_end)
        connection[SCOPE_KEY] = scope
        tell_named(scope, identity)
        return scope

    async def _ask(self, connection: Connection) -> tuple[CallContext, str | None]:
        """Return the identity of the connection, and why it is missing where that is odd."""
        try:
            if self.identify is None:
                return authenticated_identity(connection) or EMPTY, None
            found = self.identify(HTTPConnection(connection))
            if inspect.isawaitable(found):
                found = await found
            return _as_identity(found), None
        except BaseException as problem:
            if _is_cancelled(problem) or is_from_outside(problem):
                raise
            return _unidentified(problem)


@guard_without_ids("request_scope_failed", otherwise=lambda receive: receive)
def _following(receive: Receive) -> Receive:
    """Return `receive` so that what reads from a websocket goes on as the user who has logged in on it."""

    async def receive_as_newest() -> Message:
        message = await receive()
        follow_connection()
        return message

    return receive_as_newest


def _flushing(send: Send) -> Send:
    """Return `send` so that rows are in the database before the server knows that all is shut down, and may end."""

    async def send_after_flush(message: Message) -> None:
        if message["type"].startswith("lifespan.shutdown."):
            await flush_at_shutdown()
        await send(message)

    return send_after_flush


def _may_be(problem: BaseException) -> bool:
    return isinstance(problem, asyncio.CancelledError)


@guard_harmless("identify_failed", otherwise=_may_be)
def _is_cancelled(problem: BaseException) -> bool:
    """Return whether the request was cancelled while `identify` ran, rather than something that `identify` awaited."""
    if not isinstance(problem, asyncio.CancelledError):
        return False
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


@guard("identify_failed", "identify failed, and so did %s", otherwise=lambda problem: (EMPTY, None))
def _unidentified(problem: BaseException) -> tuple[CallContext, str | None]:
    diagnostics.count(
        "identify_failed",
        "identify raised %s: the request continues, its calls are recorded without ids. "
        "Return None for requests without a user.",
        type(problem).__name__,
        exc=problem,
    )
    return EMPTY, Reason.IDENTIFY_FAILED


def authenticated_identity(connection: Mapping[str, Any]) -> CallContext | None:
    """Return the identity that starlette's AuthenticationMiddleware, or one like it, has put into `scope["user"]`."""
    user = connection.get("user")
    if user is None or not getattr(user, "is_authenticated", False):
        return None
    for name in ("identity", "id", "username", "display_name"):
        try:
            value = getattr(user, name, None)
        except NotImplementedError:  # starlette's BaseUser raises it for what a subclass does not define
            continue
        if value is not None and value != "":
            return CallContext(user_id=str(value))
    return None


def route(connection: Mapping[str, Any]) -> str | None:
    """Return `GET /chat/{id}`: the route that a request has come to; None as long as it has come to none."""
    path = getattr(connection.get("route"), "path", None)
    if path is None:  # starlette before 1.0
        path = getattr(connection.get("endpoint"), "__qualname__", None)
    return None if path is None else f"{connection.get('method') or connection['type']} {path}"


@guard_without_ids("trace_failed", otherwise=lambda: uuid4().hex)
def _trace_id() -> str:
    span = current_span()
    return uuid4().hex if span is None else span.trace_id


def _as_identity(result: object) -> CallContext:
    if result is None:
        return EMPTY
    if isinstance(result, CallContext):
        return result
    if isinstance(result, Mapping):
        return CallContext(**result)
    raise TypeError(f"identify must return a CallContext or None, not {type(result).__name__}")
