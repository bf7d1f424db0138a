"""Websockets: many turns, a change of session in mid-connection, and their ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import connect

from llmctx import amend, bind
from tests.kit.support import User, wait_for
from tests.scenarios import shape
from tests.scenarios.dependencies import amended, naming
from tests.scenarios.hangups import Patient, ended
from tests.scenarios.http import asker, refused, turned
from tests.scenarios.world import OURS, USERS, World, begun, model, on


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
    named = naming(world)
    app = FastAPI(middleware=[OURS])

    @app.websocket("/message")
    async def by_message(socket: WebSocket) -> None:
        await socket.accept()
        user = amended(by_id[await socket.receive_text()])
        await model.ainvoke(world.prompt(user))
        await socket.send_text("done")

    def authenticated(socket: WebSocket) -> User:
        return amended(named(socket))

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
