"""Identities that become known late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

from langgraph.graph import START, StateGraph
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from llmctx import CallContext, amend
from llmctx.middleware import ContextMiddleware
from tests.kit.support import User
from tests.scenarios import enter, shape
from tests.scenarios.http import asker, turned
from tests.scenarios.identity import NOBODY, application, ask, identified, neighbour, settled
from tests.scenarios.sockets import listening
from tests.scenarios.world import OURS, State, World, client, model, on, talk


@shape
async def amended_after_the_first_call(world: World) -> None:
    """First the session becomes known, then the user; what has become a row before stays as it is."""

    async def run(request: Request) -> None:
        user = by_id[request.query_params["user"]]
        await model.ainvoke(world.prompt(None))
        await world.log.aflush()
        amend(session_id=user.session_id)
        await model.ainvoke(world.prompt(User(None, user.session_id, user.thread_id)))
        await world.log.aflush()
        amend(user_id=user.user_id)
        await model.ainvoke(world.prompt(user))
        await asyncio.to_thread(model.invoke, world.prompt(user))

    by_id = {user.user_id: user for user in world.users}
    async with client(application(run)) as http:
        await world.each(lambda user: ask(http, user=user.user_id))


@shape
async def amended_by_a_thread_and_by_a_child_task(world: World) -> None:
    """Whoever amends changes the scope for everybody in it."""

    async def run(request: Request) -> None:
        user = by_id[request.query_params["user"]]
        await asyncio.to_thread(amend, user_id=user.user_id)

        async def child() -> None:
            amend(session_id=user.session_id)

        await asyncio.create_task(child())
        await model.ainvoke(world.prompt(user))

    by_id = {user.user_id: user for user in world.users}
    async with client(application(run)) as http:
        await world.each(lambda user: ask(http, user=user.user_id))


@shape
async def amended_by_a_node_of_a_graph(world: World) -> None:
    """A graph that is not wrapped has no scopes of its own: its node amends the request's."""

    async def log_in(state: State) -> State:
        user = by_id[state["leave"]]
        amend(user_id=user.user_id, session_id=user.session_id)
        return {}

    async def run(request: Request) -> None:
        user = by_id[request.query_params["user"]]
        await compiled.ainvoke({"leave": user.user_id, "prompt": world.prompt(user)}, on(user))
        await model.ainvoke(world.prompt(user))

    by_id = {user.user_id or "": user for user in world.users}
    builder = StateGraph(State).add_node("log_in", log_in).add_node("talk", talk)
    compiled = builder.add_edge(START, "log_in").add_edge("log_in", "talk").compile()
    async with client(application(run)) as http:
        await world.each(lambda user: ask(http, user=user.user_id))


@shape
async def amended_while_a_stream_is_read(world: World) -> None:
    """A call keeps what was true when it began; the next one is the amended user's."""

    async def run(request: Request) -> Response:
        user = asks(request)
        after = turned(user, "after")

        async def body() -> AsyncIterator[str]:
            async for chunk in model.astream(world.prompt(user)):
                amend(session_id=after.session_id)
                yield str(chunk.content)
            yield str((await model.ainvoke(world.prompt(after))).content)

        return StreamingResponse(body())

    asks = asker(world)
    async with client(application(run)) as http:
        await world.each(lambda user: ask(http, user))


@shape
async def amended_into_another_user(world: World) -> None:
    """A conflict, which each row says from then on; what began before stays its user's."""

    async def endpoint(user: User) -> None:
        other = neighbour(world, user)
        await model.ainvoke(world.prompt(user))
        stream = model.astream(world.prompt(user))
        await anext(stream)
        amend(user_id=other.user_id, session_id=other.session_id)
        assert [chunk async for chunk in stream]
        after.update(prompts := [world.prompt(other), world.prompt(other)])
        await model.ainvoke(prompts[0])
        await asyncio.to_thread(model.invoke, prompts[1])

    after: set[str] = set()
    await world.through(endpoint, rounds=1)
    for row in await settled(world):
        odd = any(prompt in (row.prompt_snapshot or "") for prompt in after)
        assert (row.identity_reason == "conflict") is odd


class Backend(AuthenticationBackend):
    """A session store of starlette's kind, which takes its time."""

    def __init__(self, make: Callable[[str], BaseUser] = SimpleUser) -> None:
        self.make = make

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        await asyncio.sleep(0)
        user_id = conn.headers.get("x-user")
        return (AuthCredentials(["authenticated"]), self.make(user_id)) if user_id else None


class Account(BaseUser):
    """A user that has nothing but a number in a database."""

    is_authenticated = True

    def __init__(self, name: str) -> None:
        self.id = UUID(int=int(name[1:]))


def _without_session(user: User) -> User:
    return User(user.user_id, None, user.thread_id)


UNASKED = Middleware(ContextMiddleware)
STACKS: dict[str, list[Middleware]] = {
    "inside_of_ours": [UNASKED, Middleware(AuthenticationMiddleware, backend=Backend())],
    "around_ours": [Middleware(AuthenticationMiddleware, backend=Backend()), UNASKED],
}

for _name, _stack in STACKS.items():

    async def _authenticated(world: World, stack: list[Middleware] = _stack) -> None:
        """`scope["user"]` says who it is; the session becomes known later, or never."""

        async def endpoint(user: User) -> None:
            partly = _without_session(user)
            await model.ainvoke(world.prompt(partly))
            await asyncio.to_thread(model.invoke, world.prompt(partly))
            await world.graphs[True].ainvoke({"prompt": world.prompt(partly)}, on(user))
            await world.log.aflush()
            amend(session_id=user.session_id)
            await model.ainvoke(world.prompt(user))

        await world.through(endpoint, rounds=1, middleware=tuple(stack))

    enter(f"authentication_middleware_{_name}", _authenticated, family=__name__)


@shape
async def authentication_middleware_with_users_of_its_own(world: World) -> None:
    """A user object that leaves most of starlette's fields undefined."""

    async def endpoint(user: User) -> None:
        account = CallContext(user_id=Account(user.user_id or "").id)  # type: ignore[arg-type]
        await model.ainvoke(world.prompt(User(account.user_id, None, user.thread_id)))

    backend = Middleware(AuthenticationMiddleware, backend=Backend(Account))
    await world.through(endpoint, middleware=(UNASKED, backend))


@shape
async def authentication_middleware_of_a_mounted_application(world: World) -> None:
    """Ours is around it all; in the other mounted application nobody is ever known."""

    async def inside(request: Request) -> Response:
        await model.ainvoke(world.prompt(_without_session(asks(request))))
        return PlainTextResponse("done")

    async def beside(request: Request) -> Response:
        await model.ainvoke(world.prompt(None))
        return PlainTextResponse("done")

    asks = asker(world)
    account = Starlette(
        routes=[Route("/", inside)], middleware=[Middleware(AuthenticationMiddleware, backend=Backend())]
    )
    public = Starlette(routes=[Route("/", beside)])
    app = Starlette(routes=[Mount("/account", app=account), Mount("/public", app=public)], middleware=[UNASKED])
    async with client(app) as http:
        await world.each(lambda user: asyncio.gather(ask(http, user, "/account/"), ask(http, user, "/public/")))


@shape
async def authentication_middleware_and_anonymous_requests(world: World) -> None:
    """Starlette's UnauthenticatedUser is nobody, and headers count for nothing by themselves."""

    async def run(request: Request) -> None:
        user = by_id[request.headers["x-user"]] if request.user.is_authenticated else NOBODY
        await model.ainvoke(world.prompt(_without_session(user)))

    by_id = {user.user_id: user for user in world.users}
    async with client(application(run, *STACKS["inside_of_ours"])) as http:
        await world.each(lambda user: asyncio.gather(ask(http, user), ask(http)))


@shape
async def headers_that_nobody_asked_for(world: World) -> None:
    async def endpoint(user: User) -> None:
        await model.ainvoke(world.prompt(None))

    await world.through(endpoint, middleware=(UNASKED,))


@shape
async def authentication_of_a_websocket(world: World) -> None:
    asks = asker(world)

    async def chat(socket: WebSocket) -> None:
        user = asks(socket)
        await socket.accept()
        await model.ainvoke(world.prompt(_without_session(user)))
        await world.log.aflush()
        for turn in range(2):
            now = turned(user, turn)
            amend(session_id=now.session_id)
            await model.ainvoke(world.prompt(now))
        await socket.send_text("done")

    app = Starlette(routes=[WebSocketRoute("/", chat)], middleware=STACKS["inside_of_ours"])
    async with listening(app) as base:

        async def converse(user: User) -> None:
            async with connect(base, additional_headers=user.headers, proxy=None) as socket:
                assert await socket.recv() == "done"

        await world.each(converse)


@shape
async def mounted_application_that_knows_somebody_else(world: World) -> None:
    """Behind a gateway's account stands its customer: inside he is believed, outside the gateway."""
    asks = asker(world)

    def customer(connection: HTTPConnection) -> CallContext:
        other = neighbour(world, asks(connection))
        return CallContext(user_id=other.user_id, session_id=other.session_id)

    async def inside(request: Request) -> Response:
        other = neighbour(world, asks(request))
        await model.ainvoke(world.prompt(other))
        await world.graphs[True].ainvoke({"prompt": world.prompt(other)}, on(other))
        return PlainTextResponse("done")

    class Around:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await model.ainvoke(world.prompt(asks(HTTPConnection(scope))))
            await self.app(scope, receive, send)
            await model.ainvoke(world.prompt(asks(HTTPConnection(scope))))

    mounted = Starlette(routes=[Route("/", inside)], middleware=[identified(customer)])
    app = Starlette(routes=[Mount("/mounted", app=mounted)], middleware=[OURS, Middleware(Around)])
    async with client(app) as http:
        await world.each(lambda user: ask(http, user, "/mounted/"))
