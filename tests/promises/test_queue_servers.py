"""A server that takes requests from a queue of its own answers each in its user's name, also when that request is over.

The shapes of Gradio, which keeps the request at hand in a context variable, and of A2A's tasks, which run in a context
that the request has sent along: rebuilt here of tasks, threads and queues.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Awaitable, Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import anyio.to_thread
import pytest
from starlette.requests import Request

from llmctx import CallContext, amend, bind
from llmctx.middleware import ContextMiddleware
from tests.kit.requests import MODES, THREAD, graph, in_context_of_a_server, model, on, wrapped_graph
from tests.kit.trust import recorded

Way = Callable[[str, str], Awaitable[None]]
USERS = [f"u{number}" for number in range(6)]


async def bare(user: str, thread_id: str) -> None:
    await model.ainvoke(user, on(thread_id))


async def in_a_graph(user: str, thread_id: str) -> None:
    await graph.ainvoke({"text": user}, on(thread_id))


async def in_a_node(user: str, thread_id: str) -> None:
    await wrapped_graph.ainvoke({"text": user}, on(thread_id))


async def in_a_thread(user: str, thread_id: str) -> None:
    await anyio.to_thread.run_sync(lambda: model.invoke(user, on(thread_id)))


async def in_a_generator(user: str, thread_id: str) -> None:
    """Each step in a thread, with the request at hand again."""

    def steps() -> Iterator[None]:
        for _ in range(3):
            model.invoke(user, on(thread_id))
            yield

    generator = steps()
    while await anyio.to_thread.run_sync(lambda: next(generator, "over")) != "over":
        pass


async def named_by_config(user: str, thread_id: str) -> None:
    await wrapped_graph.ainvoke({"text": user}, {"configurable": {"thread_id": thread_id, "user_id": user}})


async def bound(user: str, thread_id: str) -> None:
    with bind(user_id=user, session_id=f"s-{user}"):
        await bare(user, thread_id)


WAYS = {way.__name__: way for way in (bare, in_a_graph, in_a_node, in_a_thread, in_a_generator, named_by_config, bound)}


class Keeping:
    """Answers each request when it is over, in a task that one for all has made, with the request in a variable."""

    def __init__(self, variable: contextvars.ContextVar[Any]) -> None:
        self.variable = variable
        self.waiting: list[tuple[Any, Any, asyncio.Future[None]]] = []
        self.made: set[asyncio.Task[None]] = set()

    def push(self, connection: Any, work: Callable[[], Awaitable[None]]) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        self.waiting.append((Request(connection), work, done))
        return done

    async def serve(self) -> None:
        while True:
            await asyncio.sleep(0)
            while self.waiting:
                event = self.waiting.pop(0)
                self.made.add(asyncio.create_task(self.answer(*event)))

    async def answer(self, request: Request, work: Callable[[], Awaitable[None]], done: asyncio.Future[None]) -> None:
        self.variable.set(SimpleNamespace(request=request))
        await work()
        self.variable.set(None)
        done.set_result(None)


class Sending:
    """A task of one user's request, in which the messages of all are answered, each in its sender's context."""

    def __init__(self, variable: contextvars.ContextVar[Any]) -> None:
        self.messages: asyncio.Queue[Any] = asyncio.Queue()

    def push(self, connection: Any, work: Callable[[], Awaitable[None]]) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        self.messages.put_nowait((work, done, contextvars.copy_context()))
        return done

    async def serve(self) -> None:
        while True:
            work, done, sender = await self.messages.get()
            await sender.run(asyncio.create_task, work())
            done.set_result(None)


@pytest.fixture
def variable(monkeypatch: pytest.MonkeyPatch) -> contextvars.ContextVar[Any]:
    """The one in which Gradio keeps the request."""
    found: contextvars.ContextVar[Any] = contextvars.ContextVar("request", default=None)
    module: Any = ModuleType("gradio.context")
    module.LocalContext = SimpleNamespace(request=found)
    monkeypatch.setitem(sys.modules, "gradio.context", module)
    return found


async def _request(user: str | None, endpoint: Callable[[Any], Awaitable[Any]]) -> Any:
    answer: list[Any] = []

    async def app(connection: Any, receive: Any, send: Any) -> None:
        answer.append(await endpoint(connection))

    who = None if user is None else CallContext(user_id=user, session_id=f"s-{user}")
    await in_context_of_a_server(ContextMiddleware(app, identify=lambda _: who))
    return answer[0]


@MODES
@pytest.mark.parametrize("is_shared", [False, True], ids=["own threads", "one thread"])
@pytest.mark.parametrize("kind", [Keeping, Sending])
def test_each_answer_is_the_users_whose_request_it_answers(
    kind: Any, variable: Any, is_shared: bool, carry: bool
) -> None:
    async def main(way: Way) -> None:
        server = kind(variable)
        serving: list[asyncio.Task[None]] = []

        async def endpoint(connection: Any, user: str) -> asyncio.Future[None]:
            if not serving:  # the first request happens to start it
                serving.append(asyncio.create_task(server.serve()))
            done: asyncio.Future[None] = server.push(
                connection, lambda: way(user, THREAD if is_shared else f"t-{user}")
            )
            if kind is Sending:
                await done
            return done

        async def use(user: str) -> None:
            for _ in range(2):
                await (await _request(user, lambda connection: endpoint(connection, user)))

        await asyncio.gather(*map(use, USERS))
        serving[0].cancel()

    wrong: dict[str, set[tuple[str, Any, Any]]] = {}
    for name, way in WAYS.items():
        with recorded(carry=carry) as sink:
            asyncio.run(main(way))
        assert len(sink.records) >= 2 * len(USERS)
        wrong[name] = {
            (user, row.user_id, row.session_id)
            for row in sink.records
            for user in USERS
            if f'"{user}"' in str(row.prompt_snapshot) and (row.user_id, row.session_id) != (user, f"s-{user}")
        }
    assert {name: found for name, found in wrong.items() if found} == {}


def test_a_batch_of_several_requests_is_nobodys(variable: Any) -> None:
    async def main() -> None:
        async def endpoint(connection: Any) -> Request:
            return Request(connection)

        variable.set([SimpleNamespace(request=await _request(user, endpoint)) for user in USERS])
        await bare("all", "t")

    with recorded() as sink:
        asyncio.run(main())
    assert [row.user_id for row in sink.records] == [None]


def test_what_the_code_learns_of_the_user_is_told_to_the_request(variable: Any) -> None:
    async def main() -> None:
        async def endpoint(connection: Any) -> Request:
            return Request(connection)

        variable.set(SimpleNamespace(request=await _request(None, endpoint)))
        amend(user_id="u", session_id="s")
        await model.ainvoke("u")

    with recorded() as sink:
        asyncio.run(main())
    assert [(row.user_id, row.session_id) for row in sink.records] == [("u", "s")]


@MODES
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
def test_a_worker_that_copies_its_own_context_is_not_handed_the_request(is_open: bool, carry: bool) -> None:
    """Alice's request has started it. On a thread of the victim's it never works in her name."""

    async def main() -> None:
        jobs: asyncio.Queue[tuple[str, asyncio.Event]] = asyncio.Queue()
        over = asyncio.Event()
        kept: list[asyncio.Task[None]] = []

        async def work() -> None:
            while True:
                user, done = await jobs.get()
                context = contextvars.copy_context()
                await context.run(asyncio.create_task, bare(user, THREAD))
                done.set()

        async def start(connection: Any) -> None:
            kept.append(asyncio.create_task(work()))
            if is_open:
                await over.wait()

        async def ask(connection: Any) -> None:
            await wrapped_graph.ainvoke({"text": "in her own request"}, on(THREAD))
            done = asyncio.Event()
            jobs.put_nowait(("victim", done))
            await done.wait()

        alices = asyncio.create_task(_request("alice", start))
        while not kept:
            await asyncio.sleep(0)
        if not is_open:
            await alices
        await _request("victim", ask)
        over.set()
        await alices
        kept[0].cancel()

    with recorded(carry=carry) as sink:
        asyncio.run(main())
    assert {row.user_id for row in sink.records} <= {"victim", None}
