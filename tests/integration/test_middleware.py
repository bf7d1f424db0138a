"""ContextMiddleware: whose request it is, for every kind of `identify`, and on every way out of a request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection
from starlette.websockets import WebSocket, WebSocketDisconnect

from llmctx import CallContext, bind, current
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity.scope import Scope, current_scope
from llmctx.middleware import ContextMiddleware
from tests.kit.support import Talker

model = Talker()


def client(app: ASGIApp) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def tell(request: Request) -> Response:
    """What is known inside of the request, and what a call made there says of itself."""
    scope = current_scope()
    assert scope is not None
    return JSONResponse({"user": current().user_id, "session": current().session_id, "reason": scope.reason})


def app_with(*middleware: Middleware, endpoint: Any = tell) -> Starlette:
    return Starlette(routes=[Route("/", endpoint, methods=["GET", "POST"])], middleware=list(middleware))


def ours(identify: Any = None) -> Middleware:
    return Middleware(ContextMiddleware, identify=identify)


async def ask(app: ASGIApp, **headers: str) -> Any:
    async with client(app) as http:
        response = await http.get("/", headers=headers)
        assert response.status_code == 200
        return response.json()


def by_header(connection: HTTPConnection) -> CallContext | None:
    user = connection.headers.get("x-user")
    return CallContext(user_id=user, session_id="s") if user else None


async def by_header_async(connection: HTTPConnection) -> CallContext | None:
    await asyncio.sleep(0)
    return by_header(connection)


def by_dict(connection: HTTPConnection) -> Any:
    return {"user_id": connection.headers["x-user"], "session_id": "s"}


class Callable_:  # noqa: N801
    async def __call__(self, connection: HTTPConnection) -> CallContext | None:
        return by_header(connection)


@pytest.mark.parametrize("identify", [by_header, by_header_async, by_dict, Callable_(), lambda c: by_header_async(c)])
async def test_identify_says_who_it_is(identify: Any) -> None:
    """Sync, async, a callable object, with a mapping for an answer."""
    assert await ask(app_with(ours(identify)), **{"x-user": "u"}) == {"user": "u", "session": "s", "reason": None}


async def test_nobody_is_nobody() -> None:
    """None means an anonymous request: no ids, and no trace of the one before."""
    app = app_with(ours(by_header))
    assert (await ask(app, **{"x-user": "u"}))["user"] == "u"
    assert await ask(app) == {"user": None, "session": None, "reason": None}


async def test_headers_count_for_nothing_by_default() -> None:
    """Only where identify reads them."""
    told = await ask(app_with(ours()), **{"x-user": "u", "x-user-id": "u", "x-session-id": "s", "authorization": "u"})
    assert told == {"user": None, "session": None, "reason": None}


def raises(connection: HTTPConnection) -> CallContext:
    raise KeyError("x-user")


async def raises_async(connection: HTTPConnection) -> CallContext:
    raise KeyError("x-user")


@pytest.mark.parametrize(
    "identify",
    [raises, raises_async, lambda c: "u", lambda c: 42, lambda c: {"usre_id": "u"}, lambda c: object(), lambda: None],
)
async def test_an_identify_that_fails_does_not_fail_the_request(identify: Any) -> None:
    """The request goes on without ids, its calls say why, and it is counted."""
    before = diagnostics.counts["identify_failed"]
    told = await ask(app_with(ours(identify)))
    assert told == {"user": None, "session": None, "reason": "identify_failed"}
    assert diagnostics.counts["identify_failed"] == before + 1


async def test_a_row_says_that_identify_failed() -> None:
    """The reason stands in the row, so that `coverage` finds it."""

    async def call(request: Request) -> Response:
        await model.ainvoke("hello")
        return PlainTextResponse("done")

    sink = MemorySink()
    async with CallLog(sink=sink), client(app_with(ours(raises), endpoint=call)) as http:
        assert (await http.get("/")).text == "done"
    (row,) = sink.records
    assert (row.user_id, row.identity_source, row.identity_reason) == (None, "none", "identify_failed")


async def test_odd_ids_are_made_safe() -> None:
    """Control characters and ten kilobytes come from clients; they arrive as something that can be stored and shown."""

    def odd(connection: HTTPConnection) -> CallContext:
        return CallContext(user_id="a\r\nb", session_id="x" * 10_000)

    told = await ask(app_with(ours(odd)))
    assert told["user"].isprintable()
    assert len(told["session"]) <= 256


async def test_every_request_has_a_trace() -> None:
    """A new one for each, unless identify knows better."""
    seen: list[str | None] = []

    async def endpoint(request: Request) -> Response:
        seen.append(current().trace_id)
        return PlainTextResponse("done")

    app = app_with(ours(lambda c: CallContext(trace_id=c.headers.get("x-trace"))), endpoint=endpoint)
    async with client(app) as http:
        for headers in ({}, {}, {"x-trace": "given"}):
            await http.get("/", headers=headers)
    assert seen[2] == "given"
    assert seen[0]
    assert seen[1]
    assert seen[0] != seen[1]


class Backend(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        user = conn.headers.get("x-user")
        return (AuthCredentials(["authenticated"]), SimpleUser(user)) if user else None


AUTHENTICATION = Middleware(AuthenticationMiddleware, backend=Backend())


@pytest.mark.parametrize("middleware", [[AUTHENTICATION, ours()], [ours(), AUTHENTICATION]], ids=["outside", "inside"])
async def test_the_authenticated_user_is_believed(middleware: list[Middleware]) -> None:
    """With starlette's AuthenticationMiddleware outside of ours or inside, without an `identify`."""

    async def call(request: Request) -> Response:
        await model.ainvoke("hello")
        return PlainTextResponse("done")

    sink = MemorySink()
    app = app_with(*middleware, endpoint=call)
    async with CallLog(sink=sink) as call_log, client(app) as http:
        for headers in ({"x-user": "u"}, {}, {"x-user": "v"}):
            assert (await http.get("/", headers=headers)).text == "done"
            await call_log.aflush()
    assert [row.user_id for row in sink.records] == ["u", None, "v"]
    assert sink.records[1].identity_reason == "anonymous_request"
    assert sink.records[0].identity_reason == "partial"  # nobody knows the session


async def test_identify_may_read_the_authenticated_user() -> None:
    """The usual one: the user from the authentication, the session from a cookie."""

    def who(connection: HTTPConnection) -> CallContext | None:
        if not connection.user.is_authenticated:
            return None
        return CallContext(user_id=connection.user.username, session_id=connection.cookies.get("sid"))

    told = await ask(app_with(AUTHENTICATION, ours(who)), **{"x-user": "u", "cookie": "sid=s-1"})
    assert told == {"user": "u", "session": "s-1", "reason": None}


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (SimpleUser("name"), "name"),
        (type("U", (), {"is_authenticated": True, "identity": "id-1", "username": "name"})(), "id-1"),
        (type("U", (), {"is_authenticated": True, "id": 7})(), "7"),
        (type("U", (), {"is_authenticated": False, "id": 7})(), None),
        (type("U", (), {"id": 7})(), None),
        ("a string", None),
        (None, None),
        (BaseUser(), None),
    ],
)
async def test_users_of_every_kind(user: Any, expected: str | None) -> None:
    """What an authentication leaves in scope["user"] may be anything."""

    async def inside(connection: Connection, receive: Receive, send: Send) -> None:
        await PlainTextResponse(str(current().user_id))(connection, receive, send)

    async def outside(connection: Connection, receive: Receive, send: Send) -> None:
        connection["user"] = user
        await ContextMiddleware(inside)(connection, receive, send)

    async with client(outside) as http:
        assert (await http.get("/")).text == str(expected)


async def test_a_mounted_application_with_a_middleware_of_its_own() -> None:
    """What the inner one knows is laid over what the outer one knows."""
    inner = Starlette(
        routes=[Route("/", tell)], middleware=[ours(lambda c: CallContext(session_id=c.headers.get("x-session")))]
    )
    app = Starlette(routes=[Mount("/in", app=inner), Route("/", tell)], middleware=[ours(by_header)])
    async with client(app) as http:
        told = (await http.get("/in/", headers={"x-user": "u", "x-session": "inner"})).json()
    assert told == {"user": "u", "session": "inner", "reason": None}


async def test_two_middlewares_that_name_different_people_are_not_mixed() -> None:
    """The inner one is believed, and takes no session from somebody else."""
    inner = Starlette(routes=[Route("/", tell)], middleware=[ours(lambda c: CallContext(user_id="other"))])
    app = Starlette(routes=[Mount("/in", app=inner)], middleware=[ours(by_header)])
    async with client(app) as http:
        told = (await http.get("/in/", headers={"x-user": "u"})).json()
    assert told == {"user": "other", "session": None, "reason": None}


scopes: list[Scope] = []


def noted() -> None:
    scope = current_scope()
    assert scope is not None
    assert scope.is_open
    scopes.append(scope)


async def answers(request: Request) -> Response:
    noted()
    return PlainTextResponse("done")


def answers_in_a_thread(request: Request) -> Response:
    noted()
    return PlainTextResponse("done")


async def raises_inside(request: Request) -> Response:
    noted()
    raise ValueError("the application's own")


async def refuses(request: Request) -> Response:
    noted()
    raise HTTPException(404)


async def streams(request: Request) -> Response:
    async def body() -> AsyncIterator[str]:
        noted()
        yield "one"
        noted()
        yield "two"

    return StreamingResponse(body())


async def streams_and_raises(request: Request) -> Response:
    async def body() -> AsyncIterator[str]:
        noted()
        yield "one"
        raise ValueError("in mid-stream")

    return StreamingResponse(body())


async def has_a_background_task(request: Request) -> Response:
    return PlainTextResponse("done", background=BackgroundTask(noted))


async def is_cancelled(request: Request) -> Response:
    noted()
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    "endpoint",
    [answers, answers_in_a_thread, raises_inside, refuses, streams, streams_and_raises, has_a_background_task,
     is_cancelled],
)  # fmt: skip
@pytest.mark.parametrize("around", [(), (Middleware(BaseHTTPMiddleware, dispatch=lambda request, go: go(request)),)])
async def test_the_scope_is_closed_on_every_way_out(endpoint: Any, around: tuple[Middleware, ...]) -> None:
    """Open for everything that belongs to the request, closed when it is over, and nothing stays behind."""
    scopes.clear()
    app = app_with(*around, ours(by_header), *around, endpoint=endpoint)
    async with client(app) as http:
        with suppress(asyncio.CancelledError, ValueError):
            await http.get("/", headers={"x-user": "u"})
    assert scopes
    assert not [scope for scope in scopes if scope.is_open]
    assert {scope.identity.user_id for scope in scopes} == {"u"}
    assert current_scope() is None


async def test_the_applications_exceptions_pass_untouched() -> None:
    """The middleware is not seen in them, nor in the response."""

    async def fails(connection: Connection, receive: Receive, send: Send) -> None:
        raise ValueError("the application's own")

    transport = httpx.ASGITransport(app=ContextMiddleware(fails))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        with pytest.raises(ValueError, match="the application's own"):
            await http.get("/")


async def test_a_client_that_goes_away() -> None:
    """The request's task is cancelled from outside: the scope is closed all the same."""
    scopes.clear()
    begun = asyncio.Event()

    async def waits(request: Request) -> Response:
        noted()
        begun.set()
        await asyncio.Event().wait()
        return PlainTextResponse("never")

    app = app_with(ours(by_header), endpoint=waits)
    async with client(app) as http:
        request = asyncio.create_task(http.get("/", headers={"x-user": "u"}))
        await begun.wait()
        request.cancel()
        await asyncio.wait([request])
    assert [scope.is_open for scope in scopes] == [False]


def test_a_websocket_has_one_scope_for_all_its_turns() -> None:
    """Opened with the connection, closed with it, also when the client just goes."""
    scopes.clear()

    async def chat(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                await socket.receive_text()
                noted()
                await socket.send_text(str(current().user_id))
        except WebSocketDisconnect:
            noted()

    app = Starlette(routes=[WebSocketRoute("/", chat)], middleware=[ours(by_header)])
    with TestClient(app).websocket_connect("/", headers={"x-user": "u"}) as socket:
        for _ in range(3):
            socket.send_text("hello")
            assert socket.receive_text() == "u"
    assert len(scopes) == 4
    assert len({id(scope) for scope in scopes}) == 1
    assert not scopes[0].is_open


def test_lifespan_passes_through() -> None:
    """And anything else that is no request."""
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        assert current_scope() is None
        events.append("up")
        yield
        events.append("down")

    app = ContextMiddleware(Starlette(routes=[Route("/", tell)], lifespan=lifespan), identify=by_header)
    with TestClient(app) as http:
        assert http.get("/", headers={"x-user": "u"}).json()["user"] == "u"
    assert events == ["up", "down"]


async def test_other_kinds_of_connections_pass_through() -> None:
    """What a later ASGI may bring is not ours to touch."""
    seen: list[Connection] = []

    async def app(connection: Connection, receive: Receive, send: Send) -> None:
        seen.append(connection)

    connection: Connection = {"type": "of the future"}

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None:
        return None

    await ContextMiddleware(app, identify=raises)(connection, receive, send)
    assert seen == [{"type": "of the future"}]


async def test_the_servers_own_context_is_not_inherited() -> None:
    """A server started inside of somebody's scope serves others."""
    with bind(user_id="operator", session_id="console"):
        assert (await ask(app_with(ours(by_header)))) == {"user": None, "session": None, "reason": None}


inner: ContextVar[str] = ContextVar("inner", default="not set")


class Pure:
    """Sees what the application has set, for it runs in the application's own context."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, connection: Connection, receive: Receive, send: Send) -> None:
        await self.app(connection, receive, send)
        assert inner.get() == "set"


class Based(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        assert inner.get() == "set"
        return response


@pytest.mark.parametrize(
    "kind",
    [
        Pure,
        pytest.param(
            Based,
            marks=pytest.mark.xfail(
                reason="BaseHTTPMiddleware runs what is inside in another task", raises=AssertionError
            ),
        ),
    ],
)
async def test_context_variables_set_inside_are_seen_outside(kind: Callable[..., ASGIApp]) -> None:
    """Ours between the two makes no difference, on either side."""

    async def endpoint(request: Request) -> Response:
        inner.set("set")
        await asyncio.sleep(0)
        return PlainTextResponse(str(current().user_id))

    app = ContextMiddleware(
        kind(ContextMiddleware(Starlette(routes=[Route("/", endpoint)]), identify=by_header)),  # type: ignore[call-arg]
        identify=by_header,
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        response = await http.get("/", headers={"x-user": "u"})
        assert response.text == "u"


@pytest.mark.parametrize("kind", [Pure, BaseHTTPMiddleware])
async def test_our_scope_is_seen_through_both_kinds(kind: Any) -> None:
    """Inside of it, whatever stands between: endpoint, thread, stream, background task."""
    seen: dict[str, Any] = {}

    def note(place: str) -> None:
        seen[place] = (current().user_id, threading.current_thread() is threading.main_thread())

    async def endpoint(request: Request) -> Response:
        inner.set("set")
        note("endpoint")
        await asyncio.to_thread(note, "thread")

        async def body() -> AsyncIterator[str]:
            note("body")
            yield "done"

        return StreamingResponse(body(), background=BackgroundTask(note, "background"))

    between = Middleware(Pure) if kind is Pure else Middleware(kind, dispatch=lambda request, go: go(request))
    app = app_with(ours(by_header), between, endpoint=endpoint)
    async with client(app) as http:
        await http.get("/", headers={"x-user": "u"})
    assert {place: user for place, (user, _) in seen.items()} == dict.fromkeys(
        ("endpoint", "thread", "body", "background"), "u"
    )


def test_fastapi_takes_it_as_it_takes_others() -> None:
    """`app.add_middleware(ContextMiddleware, identify=…)`."""
    app = FastAPI()
    app.add_middleware(ContextMiddleware, identify=by_header)

    @app.get("/")
    def who() -> str | None:
        return current().user_id

    with TestClient(app) as http:
        assert http.get("/", headers={"x-user": "u"}).json() == "u"
        assert http.get("/").json() is None
