"""Endpoints of HTTP and websocket, and everything that starlette and FastAPI run around them.

An `answer` is what an endpoint does for the user who asks. Each is a shape of its own in a starlette application, and
several of them together in each surrounding: FastAPI, mounted, under somebody else's middleware, behind a real server.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import itertools
import queue
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, get_args

import anyio.from_thread
import httpx
import pytest
import uvicorn
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI
from langchain_core._api import LangChainBetaWarning
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import StreamMode, StreamWriter
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.background import BackgroundTasks as Tasks
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import connect

from llmctx import amend, bind
from llmctx.graph import wrap_graph
from tests.serving import served
from tests.shapes import enter, shape
from tests.shapes.world import OURS, USERS, State, World, chain, client, model, on
from tests.support import Known, PlainTalker, ProviderDown, User, hanging, wait_for

Answer = Callable[[World, User], Any]
"""What an endpoint does for the user who asks, sync or async. Returns a Response, or None for a plain one."""

ANSWERS: dict[str, Answer] = {}


def answer(fn: Answer) -> Answer:
    ANSWERS[fn.__name__] = fn
    return fn


async def refused(call: Awaitable[Any]) -> None:
    """Await a call that the provider refuses."""
    with pytest.raises(ProviderDown):
        await call


def sse(steps: AsyncIterator[str] | Iterator[str]) -> Response:
    return StreamingResponse(steps, media_type="text/event-stream")


def turned(user: User, turn: object) -> User:
    """The same user in another session, on another thread."""
    return User(user.user_id, f"{user.session_id}-{turn}", f"{user.thread_id}-{turn}")


# -- answers --------------------------------------------------------------------------------------------------------


@answer
async def async_endpoint(world: World, user: User) -> None:
    await model.ainvoke(world.prompt(user))
    assert [chunk async for chunk in model.astream(world.prompt(user))]
    await refused(model.ainvoke(world.prompt(user, "error")))


@answer
def sync_endpoint(world: World, user: User) -> None:
    model.invoke(world.prompt(user))
    assert list(model.stream(world.prompt(user)))
    model.batch([world.prompt(user), world.prompt(user)])
    with pytest.raises(ProviderDown):
        model.invoke(world.prompt(user, "error"))


@answer
def sync_endpoint_that_runs_async_code(world: World, user: User) -> None:
    """Back in the server's loop, and in a loop of its own."""
    anyio.from_thread.run(model.ainvoke, world.prompt(user))
    asyncio.run(model.ainvoke(world.prompt(user)))


@answer
async def graph_endpoint(world: World, user: User) -> None:
    for compiled in world.graphs.values():
        await compiled.ainvoke({"prompt": world.prompt(user), "prompts": [world.prompt(user)]}, on(user))


@answer
def streaming_body(world: World, user: User) -> Response:
    """The body runs after its endpoint has returned."""

    async def body() -> AsyncIterator[str]:
        async for chunk in model.astream(world.prompt(user)):
            yield f"data: {chunk.content}\n\n"
        await chain.ainvoke({"prompt": world.prompt(user)})
        yield "data: end\n\n"

    return sse(body())


@answer
async def sync_streaming_body(world: World, user: User) -> Response:
    """Each step of the body runs in whatever thread is free."""

    def body() -> Iterator[str]:
        for chunk in model.stream(world.prompt(user)):
            yield f"data: {chunk.content}\n\n"
        model.invoke(world.prompt(user))
        yield "data: end\n\n"

    return sse(body())


@answer
async def streaming_body_that_fails(world: World, user: User) -> Response:
    async def body() -> AsyncIterator[str]:
        try:
            async for chunk in model.astream(world.prompt(user, "error")):
                yield f"data: {chunk.content}\n\n"
        except ProviderDown:
            yield f"event: error\ndata: {(await model.ainvoke(world.prompt(user))).content}\n\n"

    return sse(body())


@answer
async def streaming_body_with_bound_steps(world: World, user: User) -> Response:
    """Each step opens a session of its own, and closes it before it yields."""

    async def body() -> AsyncIterator[str]:
        for turn in range(2):
            now = turned(user, turn)
            with bind(session_id=now.session_id):
                said = await model.ainvoke(world.prompt(now))
            yield str(said.content)
            await model.ainvoke(world.prompt(user))

    return StreamingResponse(body())


@answer
def sync_streaming_body_with_bound_steps(world: World, user: User) -> Response:
    def body() -> Iterator[str]:
        for turn in range(2):
            now = turned(user, turn)
            with bind(session_id=now.session_id):
                said = model.invoke(world.prompt(now))
            yield str(said.content)
            model.invoke(world.prompt(user))

    return StreamingResponse(body())


@answer
async def background_task(world: World, user: User) -> Response:
    await model.ainvoke(world.prompt(user))
    return PlainTextResponse("done", background=BackgroundTask(model.ainvoke, world.prompt(user)))


@answer
def sync_background_task(world: World, user: User) -> Response:
    return PlainTextResponse("done", background=BackgroundTask(model.invoke, world.prompt(user)))


@answer
async def several_background_tasks(world: World, user: User) -> Response:
    tasks = Tasks()
    tasks.add_task(model.ainvoke, world.prompt(user))
    tasks.add_task(model.invoke, world.prompt(user))
    tasks.add_task(refused, model.ainvoke(world.prompt(user, "error")))
    tasks.add_task(world.graphs[True].ainvoke, {"prompt": world.prompt(user), "prompts": []}, on(user))
    return PlainTextResponse("done", background=tasks)


@answer
async def background_task_after_a_streamed_body(world: World, user: User) -> Response:
    async def body() -> AsyncIterator[str]:
        async for chunk in model.astream(world.prompt(user)):
            yield str(chunk.content)

    return StreamingResponse(body(), background=BackgroundTask(model.ainvoke, world.prompt(user)))


# -- routes, applications, visits -----------------------------------------------------------------------------------


def asker(world: World) -> Callable[[HTTPConnection], User]:
    """The user who asks, as the truth knows it."""
    by_id = {user.user_id: user for user in world.users}
    return lambda connection: by_id[connection.headers["x-user"]]


def endpoint(world: World, run: Answer) -> Callable[[Request], Any]:
    """`run` as an endpoint, sync or async as it is."""
    asks = asker(world)
    if inspect.iscoroutinefunction(run):

        async def answer_async(request: Request) -> Response:
            return await run(world, asks(request)) or PlainTextResponse("done")

        return answer_async

    def answer_sync(request: Request) -> Response:
        return run(world, asks(request)) or PlainTextResponse("done")

    return answer_sync


def routes(world: World, answers: dict[str, Answer] = ANSWERS) -> list[Route]:
    return [Route(f"/{name}", endpoint(world, run), methods=["GET", "POST"]) for name, run in answers.items()]


def starlette_app(world: World, *middleware: Middleware, answers: dict[str, Answer] = ANSWERS) -> Starlette:
    return Starlette(routes=routes(world, answers), middleware=list(middleware or [OURS]))


def fastapi_app(world: World, *middleware: Middleware, answers: dict[str, Answer] = ANSWERS) -> FastAPI:
    """The same answers in FastAPI's own routes, of a router that is included."""
    router = APIRouter()
    for name, run in answers.items():
        router.get(f"/{name}", response_model=None)(endpoint(world, run))
    app = FastAPI(middleware=list(middleware or [OURS]))
    app.include_router(router)
    return app


async def visit(http: httpx.AsyncClient, user: User, paths: Sequence[str], **kwargs: Any) -> None:
    for path in paths:
        response = await http.get(path, headers=user.headers, **kwargs)
        assert response.status_code == 200, response.text


async def everybody(world: World, app: Any, paths: Sequence[str], **kwargs: Any) -> None:
    """All users at once visit all paths."""
    async with client(app) as http:
        await world.each(lambda user: visit(http, user, paths, **kwargs))


async def answering(world: World, run: Callable[[User], Any], *, rounds: int = 2) -> None:
    """All users at once ask an application that has this one answer."""
    only: Answer = lambda _, user: run(user)  # noqa: E731
    if inspect.iscoroutinefunction(run):

        async def only(_: World, user: User) -> Any:
            return await run(user)

    await everybody(world, starlette_app(world, answers={"only": only}), ["/only"] * rounds)


for _name in ANSWERS:

    async def _alone(world: World, name: str = _name) -> None:
        await everybody(world, starlette_app(world, answers={name: ANSWERS[name]}), [f"/{name}", f"/{name}"])

    enter(_name, _alone, family=__name__)


@shape
async def fastapi_background_tasks_that_are_injected(world: World) -> None:
    """Added by the endpoint and by a dependency of it."""
    asks = asker(world)
    app = FastAPI(middleware=[OURS])

    def remembering(request: Request, tasks: BackgroundTasks) -> None:
        tasks.add_task(model.invoke, world.prompt(asks(request)))

    @app.get("/", dependencies=[Depends(remembering)])
    async def root(request: Request, tasks: BackgroundTasks) -> str:
        tasks.add_task(model.ainvoke, world.prompt(asks(request)))
        return "done"

    await everybody(world, app, ["/", "/"])


@shape
async def returned_before_its_gather_is_done(world: World) -> None:
    """What the endpoint has spawned is done long after the request, and still its user's."""
    answered = asyncio.Event()

    async def afterwards(prompts: list[str]) -> None:
        await answered.wait()
        await asyncio.gather(*(model.ainvoke(prompt) for prompt in prompts))

    async def run(user: User) -> None:
        world.detach(afterwards([world.prompt(user) for _ in range(3)]))

    await answering(world, run)
    answered.set()


@shape
async def returned_while_its_gather_runs(world: World) -> None:
    """Calls that began in the open request and end after it."""

    async def run(user: User) -> None:
        calls = [world.detach(model.ainvoke(world.prompt(user))) for _ in range(3)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)

    await answering(world, run)


@shape
async def endpoint_that_gives_up_waiting(world: World) -> None:
    all_hang = asyncio.Event()

    async def run(user: User) -> None:
        call = asyncio.create_task(model.ainvoke(world.prompt(user, "cancelled", "[hang]")))
        await all_hang.wait()
        call.cancel()
        await asyncio.wait([call])
        await model.ainvoke(world.prompt(user))

    asking = asyncio.create_task(answering(world, run, rounds=1))
    await begun(USERS)
    all_hang.set()
    await asking


@shape
async def streaming_body_that_breaks_off(world: World) -> None:
    """It has read enough of its model's stream."""

    def run(user: User) -> Response:
        async def body() -> AsyncIterator[str]:
            async with contextlib.aclosing(model.astream(world.prompt(user, "cancelled"))) as words:
                yield str((await anext(words)).content)
            with contextlib.closing(model.stream(world.prompt(user, "cancelled"))) as sync_words:
                yield str(next(sync_words).content)
            yield str((await model.ainvoke(world.prompt(user))).content)

        return sse(body())

    await answering(world, run)


@shape
async def stream_that_one_request_starts_and_another_reads(world: World) -> None:
    """The call is its starter's, and what the reader asks meanwhile is the reader's."""
    streams: dict[str | None, AsyncIterator[Any]] = {}

    async def start(user: User) -> None:
        streams[user.user_id] = model.astream(world.prompt(user))
        await anext(streams[user.user_id])

    async def read(user: User) -> None:
        other = world.users[(world.users.index(user) + 1) % USERS]
        async for _ in streams.pop(other.user_id):
            await model.ainvoke(world.prompt(user))

    await answering(world, start, rounds=1)
    await answering(world, read, rounds=1)


@shape
async def one_task_that_several_requests_await(world: World) -> None:
    """Whoever comes first asks, for both; afterwards each goes on for himself."""
    asked: dict[int, asyncio.Task[Any]] = {}

    async def run(user: User) -> None:
        pair = world.users.index(user) // 2
        if pair not in asked:
            asked[pair] = asyncio.create_task(model.ainvoke(world.prompt(user)))
        await asked[pair]
        await model.ainvoke(world.prompt(user))

    await answering(world, run, rounds=1)


EVENTS = 3


def fed_by_a_task(world: World, user: User, thread: User, known: Known = "always") -> Response:
    """The usual SSE endpoint: a task runs the graph and puts its steps on a queue, which the body reads."""
    prompt = functools.partial(world.prompt, user, known=known)
    steps: asyncio.Queue[str | None] = asyncio.Queue()

    async def run_graphs() -> None:
        for compiled in world.graphs.values():
            state: State = {"prompt": prompt(), "prompts": [prompt()]}
            async for step in compiled.astream(state, on(thread)):
                steps.put_nowait(f"data: {step}\n\n")
        await model.ainvoke(prompt(), on(thread))
        steps.put_nowait(None)

    async def body() -> AsyncIterator[str]:
        running = asyncio.create_task(run_graphs())
        while (step := await steps.get()) is not None:
            yield step
        await running

    return sse(body())


@shape
async def body_that_is_fed_by_a_task(world: World) -> None:
    await answering(world, lambda user: fed_by_a_task(world, user, user))


@shape
async def events_of_others_that_come_by_a_queue(world: World) -> None:
    """A request that reads what another user's request puts is no worker: it stays its own user's."""
    queues: dict[str | None, asyncio.Queue[str]] = {user.user_id: asyncio.Queue() for user in world.users}

    async def tell(user: User) -> None:
        other = world.users[(world.users.index(user) + 1) % USERS]
        for _ in range(2 * EVENTS):
            queues[other.user_id].put_nowait(str((await model.ainvoke(world.prompt(user))).content))

    async def hear(user: User) -> None:
        for _ in range(EVENTS):
            await queues[user.user_id].get()
            await model.ainvoke(world.prompt(user))

    async def body(user: User) -> AsyncIterator[str]:
        for _ in range(EVENTS):
            yield await queues[user.user_id].get()
            await model.ainvoke(world.prompt(user))

    telling = asyncio.create_task(answering(world, tell, rounds=1))
    await answering(world, hear, rounds=1)
    await answering(world, lambda user: sse(body(user)), rounds=1)
    await telling


@shape
async def events_of_others_that_come_by_a_thread_safe_queue(world: World) -> None:
    """The same in synchronous endpoints and bodies."""
    queues: dict[str | None, queue.Queue[str]] = {user.user_id: queue.Queue() for user in world.users}

    async def tell(user: User) -> None:
        other = world.users[(world.users.index(user) + 1) % USERS]
        for _ in range(2 * EVENTS):
            queues[other.user_id].put(str((await model.ainvoke(world.prompt(user))).content))

    def hear(user: User) -> None:
        for _ in range(EVENTS):
            queues[user.user_id].get(timeout=20)
            model.invoke(world.prompt(user))

    def body(user: User) -> Iterator[str]:
        for _ in range(EVENTS):
            yield queues[user.user_id].get(timeout=20)
            model.invoke(world.prompt(user))

    telling = asyncio.create_task(answering(world, tell, rounds=1))
    await answering(world, hear, rounds=1)
    await answering(world, lambda user: sse(body(user)), rounds=1)
    await telling


@shape
async def in_process_call_of_another_service(world: World) -> None:
    """A service account asks an application with a middleware of its own, from inside of the user's request."""
    asks = asker(world)
    service = User("service", "s-service", "t-service")

    async def inner(request: Request) -> Response:
        await model.ainvoke(world.prompt(service))
        await world.graphs[True].ainvoke({"prompt": world.prompt(service)}, on(service))
        return PlainTextResponse("done", background=BackgroundTask(model.ainvoke, world.prompt(service)))

    async with client(Starlette(routes=[Route("/", inner)], middleware=[OURS])) as http:

        async def outer(request: Request) -> Response:
            await http.get("/", headers=service.headers)
            await model.ainvoke(world.prompt(asks(request)))
            return PlainTextResponse("done")

        await everybody(world, Starlette(routes=[Route("/", outer)], middleware=[OURS]), ["/", "/"])


@shape
async def streaming_body_that_holds_bind_across_its_yields(world: World) -> None:
    """Not as it should be, but one task reads it from end to end, so nothing is lost."""

    def run(user: User) -> Response:
        now = turned(user, "bound")

        async def body() -> AsyncIterator[str]:
            with bind(session_id=now.session_id):
                async for chunk in model.astream(world.prompt(now)):
                    yield str(chunk.content)
                await model.ainvoke(world.prompt(now))
            await model.ainvoke(world.prompt(user))
            yield "end"

        return StreamingResponse(body())

    await answering(world, run)


# -- surroundings ---------------------------------------------------------------------------------------------------


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
    named = _named(world)

    class Authenticating(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            user = _amend(named(request))
            response: Response = await call_next(request)
            await model.ainvoke(world.prompt(turned(user, "in")))
            return response

    async def root(request: Request) -> Response:
        user = named(request)
        await model.ainvoke(world.prompt(user))
        amend(session_id=turned(user, "in").session_id)
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", root)], middleware=[OURS, Middleware(Authenticating)])
    await _asked_for(world, app, ["/"])


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
            _tokens(world.prompt(user)), background=BackgroundTask(model.invoke, world.prompt(user))
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


# -- server-sent events over a graph --------------------------------------------------------------------------------


async def tell(state: State, writer: StreamWriter) -> State:
    """A node that streams from its model, and into the graph's custom stream."""
    async for chunk in model.astream(state["prompts"][0]):
        writer(chunk.content)
    return {}


def tell_sync(state: State, writer: StreamWriter) -> State:
    for chunk in model.stream(state["prompts"][0]):
        writer(chunk.content)
    return {}


async def last(state: State) -> State:
    await chain.ainvoke({"prompt": state["prompts"][1]})
    return {}


def last_sync(state: State) -> State:
    chain.invoke({"prompt": state["prompts"][1]})
    return {}


def streamer(*, wrapped: bool, sync: bool = False) -> Any:
    """tell -> inner, which is a graph of its own; with a checkpointer."""
    inner = StateGraph(State).add_node("last", last_sync if sync else last).add_edge(START, "last")
    builder = StateGraph(State)
    builder.add_node("tell", tell_sync if sync else tell)
    builder.add_node("inner", inner.compile())
    builder.add_edge(START, "tell")
    builder.add_edge("tell", "inner")
    return (wrap_graph(builder) if wrapped else builder).compile(checkpointer=InMemorySaver())


def told(world: World, user: User, status: str = "ok") -> State:
    """The input of `streamer`; its last call may be refused."""
    return {"prompts": [world.prompt(user), world.prompt(user, status)]}


def streamers(world: World, *, sync: bool = False) -> Callable[[User], Any]:
    """Every other user has a graph that is wrapped."""
    graphs = [streamer(wrapped=True, sync=sync), streamer(wrapped=False, sync=sync)]
    return lambda user: graphs[world.users.index(user) % 2]


async def streamed(world: World, events: Callable[[Any, State, User], AsyncIterator[Any]]) -> None:
    """Server-sent events that `events` makes of a graph, once to its end and once until it fails."""
    graph_of = streamers(world)

    async def body(user: User) -> AsyncIterator[str]:
        async for _ in events(graph_of(user), told(world, user), user):
            yield "data: step\n\n"
        with pytest.raises(ProviderDown):
            async for _ in events(graph_of(user), told(world, user, "error"), user):
                yield "data: step\n\n"

    await answering(world, lambda user: sse(body(user)), rounds=1)


MODES: dict[str, Any] = {**{mode: mode for mode in get_args(StreamMode)}, "several": ["updates", "messages", "custom"]}

for _name, _mode in MODES.items():

    async def _by_mode(world: World, mode: Any = _mode) -> None:
        await streamed(world, lambda graph, state, user: graph.astream(state, on(user), stream_mode=mode))

    async def _by_mode_sync(world: World, mode: Any = _mode) -> None:
        """The graph is driven by a synchronous body, each step of it in another thread."""
        graph_of = streamers(world, sync=True)

        def body(user: User) -> Iterator[str]:
            for _ in graph_of(user).stream(told(world, user), on(user), stream_mode=mode):
                yield "data: step\n\n"
            with pytest.raises(ProviderDown):
                list(graph_of(user).stream(told(world, user, "error"), on(user), stream_mode=mode))

        await answering(world, lambda user: sse(body(user)), rounds=1)

    enter(f"stream_mode_{_name}", _by_mode, family=__name__)
    if _name in ("updates", "messages", "several"):
        enter(f"sync_stream_mode_{_name}", _by_mode_sync, family=__name__)


@shape
async def stream_with_subgraphs(world: World) -> None:
    modes = ["updates", "messages"]
    await streamed(world, lambda graph, state, user: graph.astream(state, on(user), stream_mode=modes, subgraphs=True))


@shape
async def astream_events_v2_of_a_graph(world: World) -> None:
    await streamed(world, lambda graph, state, user: graph.astream_events(state, on(user), version="v2"))


@shape
async def astream_events_v2_of_a_model_and_a_chain(world: World) -> None:
    async def run(user: User) -> None:
        assert [event async for event in model.astream_events(world.prompt(user), version="v2")]
        assert [event async for event in chain.astream_events({"prompt": world.prompt(user)}, version="v2")]
        with pytest.raises(ProviderDown):
            assert [event async for event in model.astream_events(world.prompt(user, "error"), version="v2")]

    await answering(world, run)


@contextlib.contextmanager
def beta() -> Iterator[None]:
    """LangChain warns of its third version of events; around a whole shape, for warnings belong to the process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainBetaWarning)
        yield


@shape
async def astream_events_v3_of_a_graph(world: World) -> None:
    async def events(graph: Any, state: State, user: User) -> AsyncIterator[Any]:
        async for event in await graph.astream_events(state, on(user), version="v3"):
            yield event

    with beta():
        await streamed(world, events)


@shape
async def astream_events_v3_of_a_graph_by_message(world: World) -> None:
    """The run is driven by whoever reads a message of it, in tasks of their own."""

    async def events(graph: Any, state: State, user: User) -> AsyncIterator[Any]:
        run = await graph.astream_events(state, on(user), version="v3")

        async def steps() -> None:
            async for _ in run.values:
                pass

        stepping = asyncio.create_task(steps())
        try:
            async for message in run.messages:
                async for text in message.text:
                    yield text
        finally:
            await stepping

    with beta():
        await streamed(world, events)


@shape
async def astream_events_v3_of_a_model(world: World) -> None:
    async def run(user: User) -> None:
        assert [event async for event in await model.astream_events(world.prompt(user), version="v3")]
        with pytest.raises(ProviderDown):
            assert [event async for event in await model.astream_events(world.prompt(user, "error"), version="v3")]

    with beta():
        await answering(world, run)


@shape
async def stream_events_v3_sync(world: World) -> None:
    """A model's and a graph's, in a synchronous body."""
    compiled = streamer(wrapped=True, sync=True)

    def body(user: User) -> Iterator[str]:
        for _ in model.stream_events(world.prompt(user), version="v3"):
            yield "data: event\n\n"
        for _ in compiled.stream_events(told(world, user), on(user), version="v3"):
            yield "data: event\n\n"

    with beta():
        await answering(world, lambda user: StreamingResponse(body(user)))


# -- dependencies ---------------------------------------------------------------------------------------------------


def _named(world: World) -> Callable[[HTTPConnection], User]:
    """The user whom the query names. The request itself is anonymous until a dependency says otherwise."""
    by_id = {user.user_id: user for user in world.users}
    return lambda connection: by_id[connection.query_params["user"]]


def _amend(user: User) -> User:
    amend(user_id=user.user_id, session_id=user.session_id)
    return user


def _amending(world: World) -> dict[str, Callable[[HTTPConnection], Any]]:
    """Dependencies that find out who it is: in the request's task, in a thread, before a yield."""
    named = _named(world)

    async def amends(connection: HTTPConnection) -> User:
        await asyncio.sleep(0)
        return _amend(named(connection))

    def amends_sync(connection: HTTPConnection) -> User:
        return _amend(named(connection))

    async def amends_and_yields(connection: HTTPConnection) -> AsyncIterator[User]:
        user = _amend(named(connection))
        yield user
        await model.ainvoke(world.prompt(user))

    def amends_and_yields_sync(connection: HTTPConnection) -> Iterator[User]:
        user = _amend(named(connection))
        yield user
        model.invoke(world.prompt(user))

    async def binds(connection: HTTPConnection) -> AsyncIterator[User]:
        user = named(connection)
        with bind(user_id=user.user_id, session_id=user.session_id):
            yield user
            await model.ainvoke(world.prompt(user))

    return {run.__name__: run for run in (amends, amends_sync, amends_and_yields, amends_and_yields_sync, binds)}


def _depending(world: World, find: Callable[[HTTPConnection], Any]) -> FastAPI:
    """Endpoints that depend on `find`."""
    app = FastAPI(middleware=[OURS])

    @app.get("/async")
    async def run(user: User = Depends(find)) -> str:
        await model.ainvoke(world.prompt(user))
        await asyncio.to_thread(model.invoke, world.prompt(user))
        return "done"

    @app.get("/sync")
    def run_sync(user: User = Depends(find)) -> str:
        model.invoke(world.prompt(user))
        return "done"

    @app.get("/stream")
    async def stream(tasks: BackgroundTasks, user: User = Depends(find)) -> StreamingResponse:
        tasks.add_task(model.ainvoke, world.prompt(user))
        return StreamingResponse(_tokens(world.prompt(user)))

    return app


async def _tokens(prompt: str) -> AsyncIterator[str]:
    async for chunk in model.astream(prompt):
        yield str(chunk.content)


async def _asked_for(world: World, app: Any, paths: Sequence[str] = ("/async", "/sync", "/stream")) -> None:
    """All users at once, without a header: only the query names them."""
    async with client(app) as http:

        async def ask(user: User) -> None:
            for path in paths:
                response = await http.get(path, params={"user": user.user_id or ""})
                assert response.status_code == 200, response.text

        await world.each(ask)


for _name in ("amends", "amends_sync", "amends_and_yields", "amends_and_yields_sync", "binds"):

    async def _dependency(world: World, name: str = _name) -> None:
        await _asked_for(world, _depending(world, _amending(world)[name]))

    enter(f"dependency_that_{_name}", _dependency, family=__name__)


@shape
async def dependency_of_a_dependency(world: World) -> None:
    """The inner one amends in a thread, the outer one asks a model, in a router's dependency."""
    amends_sync = _amending(world)["amends_sync"]

    async def moderated(user: User = Depends(amends_sync)) -> User:
        await model.ainvoke(world.prompt(user))
        return user

    router = APIRouter(dependencies=[Depends(moderated)])
    router.include_router(_depending(world, moderated).router)
    app = FastAPI(middleware=[OURS])
    app.include_router(router)
    await _asked_for(world, app)


@shape
async def sync_dependency_with_yield_that_binds(world: World) -> None:
    """It runs in another thread, so that its endpoint never sees what it has bound: nobody's, rather than wrong."""
    named = _named(world)

    def binds_in_a_thread(request: Request) -> Iterator[None]:
        user = named(request)
        with bind(user_id=user.user_id, session_id=user.session_id):
            model.invoke(world.prompt(user))
            yield

    app = FastAPI(middleware=[OURS])

    @app.get("/", dependencies=[Depends(binds_in_a_thread)])
    async def root() -> str:
        await model.ainvoke(world.prompt(None))
        return "done"

    await _asked_for(world, app, ["/", "/"])


@shape
async def dependencies_that_run_side_by_side_with_the_model(world: World) -> None:
    """A task that the endpoint's dependency has started, before and after it knew the user."""
    named = _named(world)

    async def started(request: Request) -> tuple[User, asyncio.Event, asyncio.Task[Any]]:
        user, known = named(request), asyncio.Event()

        async def look_up() -> None:
            await known.wait()
            await model.ainvoke(world.prompt(user))

        task = asyncio.create_task(look_up())
        return _amend(user), known, task

    app = FastAPI(middleware=[OURS])

    @app.get("/")
    async def root(found: Any = Depends(started)) -> str:
        user, known, task = found
        known.set()
        await model.ainvoke(world.prompt(user))
        await task
        return "done"

    await _asked_for(world, app, ["/", "/"])


# -- websockets -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    """`app` behind a uvicorn that speaks websocket, in this loop."""
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off", ws="websockets-sansio")
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]  # pytest's are to stay
    serving = asyncio.create_task(server.serve())
    await wait_for(lambda: server.started or serving.done(), "uvicorn to start")
    try:
        yield f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def conversing(world: World, chat: Callable[[WebSocket, User], Awaitable[None]], turns: int = 3) -> None:
    """All users at once, each on a connection of his own, say something in each turn and wait for an answer."""
    asks = asker(world)

    async def accept(socket: WebSocket) -> None:
        await socket.accept()
        await chat(socket, asks(socket))

    app = Starlette(routes=[WebSocketRoute("/", accept)], middleware=[OURS])
    async with listening(app) as base:

        async def converse(user: User) -> None:
            async with connect(base, additional_headers=user.headers, proxy=None) as socket:
                for turn in range(turns):
                    await socket.send(str(turn))
                    assert await socket.recv() == "done"

        await world.each(converse)


@shape
async def websocket_with_many_turns(world: World) -> None:
    async def chat(socket: WebSocket, user: User) -> None:
        async for _ in socket.iter_text():
            await model.ainvoke(world.prompt(user))
            await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))
            await asyncio.to_thread(model.invoke, world.prompt(user))
            await refused(model.ainvoke(world.prompt(user, "error")))
            await socket.send_text("done")

    await conversing(world, chat, turns=4)


@shape
async def websocket_that_binds_a_session_per_turn(world: World) -> None:
    """On one LangGraph thread all along."""

    async def chat(socket: WebSocket, user: User) -> None:
        async for turn in socket.iter_text():
            now = turned(user, turn)
            with bind(session_id=now.session_id):
                await model.ainvoke(world.prompt(now))
                compiled = world.graphs[turn != "1"]
                await compiled.ainvoke({"prompt": world.prompt(now), "prompts": [world.prompt(now)]}, on(user))
            await model.ainvoke(world.prompt(user))
            await socket.send_text("done")

    await conversing(world, chat)


@shape
async def websocket_that_amends_its_session_in_mid_connection(world: World) -> None:
    async def chat(socket: WebSocket, user: User) -> None:
        async for turn in socket.iter_text():
            user = turned(user, turn)
            amend(session_id=user.session_id)
            await model.ainvoke(world.prompt(user))
            await world.graphs[True].ainvoke({"prompt": world.prompt(user), "prompts": [world.prompt(user)]}, on(user))
            await socket.send_text("done")

    await conversing(world, chat)


@shape
async def websocket_with_a_task_per_turn(world: World) -> None:
    """Turns overlap: each task binds its own session, while the connection goes on reading."""

    async def chat(socket: WebSocket, user: User) -> None:
        async def turn(now: User) -> None:
            with bind(session_id=now.session_id):
                await model.ainvoke(world.prompt(now))
                async for chunk in world.graphs[True].astream({"prompt": world.prompt(now)}, on(now)):
                    assert chunk
            await socket.send_text("done")

        async with asyncio.TaskGroup() as group:
            async for text in socket.iter_text():
                group.create_task(turn(turned(user, text)))
                await model.ainvoke(world.prompt(user))

    await conversing(world, chat)


@shape
async def websocket_whose_client_hangs_up(world: World) -> None:
    """Whoever listens for it cancels the call; whoever does not lets it go on."""
    asks = asker(world)
    gone_on = Patient()

    async def cut_off(socket: WebSocket) -> None:
        await socket.accept()
        call = asyncio.create_task(model.ainvoke(world.prompt(asks(socket), "cancelled", "[hang]")))
        with contextlib.suppress(WebSocketDisconnect):
            await socket.receive_text()
        call.cancel()
        await asyncio.wait([call])
        await model.ainvoke(world.prompt(asks(socket)))

    async def let_go_on(socket: WebSocket) -> None:
        await socket.accept()
        await gone_on.ainvoke(world.prompt(asks(socket)))

    app = Starlette(routes=[WebSocketRoute(f"/{run.__name__}", run) for run in (cut_off, let_go_on)], middleware=[OURS])
    async with listening(app) as base:
        for path in ("cut_off", "let_go_on"):
            together = asyncio.Barrier(USERS + 1)

            async def converse(user: User, path: str = path, together: asyncio.Barrier = together) -> None:
                async with connect(f"{base}/{path}", additional_headers=user.headers, proxy=None):
                    await together.wait()

            conversing = asyncio.create_task(world.each(converse))
            await begun(USERS)
            await together.wait()
            await conversing
        gone_on.released.set()
        await ended(world)


@shape
async def websockets_of_a_test_client(world: World) -> None:
    """Each in a thread and a loop of its own; the session changes in mid-connection."""
    asks = asker(world)

    async def chat(socket: WebSocket) -> None:
        user = asks(socket)
        await socket.accept()
        for turn in range(3):
            await socket.receive_text()
            await model.ainvoke(world.prompt(user))
            await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))
            await socket.send_text("done")
            if turn == 1:
                user = turned(user, "next")
                amend(session_id=user.session_id)
        await socket.close()

    app = Starlette(routes=[WebSocketRoute("/", chat)], middleware=[OURS])

    def converse(user: User) -> None:
        with TestClient(app) as http, http.websocket_connect("/", headers=user.headers) as socket:
            for _ in range(3):
                socket.send_text("hello")
                socket.receive_text()

    await world.each(lambda user: asyncio.to_thread(converse, user))


@shape
async def websocket_that_learns_its_user_from_the_first_message(world: World) -> None:
    """In FastAPI, with a token that comes as a message, or in a dependency."""
    by_id = {user.user_id: user for user in world.users}
    named = _named(world)
    app = FastAPI(middleware=[OURS])

    @app.websocket("/message")
    async def by_message(socket: WebSocket) -> None:
        await socket.accept()
        user = _amend(by_id[await socket.receive_text()])
        await model.ainvoke(world.prompt(user))
        await socket.send_text("done")

    def authenticated(socket: WebSocket) -> User:
        return _amend(named(socket))

    @app.websocket("/dependency")
    async def by_dependency(socket: WebSocket, user: User = Depends(authenticated)) -> None:
        await socket.accept()
        await model.ainvoke(world.prompt(user))
        await socket.send_text("done")

    async with listening(app) as base:

        async def converse(user: User) -> None:
            async with connect(f"{base}/message", proxy=None) as socket:
                await socket.send(user.user_id or "")
                assert await socket.recv() == "done"
            async with connect(f"{base}/dependency?user={user.user_id}", proxy=None) as socket:
                assert await socket.recv() == "done"

        await world.each(converse)


# -- clients that hang up -------------------------------------------------------------------------------------------


class Patient(PlainTalker):
    """Answers when it is released, however long its client has been gone."""

    released: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        hanging.release()
        while not self.released.is_set():
            await asyncio.sleep(0.002)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("at last"))])

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        hanging.release()
        self.released.wait(20)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("at last"))])


async def begun(count: int) -> None:
    """Wait until so many calls hang."""
    for _ in range(count):
        assert await asyncio.to_thread(hanging.acquire, timeout=20)


async def ended(world: World) -> None:
    await wait_for(lambda: world.log.stats().open == 0, "every call to end")


async def hanging_up(world: World, run: Answer, patient: Patient | None = None, *middleware: Middleware) -> None:
    """Everybody asks, waits until all calls hang, and goes away."""
    app = starlette_app(world, *middleware, answers={"run": run})
    async with served(app) as base, httpx.AsyncClient(base_url=base, timeout=30) as http:

        async def ask(user: User) -> None:
            async with http.stream("GET", "/run", headers=user.headers) as response:
                async for _ in response.aiter_raw():
                    pass

        asking = [asyncio.create_task(ask(user)) for user in world.users]
        await begun(USERS)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        if patient is not None:
            patient.released.set()
        await ended(world)


@shape
async def client_hangs_up_on_a_plain_endpoint(world: World) -> None:
    """Nobody cancels an endpoint: its call goes on, and so does the endpoint."""
    patient = Patient()

    async def run(world: World, user: User) -> None:
        await patient.ainvoke(world.prompt(user))
        await model.ainvoke(world.prompt(user))

    await hanging_up(world, run, patient)


@shape
async def client_hangs_up_on_a_sync_endpoint(world: World) -> None:
    patient = Patient()

    def run(world: World, user: User) -> None:
        patient.invoke(world.prompt(user))
        model.invoke(world.prompt(user))

    await hanging_up(world, run, patient)


@shape
async def client_hangs_up_on_a_streamed_model(world: World) -> None:
    def run(world: World, user: User) -> Response:
        return sse(_tokens(world.prompt(user, "cancelled", "[hang]")))

    await hanging_up(world, run)


@shape
async def client_hangs_up_while_the_body_awaits_a_model(world: World) -> None:
    def run(world: World, user: User) -> Response:
        async def body() -> AsyncIterator[str]:
            yield "data: hello\n\n"
            await model.ainvoke(world.prompt(user, "cancelled", "[hang]"))
            yield "data: never\n\n"

        return sse(body())

    await hanging_up(world, run)


@shape
async def client_hangs_up_on_a_sync_body(world: World) -> None:
    """A thread cannot be cancelled: the call ends as it ends."""
    patient = Patient()

    def run(world: World, user: User) -> Response:
        def body() -> Iterator[str]:
            yield "data: hello\n\n"
            yield str(patient.invoke(world.prompt(user)).content)

        return sse(body())

    await hanging_up(world, run, patient)


@shape
async def client_hangs_up_and_somebody_tidies_up(world: World) -> None:
    """What the body's `finally` and the background task ask a model is their user's too."""

    def run(world: World, user: User) -> Response:
        async def body() -> AsyncIterator[str]:
            try:
                yield "data: hello\n\n"
                await model.ainvoke(world.prompt(user, "cancelled", "[hang]"))
            finally:
                model.invoke(world.prompt(user))

        return StreamingResponse(body(), background=BackgroundTask(model.ainvoke, world.prompt(user)))

    await hanging_up(world, run)


def asking(asked: BaseChatModel, *, wrapped: bool) -> Any:
    """A graph of one node that asks this model."""

    async def node(state: State) -> State:
        await asked.ainvoke(state["prompt"])
        return {}

    builder = StateGraph(State).add_node("node", node).add_edge(START, "node")
    return (wrap_graph(builder) if wrapped else builder).compile()


for _mode in ("updates", "values", "messages", "custom"):

    async def _hung_up(world: World, mode: Any = _mode) -> None:
        """LangGraph cancels its node, but not while it streams messages or what nodes tell: then the call goes on."""
        patient = Patient() if mode in ("messages", "custom") else None
        graphs = [asking(patient or PlainTalker(), wrapped=wrapped) for wrapped in (True, False)]

        def run(world: World, user: User) -> Response:
            prompt = world.prompt(user, "ok" if patient else "cancelled", "[hang]")
            compiled = graphs[world.users.index(user) % 2]
            return sse(f"data: {step}\n\n" async for step in compiled.astream({"prompt": prompt}, stream_mode=mode))

        await hanging_up(world, run, patient)

    enter(f"client_hangs_up_on_a_graph_that_streams_{_mode}", _hung_up, family=__name__)


@shape
async def client_hangs_up_under_base_http_middleware(world: World) -> None:
    """Whose tasks are cancelled in a group of their own."""

    def run(world: World, user: User) -> Response:
        return sse(_tokens(world.prompt(user, "cancelled", "[hang]")))

    await hanging_up(world, run, None, OURS, Middleware(Forwarding))
