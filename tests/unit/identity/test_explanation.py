"""The line that made a call: the application's own, and never the one that merely started its server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from langchain.agents import create_agent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.graph import wrap_graph
from llmctx.identity.explanation import KEY
from llmctx.middleware import ContextMiddleware
from tests.kit.support import Talker

HERE = Path(__file__).name


def by_itself(server: uvicorn.Server, listener: socket.socket) -> None:
    """As `uvicorn.run(app)` at the end of a script."""
    server.run(sockets=[listener])


def in_a_loop_of_ours(server: uvicorn.Server, listener: socket.socket) -> None:
    """As an application that starts more than its server."""
    asyncio.run(server.serve(sockets=[listener]))


@pytest.mark.parametrize("start", [by_itself, in_a_loop_of_ours])
async def test_who_starts_the_server_made_none_of_its_calls(
    start: Callable[[uvicorn.Server, socket.socket], None],
) -> None:
    """An agent's calls are made in tasks and nodes of LangGraph: no line of the application leads there."""
    agent = wrap_graph(create_agent(Talker(), []))

    async def ask(request: Request) -> Response:
        await agent.ainvoke({"messages": [("user", "hello")]})
        await Talker().ainvoke("hello")  # this line
        return PlainTextResponse("done")

    app: Any = ContextMiddleware(Starlette(routes=[Route("/ask", ask)]))
    sink = MemorySink()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        async with CallLog(sink=sink) as call_log:
            thread = threading.Thread(target=start, args=(server, listener))
            thread.start()
            try:
                while not server.started:
                    assert thread.is_alive(), "uvicorn has died"
                    await asyncio.sleep(0.005)
                async with httpx.AsyncClient() as http:
                    url = f"http://127.0.0.1:{listener.getsockname()[1]}/ask"
                    assert (await http.get(url)).text == "done"
            finally:
                server.should_exit = True
                await asyncio.to_thread(thread.join, 60)
            await call_log.aflush()
    said = [(row.attributes or {})[KEY] for row in sink.records]
    assert [one["route"].startswith("GET ") and "ask" in one["route"] for one in said] == [True] * 2
    by_agent, by_hand = (one.get("where") for one in said)
    assert by_agent is None
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "# this line" in text)
    assert by_hand is not None
    assert by_hand.endswith(f"{HERE}:{line}")


async def test_a_script_that_runs_its_agent_is_where_the_calls_are_made() -> None:
    """Where nobody serves, `asyncio.run(…)` is the line that leads there."""
    sink = MemorySink()
    agent = wrap_graph(create_agent(Talker(), []))

    def script() -> None:
        asyncio.run(agent.ainvoke({"messages": [("user", "hello")]}))  # that line

    async with CallLog(sink=sink) as call_log:
        await asyncio.to_thread(script)
        await call_log.aflush()
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "# that line" in text)
    assert sink.records[0].attributes is not None
    assert sink.records[0].attributes[KEY]["where"].endswith(f"{HERE}:{line}")
