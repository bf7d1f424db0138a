"""Endpoints of HTTP and websocket, and everything that starlette and FastAPI run around them.

An `answer` is what an endpoint does for the user who asks. Each is a shape of its own in a starlette application, and
several of them together in each surrounding: FastAPI, mounted, under somebody else's middleware, behind a real server.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import queue
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import anyio.from_thread
import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.background import BackgroundTasks as Tasks
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from llmctx import bind
from tests.kit.support import Known, ProviderDown, User
from tests.scenarios import enter, shape
from tests.scenarios.world import OURS, USERS, State, World, begun, chain, client, model, on

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

    async def gather(user: User) -> None:
        for _ in range(EVENTS):
            await queues[user.user_id].get()
            await model.ainvoke(world.prompt(user))

    async def body(user: User) -> AsyncIterator[str]:
        for _ in range(EVENTS):
            yield await queues[user.user_id].get()
            await model.ainvoke(world.prompt(user))

    telling = asyncio.create_task(answering(world, tell, rounds=1))
    await answering(world, gather, rounds=1)
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

    def gather(user: User) -> None:
        for _ in range(EVENTS):
            queues[user.user_id].get(timeout=60)
            model.invoke(world.prompt(user))

    def body(user: User) -> Iterator[str]:
        for _ in range(EVENTS):
            yield queues[user.user_id].get(timeout=60)
            model.invoke(world.prompt(user))

    telling = asyncio.create_task(answering(world, tell, rounds=1))
    await answering(world, gather, rounds=1)
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
