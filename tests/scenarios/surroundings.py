"""What stands around the endpoints: mounted applications, other people's middleware, real servers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from llmctx import amend, bind
from tests.kit.support import PlainTalker, User
from tests.kit.uvicorn_server import served
from tests.scenarios import enter, shape
from tests.scenarios.dependencies import amended, asked_for, naming, tokens
from tests.scenarios.events import streamer, told
from tests.scenarios.http import ANSWERS, asker, everybody, fastapi_app, routes, starlette_app, turned, visit
from tests.scenarios.world import OURS, USERS, World, model, on


class Forwarding(BaseHTTPMiddleware):
    """Somebody else's middleware, which runs what is inside of it in another task."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response


PATHS = [f"/{name}" for name in ANSWERS]
SOME = ["/async_endpoint", "/sync_endpoint", "/streaming_body", "/sync_streaming_body", "/several_background_tasks"]


@shape
async def every_answer_in_fastapi(world: World) -> None:
    await everybody(world, fastapi_app(world), PATHS)


@shape
async def mounted_application(world: World) -> None:
    app = Starlette(routes=[Mount("/mounted", app=Starlette(routes=routes(world)))], middleware=[OURS])
    await everybody(world, app, [f"/mounted{path}" for path in SOME])


@shape
async def mounted_application_with_a_middleware_of_its_own(world: World) -> None:
    """Ours twice, one inside of the other."""
    app = FastAPI(middleware=[OURS])
    app.mount("/mounted", fastapi_app(world))
    await everybody(world, app, [f"/mounted{path}" for path in SOME])


@shape
async def two_mounted_applications_of_which_each_has_its_own_middleware(world: World) -> None:
    app = Starlette(routes=[Mount("/one", app=starlette_app(world)), Mount("/two", app=fastapi_app(world))])
    await everybody(world, app, ["/one/streaming_body", "/two/several_background_tasks", "/one/sync_endpoint"])


for _name, _stack in {
    "around_a_base_http_middleware": [OURS, Middleware(Forwarding)],
    "inside_of_a_base_http_middleware": [Middleware(Forwarding), OURS],
    "around_two_base_http_middleware": [OURS, Middleware(Forwarding), Middleware(Forwarding)],
    "between_two_base_http_middleware": [Middleware(Forwarding), OURS, Middleware(Forwarding)],
}.items():

    async def _stacked(world: World, stack: list[Middleware] = _stack) -> None:
        await everybody(world, starlette_app(world, *stack), SOME)

    enter(_name, _stacked, family=__name__)


@shape
async def model_calls_in_the_middleware_itself(world: World) -> None:
    """Before and after the endpoint: in the task around it, under the same scope."""
    asks = asker(world)

    class Judging(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            await model.ainvoke(world.prompt(asks(request)))
            response: Response = await call_next(request)
            await model.ainvoke(world.prompt(asks(request)))
            return response

    app = starlette_app(world, OURS, Middleware(Judging))
    await everybody(world, app, ["/async_endpoint", "/streaming_body"])


@shape
async def base_http_middleware_that_amends(world: World) -> None:
    """It authenticates before it calls on; what is amended further in it sees when it comes back."""
    named = naming(world)

    class Authenticating(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            user = amended(named(request))
            response: Response = await call_next(request)
            await model.ainvoke(world.prompt(turned(user, "in")))
            return response

    async def root(request: Request) -> Response:
        user = named(request)
        await model.ainvoke(world.prompt(user))
        amend(session_id=turned(user, "in").session_id)
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", root)], middleware=[OURS, Middleware(Authenticating)])
    await asked_for(world, app, ["/"])


@shape
async def base_http_middleware_that_binds(world: World) -> None:
    """Its block has ended when the body inside runs: the closed scope still says whose it is."""
    asks = asker(world)

    class Binding(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            with bind(session_id=turned(asks(request), "bound").session_id):
                response: Response = await call_next(request)
            await model.ainvoke(world.prompt(asks(request)))
            return response

    async def root(request: Request) -> Response:
        user = turned(asks(request), "bound")
        await model.ainvoke(world.prompt(user))
        return StreamingResponse(
            tokens(world.prompt(user)), background=BackgroundTask(model.invoke, world.prompt(user))
        )

    app = Starlette(routes=[Route("/", root)], middleware=[OURS, Middleware(Binding)])
    await everybody(world, app, ["/", "/"])


@shape
async def real_uvicorn_with_kept_alive_connections(world: World) -> None:
    """Two users share each connection, one after the other."""
    async with served(starlette_app(world)) as base:

        async def pair(one: User, other: User) -> None:
            limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
            async with httpx.AsyncClient(base_url=base, limits=limits, timeout=30) as http:
                for path, user in zip(SOME, itertools.cycle((one, other, one)), strict=False):
                    await visit(http, user, [path])

        await asyncio.gather(*(pair(*world.users[n : n + 2]) for n in range(0, USERS, 2)))


@shape
async def real_uvicorn_with_parallel_connections(world: World) -> None:
    """Each user has several requests open at once."""
    async with served(fastapi_app(world)) as base, httpx.AsyncClient(base_url=base, timeout=30) as http:

        async def at_once(user: User) -> None:
            await asyncio.gather(*(visit(http, user, [path]) for path in SOME))

        await world.each(at_once)


@shape
async def pipelined_requests_on_one_connection(world: World) -> None:
    """The second user's request is on the wire before the first has its answer."""
    async with served(starlette_app(world)) as base:
        host, port = base.removeprefix("http://").split(":")

        async def pair(one: User, other: User) -> None:
            reader, writer = await asyncio.open_connection(host, int(port))
            for user, close in ((one, "keep-alive"), (other, "keep-alive"), (one, "close")):
                headers = "".join(f"{name}: {value}\r\n" for name, value in user.headers.items())
                request = f"GET /background_task HTTP/1.1\r\nhost: test\r\nconnection: {close}\r\n{headers}\r\n"
                writer.write(request.encode())
            assert (await reader.read()).count(b"HTTP/1.1 200") == 3
            writer.close()

        await asyncio.gather(*(pair(*world.users[n : n + 2]) for n in range(0, USERS, 2)))


async def _uploaded(world: World, read: Callable[[Request], Awaitable[None]]) -> None:
    """Two users upload in chunks, one after the other, on each connection."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"a piece"
            await asyncio.sleep(0)

    async def root(request: Request) -> Response:
        await read(request)
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", root, methods=["POST"])], middleware=[OURS])
    async with served(app) as base:

        async def pair(one: User, other: User) -> None:
            async with httpx.AsyncClient(base_url=base, limits=httpx.Limits(max_connections=1), timeout=30) as http:
                for user in (one, other, one):
                    response = await http.post("/", headers=user.headers, content=pieces())
                    assert response.status_code == 200

        await asyncio.gather(*(pair(*world.users[n : n + 2]) for n in range(0, USERS, 2)))


@shape
async def chunked_request_body(world: World) -> None:
    asks = asker(world)

    async def read(request: Request) -> None:
        async for _ in request.stream():
            await model.ainvoke(world.prompt(asks(request)))

    await _uploaded(world, read)


@shape
async def chunked_request_body_that_is_not_read_to_its_end(world: World) -> None:
    asks = asker(world)

    async def read(request: Request) -> None:
        await anext(request.stream())
        await model.ainvoke(world.prompt(asks(request)))

    await _uploaded(world, read)


@shape
async def lifespan_state(world: World) -> None:
    """What the lifespan has made serves everybody; what it asks a model itself is nobody's."""
    asks = asker(world)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        shared = PlainTalker()
        await shared.ainvoke(world.prompt(None))
        yield {"model": shared, "graph": streamer(wrapped=True)}
        shared.invoke(world.prompt(None))

    async def root(request: Request) -> Response:
        user = asks(request)
        await request.state.model.ainvoke(world.prompt(user))
        await request.state.graph.ainvoke(told(world, user), on(user))
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", root)], middleware=[OURS], lifespan=lifespan)
    async with served(app) as base, httpx.AsyncClient(base_url=base, timeout=30) as http:
        await world.each(lambda user: visit(http, user, ["/"]))


class Refusal(Exception):
    """What an endpoint raises for a handler to answer."""


def _failing(world: World, handler: Any, kind: type[Exception], *middleware: Middleware) -> Starlette:
    async def root(request: Request) -> Response:
        await model.ainvoke(world.prompt(asker(world)(request)))
        raise Refusal

    return Starlette(routes=[Route("/", root)], middleware=list(middleware), exception_handlers={kind: handler})


async def _fail(world: World, app: Any) -> None:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        await world.each(lambda user: http.get("/", headers=user.headers))


@shape
async def exception_handler(world: World) -> None:
    async def apologise(request: Request, problem: Exception) -> Response:
        return PlainTextResponse(str(await model.ainvoke(world.prompt(asker(world)(request)))))

    await _fail(world, _failing(world, apologise, Refusal, OURS))


@shape
async def sync_exception_handler(world: World) -> None:
    def apologise(request: Request, problem: Exception) -> Response:
        return PlainTextResponse(str(model.invoke(world.prompt(asker(world)(request)))))

    await _fail(world, _failing(world, apologise, Refusal, OURS))


@shape
async def handler_of_all_exceptions(world: World) -> None:
    """Starlette runs it outside of all middleware, when the scope is closed and left: nobody knows any more."""

    async def apologise(request: Request, problem: Exception) -> Response:
        return PlainTextResponse(str(await model.ainvoke(world.prompt(None))), 500)

    await _fail(world, _failing(world, apologise, Exception, OURS))


@shape
async def handler_of_all_exceptions_inside_of_ours(world: World) -> None:
    """With the middleware around the application itself, that handler is inside as well."""

    async def apologise(request: Request, problem: Exception) -> Response:
        return PlainTextResponse(str(await model.ainvoke(world.prompt(asker(world)(request)))), 500)

    app = _failing(world, apologise, Exception)
    await _fail(world, OURS.cls(app, *OURS.args, **OURS.kwargs))
