"""However a call leaves its request, its row carries the request's ids, and never somebody else's.

One table of ways out. Each is driven by twenty users at once whose waits interleave; each prompt carries its owner,
and every row is held against it. Where nobody could know, the row has no ids, and a reason.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypedDict, TypeVar
from uuid import uuid4

import httpx
import pytest
from fastapi import Depends, FastAPI
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from sqlalchemy import create_engine, text
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from llmctx import CallContext, amend, bind, carry
from llmctx.calllog import CallLog
from llmctx.graph import wrap_graph
from llmctx.middleware import ContextMiddleware
from llmctx.testing import MemorySink
from tests.serving import served
from tests.support import Book, Completer, PlainTalker, ProviderDown, Talker, User, users, wait_for

T = TypeVar("T")
USERS = 20

model = Talker()
chain: Runnable[Any, Any] = ChatPromptTemplate.from_template("{prompt}") | model


class State(TypedDict, total=False):
    prompt: str
    prompts: list[str]
    leave: str


departures: dict[str, Callable[[RunnableConfig], Awaitable[Any]]] = {}
"""What the node `leave` does: a state holds nothing but names, for it is saved."""


def who(connection: HTTPConnection) -> CallContext | None:
    """The fake authentication of these tests: two headers, as if a gateway had checked them."""
    user_id = connection.headers.get("x-user")
    return CallContext(user_id=user_id, session_id=connection.headers["x-session"]) if user_id else None


# -- the world of one test ------------------------------------------------------------------------------------------


class World:
    """Twenty users, a recorder, and the truth."""

    def __init__(self) -> None:
        self.sink = MemorySink()
        self.log = CallLog(sink=self.sink, linger_ms=1)
        self.book = Book()
        self.users = users(USERS)
        self.later: list[asyncio.Task[Any]] = []
        self.executor = ThreadPoolExecutor(8)
        self.graphs = {wrapped: graph(wrapped) for wrapped in (True, False)}

    def prompt(self, user: User | None, status: str = "ok", text: str = "") -> str:
        return self.book.prompt(user, status, text)

    def detach(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that nobody in its request waits for; the test waits for it afterwards."""
        task = asyncio.create_task(coroutine)
        self.later.append(task)
        return task

    async def each(self, do: Callable[[User], Awaitable[Any]]) -> None:
        """All users at once."""
        await asyncio.gather(*(do(user) for user in self.users))

    async def through(
        self,
        endpoint: Callable[[User], Awaitable[Any]],
        *,
        rounds: int = 2,
        middleware: tuple[Middleware, ...] = (Middleware(ContextMiddleware, identify=who),),
    ) -> None:
        """Run `endpoint` in a request of each user, all at once."""
        by_id = {user.user_id: user for user in self.users}

        async def handle(request: Request) -> Response:
            await endpoint(by_id[request.headers["x-user"]])
            return PlainTextResponse("done")

        app = Starlette(routes=[Route("/", handle, methods=["POST"])], middleware=list(middleware))
        async with client(app) as http:
            for _ in range(rounds):
                await self.each(lambda user: http.post("/", headers=user.headers))

    async def complaints(self) -> list[str]:
        await asyncio.gather(*self.later)
        await asyncio.to_thread(self.executor.shutdown)
        assert await self.log.aflush(10) == 0
        assert self.log.stats().open == 0
        assert self.log.stats().balanced
        return self.book.held_against(self.sink.records)


@asynccontextmanager
async def client(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as http:
        yield http


def in_thread(run: Callable[[], T]) -> Awaitable[T]:
    """Run in a bare thread, which inherits nothing."""
    done: Future[T] = Future()

    def target() -> None:
        try:
            done.set_result(run())
        except BaseException as problem:
            done.set_exception(problem)

    threading.Thread(target=target).start()
    return asyncio.wrap_future(done)


async def talk(state: State) -> State:
    """The usual node: awaits a model, and leaves by whatever way its state names."""
    if "prompt" in state:
        await model.ainvoke(state["prompt"])
    return {}


async def leave(state: State, config: RunnableConfig) -> State:
    if "leave" in state:
        await departures.pop(state["leave"])(config)
    return {}


def talk_sync(state: State) -> State:
    for prompt in state.get("prompts", []):
        model.invoke(prompt)
    return {}


def graph(wrapped: bool) -> Any:
    """talk -> leave -> talk_sync, with a checkpointer; one for all users."""
    builder = StateGraph(State)
    for node in (talk, leave, talk_sync):
        builder.add_node(node.__name__, node)  # type: ignore[call-overload]
    builder.add_edge(START, "talk")
    builder.add_edge("talk", "leave")
    builder.add_edge("leave", "talk_sync")
    return (wrap_graph(builder) if wrapped else builder).compile(checkpointer=InMemorySaver())


def leaving(out: Callable[[RunnableConfig], Awaitable[Any]]) -> str:
    """The name under which the node `leave` finds `out`."""
    name = uuid4().hex
    departures[name] = out
    return name


def on(user: User) -> RunnableConfig:
    return {"configurable": {"thread_id": user.thread_id}}


WAYS: dict[str, Callable[[World], Awaitable[None]]] = {}


def way(fn: Callable[[World], Awaitable[None]]) -> Callable[[World], Awaitable[None]]:
    WAYS[fn.__name__] = fn
    return fn


# -- inside of the request ------------------------------------------------------------------------------------------


@way
async def same_task(world: World) -> None:
    async def endpoint(user: User) -> None:
        await model.ainvoke(world.prompt(user))
        model.invoke(world.prompt(user))
        async for _ in model.astream(world.prompt(user)):
            pass
        await chain.ainvoke({"prompt": world.prompt(user)})
        await PlainTalker().ainvoke(world.prompt(user))
        await Completer().ainvoke(world.prompt(user))
        with pytest.raises(ProviderDown):
            await model.ainvoke(world.prompt(user, "error"))
        with pytest.raises(ProviderDown):
            async for _ in model.astream(world.prompt(user, "error")):
                pass

    await world.through(endpoint)


@way
async def child_task(world: World) -> None:
    async def endpoint(user: User) -> None:
        await asyncio.create_task(model.ainvoke(world.prompt(user)))

    await world.through(endpoint)


@way
async def gathered(world: World) -> None:
    async def endpoint(user: User) -> None:
        await asyncio.gather(*(model.ainvoke(world.prompt(user)) for _ in range(3)))
        await model.abatch([world.prompt(user) for _ in range(3)])

    await world.through(endpoint)


@way
async def task_group(world: World) -> None:
    async def endpoint(user: User) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(model.ainvoke(world.prompt(user)))

    await world.through(endpoint)


@way
async def to_thread(world: World) -> None:
    async def endpoint(user: User) -> None:
        await asyncio.to_thread(model.invoke, world.prompt(user))
        await asyncio.to_thread(model.batch, [world.prompt(user), world.prompt(user)])
        await asyncio.to_thread(lambda: list(model.stream(world.prompt(user))))

    await world.through(endpoint)


@way
async def several_sessions_of_one_user_at_once(world: World) -> None:
    async def endpoint(user: User) -> None:
        async def in_session(number: int) -> None:
            twin = User(user.user_id, f"{user.session_id}-{number}", user.thread_id)
            with bind(session_id=twin.session_id):
                await model.ainvoke(world.prompt(twin))
                await asyncio.to_thread(model.invoke, world.prompt(twin))

        await asyncio.gather(*(in_session(number) for number in range(3)))
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint)


@way
async def identity_that_becomes_known_late(world: World) -> None:
    async def handle(request: Request) -> Response:
        user = by_id[request.query_params["user"]]
        anonymous = User(None, None, user.thread_id)
        await model.ainvoke(world.prompt(anonymous))
        await world.log.aflush()  # it has become a row: what is learned from here on comes too late for it
        amend(user_id=user.user_id, session_id=user.session_id)
        await model.ainvoke(world.prompt(user))
        return PlainTextResponse("done")

    by_id = {user.user_id or "": user for user in world.users}
    app = Starlette(routes=[Route("/", handle)], middleware=[Middleware(ContextMiddleware, identify=who)])
    async with client(app) as http:
        await world.each(lambda user: http.get("/", params={"user": user.user_id or ""}))


# -- out of the context ---------------------------------------------------------------------------------------------


def with_config(
    leave_by: Callable[[World, Callable[[], Any]], Awaitable[Any]],
) -> Callable[[World], Awaitable[None]]:
    """From inside a node, config handed on."""

    async def drive(world: World) -> None:
        async def endpoint(user: User) -> None:
            async def out(config: RunnableConfig) -> None:
                prompts = [world.prompt(user) for _ in range(3)]
                bad = world.prompt(user, "error")

                def job() -> None:
                    model.invoke(prompts[0], config)
                    list(model.stream(prompts[1], config))
                    chain.invoke({"prompt": prompts[2]}, config)
                    with pytest.raises(ProviderDown):
                        model.invoke(bad, config)

                await leave_by(world, job)

            for wrapped, compiled in world.graphs.items():
                state: State = {"prompt": world.prompt(user), "leave": leaving(out), "prompts": [world.prompt(user)]}
                await compiled.ainvoke(state, on(user) if wrapped else {"configurable": {"thread_id": f"{user}"}})

        await world.through(endpoint, rounds=1)

    return drive


def with_thread_id(
    leave_by: Callable[[World, Callable[[], Any]], Awaitable[Any]],
) -> Callable[[World], Awaitable[None]]:
    """Nothing but the thread_id is handed on. The request has run a graph on that thread."""

    async def drive(world: World) -> None:
        async def endpoint(user: User) -> None:
            await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))
            prompts = [world.prompt(user) for _ in range(5)]

            def job() -> None:
                model.invoke(prompts[0], on(user))
                list(model.stream(prompts[1], on(user)))
                chain.invoke({"prompt": prompts[2]}, on(user))
                asyncio.run(both())

            async def both() -> None:
                for number, compiled in enumerate(world.graphs.values()):
                    await compiled.ainvoke({"prompt": prompts[3 + number]}, on(user))

            await leave_by(world, job)

        await world.through(endpoint, rounds=1)

    return drive


def with_nothing(
    leave_by: Callable[[World, Callable[[], Any]], Awaitable[Any]],
) -> Callable[[World], Awaitable[None]]:
    """Nothing is handed on: nobody could know."""

    async def drive(world: World) -> None:
        async def endpoint(user: User) -> None:
            await model.ainvoke(world.prompt(user))
            lost = world.prompt(None)
            await leave_by(world, lambda: model.invoke(lost))

        await world.through(endpoint)

    return drive


async def bare_thread(world: World, job: Callable[[], Any]) -> None:
    await in_thread(job)


async def thread_pool(world: World, job: Callable[[], Any]) -> None:
    await asyncio.wrap_future(world.executor.submit(job))


async def run_in_executor(world: World, job: Callable[[], Any]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, job)


async def loop_in_a_thread(world: World, job: Callable[[], Any]) -> None:
    async def run() -> None:
        await asyncio.get_running_loop().run_in_executor(None, job)

    await in_thread(lambda: asyncio.run(run()))


for _leave in (bare_thread, thread_pool, run_in_executor, loop_in_a_thread):
    for _what in (with_config, with_thread_id, with_nothing):
        WAYS[f"{_leave.__name__}_{_what.__name__}"] = _what(_leave)


@way
async def carried_by_hand(world: World) -> None:
    async def endpoint(user: User) -> None:
        prompts = [world.prompt(user) for _ in range(3)]
        await asyncio.wrap_future(world.executor.submit(carry(model.invoke), prompts[0]))
        await in_thread(carry(lambda: model.invoke(prompts[1])))
        await asyncio.get_running_loop().run_in_executor(None, carry(model.invoke), prompts[2])

    await world.through(endpoint)


@asynccontextmanager
async def other_loop() -> AsyncIterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)
        loop.close()


@way
async def another_loop_with_config(world: World) -> None:
    async with other_loop() as loop:

        async def endpoint(user: User) -> None:
            async def out(config: RunnableConfig) -> None:
                there = asyncio.run_coroutine_threadsafe(model.ainvoke(world.prompt(user), config), loop)
                await asyncio.wrap_future(there)

            for compiled in world.graphs.values():
                await compiled.ainvoke({"leave": leaving(out)}, on(user))

        await world.through(endpoint)


@way
async def another_loop_with_thread_id(world: World) -> None:
    async with other_loop() as loop:

        async def endpoint(user: User) -> None:
            await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))
            for work in (
                model.ainvoke(world.prompt(user), on(user)),
                world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user)),
                world.graphs[False].ainvoke({"prompt": world.prompt(user)}, on(user)),
            ):
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))

        await world.through(endpoint)


@way
async def fire_and_forget(world: World) -> None:
    """Tasks that outlive their request."""
    gate = asyncio.Event()

    async def afterwards(user: User, prompts: list[str]) -> None:
        await gate.wait()
        await model.ainvoke(prompts[0])
        await world.graphs[True].ainvoke({"prompt": prompts[1]}, on(user))
        await world.graphs[False].ainvoke({"prompt": prompts[2]}, on(user))

    async def endpoint(user: User) -> None:
        world.detach(afterwards(user, [world.prompt(user) for _ in range(3)]))

    await world.through(endpoint)
    gate.set()


# -- workers --------------------------------------------------------------------------------------------------------


@way
async def worker_task_started_before(world: World) -> None:
    jobs: asyncio.Queue[tuple[User, list[str]]] = asyncio.Queue()
    world.detach(_work(world, jobs))

    async def endpoint(user: User) -> None:
        await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))
        jobs.put_nowait((user, [world.prompt(user) for _ in range(3)]))

    await world.through(endpoint)
    await _dismiss(world, jobs)


@way
async def worker_task_started_in_a_request_that_ends(world: World) -> None:
    await _lazy_worker(world, stays_open=False)


@way
async def worker_task_started_in_a_request_that_stays_open(world: World) -> None:
    await _lazy_worker(world, stays_open=True)


async def _lazy_worker(world: World, *, stays_open: bool) -> None:
    jobs: asyncio.Queue[tuple[User, list[str]]] = asyncio.Queue()
    started: list[User] = []
    others = asyncio.Event()

    async def endpoint(user: User) -> None:
        await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))
        if not started:
            started.append(user)
            world.detach(_work(world, jobs))
        jobs.put_nowait((user, [world.prompt(user) for _ in range(3)]))
        if stays_open and started == [user]:
            await others.wait()

    async def release() -> None:
        await wait_for(lambda: jobs.empty() and len(world.book.truths) == 4 * USERS, "everybody's job")
        await jobs.join()
        others.set()

    releasing = asyncio.create_task(release())
    await world.through(endpoint, rounds=1)
    await releasing
    await _dismiss(world, jobs)


@way
async def worker_task_with_threads_known_before_it_started(world: World) -> None:
    """First everybody's graph, in requests that end. Then a request starts the worker, stays open, and all use it."""
    jobs: asyncio.Queue[tuple[User, list[str]]] = asyncio.Queue()
    others = asyncio.Event()

    async def first(user: User) -> None:
        await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))

    async def second(user: User) -> None:
        if user is world.users[0]:
            world.detach(_work(world, jobs))
            await others.wait()
        else:
            jobs.put_nowait((user, [world.prompt(user) for _ in range(3)]))

    async def release() -> None:
        await wait_for(lambda: len(world.book.truths) == USERS + 3 * (USERS - 1), "everybody's job")
        await jobs.join()
        others.set()

    await world.through(first, rounds=1)
    releasing = asyncio.create_task(release())
    await world.through(second, rounds=1)
    await releasing
    await _dismiss(world, jobs)


@way
async def worker_task_started_in_an_open_request_with_config(world: World) -> None:
    """The config of each job's own request is handed on; no thread_id anywhere."""
    jobs: asyncio.Queue[tuple[str, RunnableConfig] | None] = asyncio.Queue()
    started: list[User] = []
    others = asyncio.Event()

    async def work() -> None:
        while (job := await jobs.get()) is not None:
            await model.ainvoke(*job)
            jobs.task_done()

    async def hand_over(state: State, config: RunnableConfig) -> State:
        jobs.put_nowait((state["prompt"], config))
        return {}

    builder = StateGraph(State)
    builder.add_node("hand_over", hand_over)
    builder.add_edge(START, "hand_over")
    compiled = builder.compile()

    async def endpoint(user: User) -> None:
        if not started:
            started.append(user)
            world.detach(work())
        await compiled.ainvoke({"prompt": world.prompt(user)})
        if started == [user]:
            await others.wait()

    async def release() -> None:
        await wait_for(lambda: len(world.book.truths) == USERS, "everybody's job")
        await jobs.join()
        others.set()

    releasing = asyncio.create_task(release())
    await world.through(endpoint, rounds=1)
    await releasing
    jobs.put_nowait(None)


async def _work(world: World, jobs: asyncio.Queue[tuple[User, list[str]]]) -> None:
    while True:
        user, prompts = await jobs.get()
        if not prompts:
            return
        await model.ainvoke(prompts[0], on(user))
        await world.graphs[True].ainvoke({"prompt": prompts[1]}, on(user))
        await world.graphs[False].ainvoke({"prompt": prompts[2]}, on(user))
        jobs.task_done()


async def _dismiss(world: World, jobs: asyncio.Queue[tuple[User, list[str]]]) -> None:
    jobs.put_nowait((world.users[0], []))


@way
async def worker_thread_fed_by_a_queue(world: World) -> None:
    """Started lazily, inside of the first request: a thread inherits nothing."""
    jobs: queue.Queue[tuple[User, str] | None] = queue.Queue()
    started: list[threading.Thread] = []

    def work() -> None:
        while (job := jobs.get()) is not None:
            model.invoke(job[1], on(job[0]))

    async def endpoint(user: User) -> None:
        await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))
        if not started:
            started.append(threading.Thread(target=work))
            started[0].start()
        jobs.put((user, world.prompt(user)))

    await world.through(endpoint)
    jobs.put(None)
    await asyncio.to_thread(started[0].join)


@way
async def anonymous_work_after_a_named_job_in_the_same_thread(world: World) -> None:
    pool = ThreadPoolExecutor(1)

    async def endpoint(user: User) -> None:
        named, nameless = world.prompt(user), world.prompt(None)
        await asyncio.wrap_future(pool.submit(carry(model.invoke), named))
        await asyncio.wrap_future(pool.submit(model.invoke, nameless))

    await world.through(endpoint)
    pool.shutdown()


# -- HTTP -----------------------------------------------------------------------------------------------------------


def _app(world: World, *middleware: Middleware) -> Starlette:
    """An application with every kind of endpoint."""
    by_id: dict[str | None, User] = {user.user_id: user for user in world.users}

    async def events(user: User) -> AsyncIterator[str]:
        async for chunk in model.astream(world.prompt(user)):
            yield f"data: {chunk.content}\n\n"
        for mode in ("updates", "messages", "values"):
            state: State = {"prompt": world.prompt(user), "prompts": [world.prompt(user)]}
            async for _ in world.graphs[True].astream(state, on(user), stream_mode=mode):
                yield "data: step\n\n"
        async for _ in chain.astream_events({"prompt": world.prompt(user)}, version="v2"):
            yield "data: event\n\n"

    def sync_events(user: User) -> Iterator[str]:
        for chunk in model.stream(world.prompt(user)):
            yield f"data: {chunk.content}\n\n"
        model.invoke(world.prompt(user))
        yield "data: end\n\n"

    async def stream(request: Request) -> Response:
        return StreamingResponse(events(by_id[request.headers["x-user"]]), media_type="text/event-stream")

    async def sync_stream(request: Request) -> Response:
        return StreamingResponse(sync_events(by_id[request.headers["x-user"]]), media_type="text/event-stream")

    async def background(request: Request) -> Response:
        user = by_id[request.headers["x-user"]]
        await model.ainvoke(world.prompt(user))
        return PlainTextResponse("done", background=BackgroundTask(model.ainvoke, world.prompt(user)))

    async def sync_background(request: Request) -> Response:
        user = by_id[request.headers["x-user"]]
        return PlainTextResponse("done", background=BackgroundTask(model.invoke, world.prompt(user)))

    def sync(request: Request) -> Response:
        user = by_id[request.headers["x-user"]]
        model.invoke(world.prompt(user))
        model.batch([world.prompt(user), world.prompt(user)])
        return PlainTextResponse("done")

    async def plain(request: Request) -> Response:
        user = by_id[request.headers["x-user"]]
        await model.ainvoke(world.prompt(user))
        await world.graphs[True].ainvoke({"prompt": world.prompt(user), "prompts": [world.prompt(user)]}, on(user))
        return PlainTextResponse("done")

    endpoints = (stream, sync_stream, background, sync_background, sync, plain)
    routes = [Route(f"/{endpoint.__name__}", endpoint) for endpoint in endpoints]
    return Starlette(routes=[*routes, Mount("/mounted", app=Starlette(routes=routes))], middleware=list(middleware))


PATHS = ("/stream", "/sync_stream", "/background", "/sync_background", "/sync", "/plain")
OURS = Middleware(ContextMiddleware, identify=who)


class Forwarding(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response


async def _everywhere(world: World, app: Any, paths: tuple[str, ...] = PATHS) -> None:
    async with client(app) as http:

        async def visit(user: User) -> None:
            for path in paths:
                response = await http.get(path, headers=user.headers)
                assert response.status_code == 200

        await world.each(visit)


@way
async def every_kind_of_endpoint(world: World) -> None:
    await _everywhere(world, _app(world, OURS))


@way
async def mounted_application(world: World) -> None:
    await _everywhere(world, _app(world, OURS), tuple(f"/mounted{path}" for path in PATHS))


@way
async def under_one_base_http_middleware(world: World) -> None:
    await _everywhere(world, _app(world, OURS, Middleware(Forwarding)))


@way
async def between_two_base_http_middleware(world: World) -> None:
    await _everywhere(world, _app(world, Middleware(Forwarding), OURS, Middleware(Forwarding), Middleware(Forwarding)))


@way
async def real_uvicorn_with_kept_alive_connections(world: World) -> None:
    """Two users share each connection, one after the other."""
    async with served(_app(world, OURS)) as base:

        async def pair(one: User, other: User) -> None:
            limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
            async with httpx.AsyncClient(base_url=base, limits=limits, timeout=30) as http:
                for path in PATHS:
                    for user in (one, other, one):
                        assert (await http.get(path, headers=user.headers)).status_code == 200

        await asyncio.gather(*(pair(*world.users[n : n + 2]) for n in range(0, USERS, 2)))


@way
async def websocket_with_several_turns(world: World) -> None:
    """The session changes in mid-connection."""
    by_id = {user.user_id: user for user in world.users}

    async def chat(socket: WebSocket) -> None:
        user = by_id[socket.headers["x-user"]]
        await socket.accept()
        for turn in range(3):
            await socket.receive_text()
            await model.ainvoke(world.prompt(user))
            await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))
            await socket.send_text("done")
            if turn == 1:
                user = User(user.user_id, f"{user.session_id}-next", f"{user.thread_id}-next")
                amend(session_id=user.session_id)
        await socket.close()

    app = Starlette(routes=[WebSocketRoute("/", chat)], middleware=[OURS])

    def visit(user: User) -> None:
        with TestClient(app) as http, http.websocket_connect("/", headers=user.headers) as socket:
            for _ in range(3):
                socket.send_text("hello")
                socket.receive_text()

    await world.each(lambda user: asyncio.to_thread(visit, user))


@way
async def fastapi_dependencies(world: World) -> None:
    """A synchronous dependency amends; a dependency with yield binds around its endpoint."""
    by_id = {user.user_id: user for user in world.users}

    def authenticated(request: Request) -> User:
        user = by_id[request.query_params["user"]]
        amend(user_id=user.user_id, session_id=user.session_id)
        return user

    async def bound(request: Request) -> AsyncIterator[User]:
        user = by_id[request.query_params["user"]]
        with bind(user_id=user.user_id, session_id=user.session_id):
            yield user

    app = FastAPI(middleware=[OURS])

    @app.get("/amended")
    async def amended(user: User = Depends(authenticated)) -> str:
        await model.ainvoke(world.prompt(user))
        return "done"

    @app.get("/amended_sync")
    def amended_sync(user: User = Depends(authenticated)) -> str:
        model.invoke(world.prompt(user))
        return "done"

    @app.get("/bound")
    async def in_bound(user: User = Depends(bound)) -> str:
        await model.ainvoke(world.prompt(user))
        await asyncio.to_thread(model.invoke, world.prompt(user))
        return "done"

    @app.get("/bound_sync")
    def in_bound_sync(user: User = Depends(bound)) -> str:
        model.invoke(world.prompt(user))
        return "done"

    @app.get("/stream")
    async def stream(user: User = Depends(authenticated)) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            async for chunk in model.astream(world.prompt(user)):
                yield str(chunk.content)

        return StreamingResponse(body())

    async with client(app) as http:

        async def visit(user: User) -> None:
            for path in ("/amended", "/amended_sync", "/bound", "/bound_sync", "/stream"):
                assert (await http.get(path, params={"user": user.user_id or ""})).status_code == 200

        await world.each(visit)


# -- threads that are shared, guessed, taken over --------------------------------------------------------------------


def _shared_thread(world: World) -> Starlette:
    """All requests run on the thread that the client names."""
    by_id: dict[str | None, User] = {user.user_id: user for user in world.users}

    def asked(request: Request) -> tuple[User, RunnableConfig]:
        user = by_id.get(request.headers.get("x-user")) or User(None, None, "")
        return user, {"configurable": {"thread_id": request.query_params["thread"]}}

    async def run(request: Request) -> Response:
        user, config = asked(request)
        for compiled in world.graphs.values():
            await compiled.ainvoke({"prompt": world.prompt(user), "prompts": [world.prompt(user)]}, config)
        await model.ainvoke(world.prompt(user), config)
        await asyncio.gather(*(model.ainvoke(world.prompt(user), config) for _ in range(2)))
        return PlainTextResponse("done")

    def run_sync(request: Request) -> Response:
        user, config = asked(request)
        model.invoke(world.prompt(user), config)
        chain.invoke({"prompt": world.prompt(user)}, config)
        return PlainTextResponse("done")

    async def stream(request: Request) -> Response:
        user, config = asked(request)

        async def body() -> AsyncIterator[str]:
            state: State = {"prompt": world.prompt(user), "prompts": [world.prompt(user)]}
            async for _ in world.graphs[True].astream(state, config, stream_mode="updates"):
                yield "step"

        return StreamingResponse(body())

    routes = [Route(f"/{endpoint.__name__}", endpoint) for endpoint in (run, run_sync, stream)]
    return Starlette(routes=routes, middleware=[OURS])


@way
async def two_users_at_once_on_one_thread(world: World) -> None:
    """Whoever uses the thread first, or meanwhile: each request is its own user's."""
    app = _shared_thread(world)
    async with client(app) as http:
        for path in ("/run", "/run_sync", "/stream"):
            together = asyncio.Barrier(USERS)

            async def visit(user: User, path: str = path, together: asyncio.Barrier = together) -> None:
                await together.wait()
                response = await http.get(path, params={"thread": f"shared{path}"}, headers=user.headers)
                assert response.status_code == 200

            await world.each(visit)


@way
async def a_client_that_sends_somebody_elses_thread_id(world: World) -> None:
    """Named and anonymous, after the victim and while the victim is at it."""
    app = _shared_thread(world)
    anonymous: dict[str, str] = {}
    async with client(app) as http:

        async def visit(user: User) -> None:
            victim = {"thread": user.thread_id}
            attacker = world.users[(world.users.index(user) + 1) % USERS]
            assert (await http.get("/run", params=victim, headers=user.headers)).status_code == 200
            await asyncio.gather(
                *(
                    http.get(path, params=victim, headers=headers)
                    for path in ("/run", "/run_sync", "/stream")
                    for headers in (anonymous, user.headers, attacker.headers)
                )
            )

        await world.each(visit)


@way
async def a_thread_taken_over(world: World) -> None:
    """A support agent goes on with the customer's thread; then it testifies to neither."""
    app = _shared_thread(world)
    async with client(app) as http:

        async def visit(user: User) -> None:
            agent = world.users[(world.users.index(user) + 7) % USERS]
            for who_now in (user, agent, user):
                assert (
                    await http.get("/run", params={"thread": f"case-{user.thread_id}"}, headers=who_now.headers)
                ).status_code == 200
            lost = world.prompt(None)
            await in_thread(lambda: model.invoke(lost, {"configurable": {"thread_id": f"case-{user.thread_id}"}}))

        await world.each(visit)


@way
async def anonymous_requests(world: World) -> None:
    """Between those of known users, on all kinds of endpoints: no ids, a reason, never a name."""
    nobody = User(None, None, "t-nobody")

    async def endpoint(request: Request) -> Response:
        user = by_id.get(request.headers.get("x-user"), nobody)
        await model.ainvoke(world.prompt(user))
        await asyncio.to_thread(model.invoke, world.prompt(user))
        await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))
        return PlainTextResponse("done", background=BackgroundTask(model.ainvoke, world.prompt(user)))

    by_id: dict[str | None, User] = {user.user_id: user for user in world.users}
    app = Starlette(routes=[Route("/", endpoint)], middleware=[OURS])
    async with client(app) as http:
        await world.each(lambda user: asyncio.gather(http.get("/", headers=user.headers), http.get("/")))


# -- graphs ---------------------------------------------------------------------------------------------------------


def _clinic(wrapped: bool) -> Any:
    """A fan-out with Send, a conditional edge that calls a model, a subgraph, a sync node."""

    async def one(state: State) -> State:
        await model.ainvoke(state["prompt"])
        return {}

    async def route(state: State) -> list[Send]:
        first, *rest = state["prompts"]
        await model.ainvoke(first)
        return [Send("one", {"prompt": prompt}) for prompt in rest]

    def gather(state: State) -> State:
        return {}

    async def last(state: State) -> State:
        await model.ainvoke(state["prompt"])
        return {}

    inner = StateGraph(State)
    inner.add_node("last", last)
    inner.add_edge(START, "last")
    inner.add_edge("last", END)
    builder = StateGraph(State)
    builder.add_node("start", gather)
    builder.add_node("one", one)
    builder.add_node("inner", inner.compile())
    builder.add_edge(START, "start")
    builder.add_conditional_edges("start", route, ["one"])
    builder.add_edge("one", "inner")
    return (wrap_graph(builder) if wrapped else builder).compile(checkpointer=InMemorySaver())


@way
async def graph_with_fan_out_branches_and_subgraph(world: World) -> None:
    graphs = [_clinic(True), _clinic(False)]

    async def endpoint(user: User) -> None:
        for compiled in graphs:
            prompts = [world.prompt(user) for _ in range(4)]
            await compiled.ainvoke({"prompt": world.prompt(user), "prompts": prompts}, on(user))

    await world.through(endpoint)


@way
async def ids_in_the_state_and_no_request_around(world: World) -> None:
    """A wrapped graph on a bare thread's loop, which knows its people by its state or configurable."""

    class Known(State):
        user_id: str
        session_id: str

    builder = StateGraph(Known)
    builder.add_node("talk", talk)
    builder.add_edge(START, "talk")
    compiled = wrap_graph(builder).compile()
    plain = wrap_graph(StateGraph(State).add_node("talk", talk).add_edge(START, "talk")).compile()

    async def visit(user: User) -> None:
        ids = {"user_id": user.user_id, "session_id": user.session_id}
        by_state, by_config = world.prompt(user), world.prompt(user)
        await in_thread(lambda: asyncio.run(compiled.ainvoke({"prompt": by_state, **ids})))
        await in_thread(lambda: asyncio.run(plain.ainvoke({"prompt": by_config}, {"configurable": ids})))

    await world.each(visit)


# -- processes ------------------------------------------------------------------------------------------------------


def in_process(database: str, prompt: str, metadata: dict[str, Any]) -> None:
    """A job in another process, which writes to a file that the test reads."""
    with CallLog(database):
        Talker().invoke(prompt, {"metadata": metadata})


# -- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way_out", WAYS.values(), ids=WAYS.keys())
async def test_every_call_is_attributed(way_out: Callable[[World], Awaitable[None]]) -> None:
    """However the call leaves the request, its row carries the request's ids, once, and never somebody else's."""
    world = World()
    async with world.log:
        await way_out(world)
        complaints = await world.complaints()
    assert not complaints, f"{len(complaints)}: {complaints[:8]}"
    assert len(world.book.truths) >= USERS


async def test_a_process_pool_that_is_given_the_metadata(tmp_path: Path) -> None:
    """What a wrapped graph puts into config["metadata"] takes the identity to another process."""
    world = World()
    database = f"sqlite+aiosqlite:///{tmp_path / 'calls.db'}"
    from llmctx import migrate
    from llmctx.settings import load

    await asyncio.to_thread(migrate.upgrade, load(database_url=database))
    pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))

    async def endpoint(user: User) -> None:
        async def out(config: RunnableConfig) -> None:
            metadata = dict(config["metadata"])
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(pool, in_process, database, world.prompt(user), metadata)

        await world.graphs[True].ainvoke({"leave": leaving(out)}, on(user))

    async with world.log:
        await world.through(endpoint, rounds=1)
    await asyncio.to_thread(pool.shutdown)
    engine = create_engine(f"sqlite:///{tmp_path / 'calls.db'}")
    with engine.connect() as connection:
        rows = list(connection.execute(text("SELECT * FROM biz_agent_llm_call_logs")))
    engine.dispose()
    assert not world.book.held_against(rows)
    assert {row.identity_source for row in rows} == {"carried"}
