"""A server that holds sessions runs the tools of all its clients in tasks of the one who opened the session.

Real MCP servers (`mcp`), mounted behind the middleware, without `carry=True`. Twenty users share one session: each call
is the user's whose request it answers. Clients speak plain JSON-RPC, for clients of the package open one session each.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from llmctx import bind
from llmctx.middleware import ContextMiddleware
from tests.kit.support import User
from tests.kit.uvicorn_server import served
from tests.scenarios.world import World, model, on, who

try:
    from mcp.server.fastmcp import FastMCP as Server
except ImportError:
    from mcp.server.mcpserver import MCPServer as Server

Say = Callable[[User, str, dict[str, Any]], Awaitable[None]]
"""Send a request in a user's name, and wait for its answer."""

ACCEPT = {"accept": "application/json, text/event-stream"}
_numbers = itertools.count(1)


def tools(world: World) -> Any:
    """A server whose one tool makes a call in the way that it is told."""
    server = Server("tools")
    held: list[asyncio.Task[Any]] = []

    @server.tool()
    async def ask(prompt: str, way: str, thread_id: str) -> str:
        config = {"configurable": {"thread_id": thread_id}}
        if way == "gathered":
            await asyncio.gather(model.ainvoke(prompt))
        elif way == "in a thread":
            await asyncio.to_thread(model.invoke, prompt)
        elif way == "detached":
            held.append(asyncio.create_task(model.ainvoke(prompt)))
        elif way == "bound":
            with bind(conversation_id="c"):
                await model.ainvoke(prompt)
        elif way in ("wrapped", "bare"):
            await world.graphs[way == "wrapped"].ainvoke({"prompt": prompt}, config)
        else:
            assert way == "awaited"
            await model.ainvoke(prompt)
        return "done"

    return server


WAYS = ("awaited", "gathered", "in a thread", "detached", "wrapped", "bare")


def application(server: Any, transport: str) -> Any:
    """The server's ASGI application. In 2.x the transport's settings are arguments, in 1.x they are the server's."""
    if transport == "sse":
        return server.sse_app()
    if hasattr(server.settings, "json_response"):
        server.settings.json_response = transport == "json"
        return server.streamable_http_app()
    return server.streamable_http_app(json_response=transport == "json")


def request(method: str, params: dict[str, Any], number: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    return found if number is None else {**found, "id": number}


HELLO = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


@asynccontextmanager
async def streamable_session(base: str, opener: User) -> AsyncIterator[Say]:
    async with httpx.AsyncClient(base_url=base, timeout=30) as http:
        hello = await http.post("/mcp", json=request("initialize", HELLO, 0), headers={**ACCEPT, **opener.headers})
        assert hello.status_code == 200, hello.text
        session = {**ACCEPT, "mcp-session-id": hello.headers["mcp-session-id"]}
        await http.post("/mcp", json=request("notifications/initialized", {}), headers={**session, **opener.headers})

        async def say(user: User, method: str, params: dict[str, Any]) -> None:
            body = request(method, params, next(_numbers))
            answer = await http.post("/mcp", json=body, headers={**session, **user.headers})
            assert "done" in answer.text, answer.text

        yield say


@asynccontextmanager
async def sse_session(base: str, opener: User) -> AsyncIterator[Say]:
    """The opener's GET stays open, all answers come on it; each POST is over before its tool has run."""
    answers: dict[int, asyncio.Future[str]] = {}
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def listen(http: httpx.AsyncClient) -> None:
        async with http.stream("GET", "/sse", headers=opener.headers) as stream:
            async for line in stream.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if not address.done():
                    address.set_result(data)
                else:
                    answers[json.loads(data)["id"]].set_result(data)

    async with httpx.AsyncClient(base_url=base, timeout=30) as http:
        listening = asyncio.create_task(listen(http))
        path = await address

        async def send(user: User, body: dict[str, Any]) -> None:
            if "id" in body:
                answers[body["id"]] = asyncio.get_running_loop().create_future()
            assert (await http.post(path, json=body, headers=user.headers)).status_code == 202

        async def say(user: User, method: str, params: dict[str, Any]) -> None:
            body = request(method, params, next(_numbers))
            await send(user, body)
            assert "done" in await asyncio.wait_for(answers[body["id"]], 30)

        hello = request("initialize", HELLO, 0)
        await send(opener, hello)
        await answers[0]
        await send(opener, request("notifications/initialized", {}))
        yield say
        listening.cancel()
        await asyncio.wait([listening])


@pytest.mark.parametrize("carry", [False, True], ids=["plain", "carry"])
@pytest.mark.parametrize("transport", ["stream", "json", "sse"])
async def test_each_tool_call_is_the_users_whose_request_it_answers(transport: str, carry: bool) -> None:
    world = World(carry=carry)
    app = ContextMiddleware(application(tools(world), transport), identify=who)
    session = sse_session if transport == "sse" else streamable_session
    async with world.log, served(app) as base, session(base, world.users[0]) as say:

        async def use(user: User) -> None:
            for way in WAYS if transport == "sse" else (*WAYS, "bound"):
                arguments = {
                    "prompt": world.prompt(user),
                    "way": way,
                    "thread_id": on(user)["configurable"]["thread_id"],
                }
                await say(user, "tools/call", {"name": "ask", "arguments": arguments})

        await world.each(use)
        complaints = await world.complaints()
    assert not complaints, f"{len(complaints)}: {complaints[:8]}"
