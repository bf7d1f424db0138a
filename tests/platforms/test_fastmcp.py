"""A fastmcp server mounted in a Starlette application behind the middleware: twenty users on one of its sessions."""

from __future__ import annotations

import asyncio

import pytest
from fastmcp import FastMCP
from starlette.applications import Starlette
from starlette.routing import Mount

from llmctx import bind
from llmctx.middleware import ContextMiddleware
from tests.kit.support import User
from tests.kit.uvicorn_server import served
from tests.promises.test_session_servers import WAYS, sse_session, streamable_session
from tests.scenarios.world import World, model, on, who


def _server(world: World) -> FastMCP:
    server = FastMCP("tools")
    held: list[asyncio.Task[object]] = []

    @server.tool
    async def ask(prompt: str, way: str, thread_id: str) -> str:
        match way:
            case "gathered":
                await asyncio.gather(model.ainvoke(prompt))
            case "in a thread":
                await asyncio.to_thread(model.invoke, prompt)
            case "detached":
                held.append(asyncio.create_task(model.ainvoke(prompt)))
            case "bound":
                with bind(conversation_id="c"):
                    await model.ainvoke(prompt)
            case "wrapped" | "bare":
                config = {"configurable": {"thread_id": thread_id}}
                await world.graphs[way == "wrapped"].ainvoke({"prompt": prompt}, config)
            case _:
                await model.ainvoke(prompt)
        return "done"

    return server


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("carry", [False, True], ids=["plain", "carry"])
@pytest.mark.parametrize("transport", ["streamable-http", "sse"])
async def test_each_tool_call_is_the_users_whose_request_it_answers(transport: str, carry: bool) -> None:
    world = World(carry=carry)
    inner = _server(world).http_app(transport=transport, path="/mcp" if transport != "sse" else "/sse")  # type: ignore[arg-type]  # one of its literals
    app = ContextMiddleware(Starlette(routes=[Mount("/", app=inner)], lifespan=inner.lifespan), identify=who)
    session = sse_session if transport == "sse" else streamable_session
    async with world.log, served(app) as base, session(base, world.users[0]) as say:

        async def use(user: User) -> None:
            for way in WAYS if transport == "sse" else (*WAYS, "bound"):
                thread_id = on(user)["configurable"]["thread_id"]
                arguments = {"prompt": world.prompt(user), "way": way, "thread_id": thread_id}
                await say(user, "tools/call", {"name": "ask", "arguments": arguments})

        await world.each(use)
        complaints = await world.complaints()
    assert not complaints, f"{len(complaints)}: {complaints[:8]}"
