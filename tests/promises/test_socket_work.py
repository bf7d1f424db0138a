"""What serves a websocket, or fills the body of a response, is its user's, on a thread that another uses as well."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from llmctx import CallContext
from llmctx.middleware import ContextMiddleware
from tests.kit.requests import MODES, THREAD, graph, model, on, wrapped_graph
from tests.kit.trust import recorded

Message = dict[str, str]


async def bare(message: Message) -> None:
    await model.ainvoke(message["text"], on(message["thread_id"]))


async def in_a_node(message: Message) -> None:
    await wrapped_graph.ainvoke({"text": message["text"]}, on(message["thread_id"]))


async def in_events(message: Message) -> None:
    async for _ in graph.astream_events({"text": message["text"]}, on(message["thread_id"]), version="v2"):
        pass


WAYS = {way.__name__: way for way in (bare, in_a_node, in_events)}


async def answer(socket: WebSocket, message: Message) -> None:
    await WAYS[message["way"]](message)
    await socket.send_text("done")


class Dispatching:
    """A task for each message, created in another function than that which reads."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        try:
            while True:
                self.dispatch(json.loads(await self.socket.receive_text()))
        except WebSocketDisconnect:
            await asyncio.gather(*self.tasks)

    def dispatch(self, message: Message) -> None:
        self.tasks.add(asyncio.create_task(self.handle(message)))

    async def handle(self, message: Message) -> None:
        await answer(self.socket, message)


class Queueing(Dispatching):
    """A worker of the connection's own."""

    async def run(self) -> None:
        self.messages: asyncio.Queue[Message | None] = asyncio.Queue()
        worker = asyncio.create_task(self.work())
        async for text in self.socket.iter_text():
            self.messages.put_nowait(json.loads(text))
        self.messages.put_nowait(None)
        await worker

    async def work(self) -> None:
        while (message := await self.messages.get()) is not None:
            await answer(self.socket, message)


class Client:
    """A websocket's other end, in a task with an empty context, as servers have it."""

    def __init__(self, app: Any, path: str, user: str) -> None:
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self.received: asyncio.Queue[Any] = asyncio.Queue()
        headers = [(b"user", user.encode())]
        connection = {"type": "websocket", "path": path, "query_string": b"", "headers": headers, "subprotocols": []}
        self.sent.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.get_running_loop().create_task(
            app(connection, self.sent.get, self.received.put), context=contextvars.Context()
        )

    async def ask(self, message: Message) -> None:
        self.sent.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})
        while (await self.received.get())["type"] != "websocket.send":
            pass

    async def close(self) -> None:
        self.sent.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self.task


async def _serve(socket: WebSocket) -> None:
    await socket.accept()
    await {"/dispatching": Dispatching, "/queueing": Queueing}[socket.url.path](socket).run()


async def _stream(request: Request) -> StreamingResponse:
    parts: asyncio.Queue[str | None] = asyncio.Queue()

    async def produce() -> None:
        await bare({"text": request.headers["user"], "thread_id": THREAD})
        await parts.put(None)

    async def body() -> AsyncIterator[str]:
        while (part := await parts.get()) is not None:
            yield part

    kept.append(asyncio.create_task(produce()))
    return StreamingResponse(body())


kept: list[Any] = []


def _who(connection: Any) -> CallContext:
    user = connection.headers["user"]
    return CallContext(user_id=user, session_id=f"s-{user}")


routes = [*(WebSocketRoute(path, _serve) for path in ("/dispatching", "/queueing")), Route("/stream", _stream)]
app = ContextMiddleware(Starlette(routes=routes), identify=_who)
SHAPES = [(path, way) for path in ("/dispatching", "/queueing") for way in WAYS.values()]


@MODES
def test_a_websocket_on_a_thread_that_a_victim_uses_meanwhile(carry: bool) -> None:
    async def main(path: str, way: str) -> None:
        alice, victim = (Client(app, path, user) for user in ("alice", "victim"))
        for client, user in ((victim, "victim"), (alice, "alice"), (victim, "victim"), (alice, "alice")):
            await client.ask({"text": user, "thread_id": THREAD, "way": way})
        await alice.close()
        await victim.close()

    for path, way in SHAPES:
        with recorded(carry=carry) as sink:
            asyncio.run(main(path, way.__name__))
        users = [row.user_id for row in sink.records if "alice" in str(row.prompt_snapshot)]
        assert (path, way.__name__, users) == (path, way.__name__, ["alice", "alice"])


@MODES
def test_a_task_that_fills_a_response_on_a_thread_that_a_victim_has_used(carry: bool) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            for user in ("victim", "alice"):
                await client.get("/stream", headers={"user": user})

    with recorded(carry=carry) as sink:
        asyncio.run(main())
    assert [row.user_id for row in sink.records] == ["victim", "alice"]


@pytest.fixture(autouse=True)
def _forgotten() -> Any:
    yield
    kept.clear()
