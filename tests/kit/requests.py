"""Requests of users to one process, the LangGraph thread of a victim among them, and what alice's request starts."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from langchain_core.runnables import RunnableConfig

from llmctx import CallContext
from llmctx.graph import wrap_graph
from llmctx.middleware import ContextMiddleware
from tests.kit.support import Talker
from tests.kit.trust import State, graph_of

T = TypeVar("T")
THREAD = "t-victim"
MODES = pytest.mark.parametrize("carry", [False, True], ids=["plain", "carry"])
model = Talker()


async def talk(state: State) -> State:
    await model.ainvoke(state["text"])
    return {}


graph = graph_of(talk).compile()
wrapped_graph = wrap_graph(graph_of(talk)).compile()


def on(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id}, "metadata": {"thread_id": thread_id}}


async def request(user: str | None, endpoint: Callable[[], Awaitable[Any]]) -> None:
    """Serve a request in a task of its own, with an empty context, as servers do."""
    who = None if user is None else CallContext(user_id=user, session_id=f"s-{user}")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await endpoint()

    await in_context_of_a_server(ContextMiddleware(app, identify=lambda connection: who))


async def in_context_of_a_server(app: Any) -> None:
    connection = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await asyncio.get_running_loop().create_task(app(connection, None, None), context=contextvars.Context())


async def the_victim_uses_the_thread() -> None:
    await request("victim", lambda: wrapped_graph.ainvoke({"text": "victim"}, on(THREAD)))


@asynccontextmanager
async def started_by_alice(start: Callable[[], Awaitable[T]], *, is_open: bool) -> AsyncIterator[T]:
    """Yield what `start` returns in a request of alice's, which goes on until the block ends, or has ended before."""
    over = asyncio.Event()
    made: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    async def endpoint() -> None:
        made.set_result(await start())
        if is_open:
            await over.wait()

    alices = asyncio.create_task(request("alice", endpoint))
    started = await made
    if not is_open:
        await alices
    yield started
    over.set()
    await alices
