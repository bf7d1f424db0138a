"""Clients that hang up: in mid-call and in mid-stream, on a real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import START, StateGraph
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.responses import Response, StreamingResponse

from llmctx.graph import wrap_graph
from tests.kit.support import PlainTalker, User, hanging, wait_for
from tests.kit.uvicorn_server import served
from tests.scenarios import enter, shape
from tests.scenarios.dependencies import tokens
from tests.scenarios.http import Answer, sse, starlette_app
from tests.scenarios.surroundings import Forwarding
from tests.scenarios.world import OURS, USERS, State, World, begun, model


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
        self.released.wait(60)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("at last"))])


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
        return sse(tokens(world.prompt(user, "cancelled", "[hang]")))

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
        return sse(tokens(world.prompt(user, "cancelled", "[hang]")))

    await hanging_up(world, run, None, OURS, Middleware(Forwarding))
