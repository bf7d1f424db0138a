"""The world of one shape: twenty users, a recorder, the truth, and what most shapes need."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypedDict, TypeVar
from uuid import uuid4

import httpx
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from llmctx import CallContext
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.graph import wrap_graph
from llmctx.middleware import ContextMiddleware
from tests.kit.support import Book, Known, Talker, User, hanging, users, wait_for

T = TypeVar("T")
USERS = 20

model = Talker()
chain: Runnable[Any, Any] = ChatPromptTemplate.from_template("{prompt}") | model


def who(connection: HTTPConnection) -> CallContext | None:
    """The fake authentication of these tests: two headers, as if a gateway had checked them."""
    user_id = connection.headers.get("x-user")
    return CallContext(user_id=user_id, session_id=connection.headers["x-session"]) if user_id else None


OURS = Middleware(ContextMiddleware, identify=who)


class World:
    """Twenty users, a recorder, and the truth."""

    def __init__(self, *, carry: bool = False) -> None:
        self.carry = carry
        self.sink = MemorySink()
        self.log = CallLog(sink=self.sink, linger_ms=1, carry=carry)
        self.book = Book()
        self.users = users(USERS)
        self.later: list[asyncio.Task[Any]] = []
        self.executor = ThreadPoolExecutor(8)
        self.graphs = {wrapped: graph(wrapped) for wrapped in (True, False)}

    def prompt(self, user: User | None, status: str = "ok", text: str = "", known: Known = "always") -> str:
        """The text of a call that is about to be made, and what its row must say."""
        return self.book.prompt(user, status, text, known)

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
        middleware: tuple[Middleware, ...] = (OURS,),
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
        """What is wrong with the rows, once nothing runs any more."""
        await asyncio.gather(*self.later)
        await asyncio.to_thread(self.executor.shutdown)
        assert await self.log.aflush(60) == 0
        assert self.log.stats().open == 0
        assert self.log.stats().balanced
        return self.book.held_against(self.sink.records, carry=self.carry)


@asynccontextmanager
async def client(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app`, in this process and loop."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as http:
        yield http


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


async def begun(count: int = 1) -> None:
    """Wait until so many calls hang."""
    for _ in range(count):
        await wait_for(lambda: hanging.acquire(blocking=False), "a call to hang")  # in a thread it might be in the way


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


class State(TypedDict, total=False):
    prompt: str
    prompts: list[str]
    leave: str


departures: dict[str, Callable[[RunnableConfig], Awaitable[Any]]] = {}
"""What the node `leave` does: a state holds nothing but names, for it is saved."""


async def talk(state: State) -> State:
    """The usual node: awaits a model, if it is given a prompt."""
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
    """The config of this user's LangGraph thread."""
    return {"configurable": {"thread_id": user.thread_id}}
