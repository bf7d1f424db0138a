"""An innocent application that is served: FastAPI behind the middleware, asked as a server would ask it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, StateGraph

from llmctx.identity.scope import CallContext
from tests.faults.kit import MODEL, Broken, Kit, State, app_view


async def request(app: Any, path: str, user: str) -> list[Any]:
    """All that an ASGI server would be told. The client goes away in the middle of `/hang`."""
    sent: list[Any] = []
    begun = asyncio.Event()

    async def receive() -> Any:
        if not begun.is_set():
            begun.set()
            return {"type": "http.request", "body": b"", "more_body": False}
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"test"), (b"x-user", user.encode())]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": path,
             "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "headers": headers,
             "server": ("test", 80), "client": ("test", 1)}  # fmt: skip
    try:
        async with asyncio.timeout(0.03 if path == "/hang" else 30):
            await app(scope, receive, send)
    except (Broken, TimeoutError) as problem:
        sent.append(type(problem).__name__)
    return sent


async def _socket(app: Any) -> list[Any]:
    sent: list[Any] = []
    incoming: list[Any] = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "one"},
                           {"type": "websocket.disconnect", "code": 1000}]  # fmt: skip

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "asgi": {"version": "3.0"}, "http_version": "1.1", "path": "/ws", "raw_path": b"/ws",
             "query_string": b"", "root_path": "", "scheme": "ws", "headers": [(b"x-user", b"eve")], "subprotocols": [],
             "server": ("test", 80), "client": ("test", 1)}  # fmt: skip
    await app(scope, receive, send)
    return sent


def _served(kit: Kit, seen: list[Any]) -> Any:
    app = FastAPI()
    builder = StateGraph(State)
    builder.add_node("answer", RunnableLambda(lambda state: {"said": [MODEL.invoke("of eve: graph").content]}))
    builder.add_edge(START, "answer")
    graph = kit.wrap(builder).compile()

    @app.get("/chat")
    async def chat(background: BackgroundTasks) -> Any:
        kit.amend(session_id="s-eve")
        seen.append(app_view())
        background.add_task(MODEL.invoke, "of eve: background")
        return [(await MODEL.ainvoke("of eve: chat")).content, await graph.ainvoke({"text": "x"})]

    @app.get("/sync")
    def sync() -> Any:
        return MODEL.invoke("of eve: sync").content

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            async for chunk in MODEL.astream("of eve: body"):
                yield str(chunk.content)

        return StreamingResponse(body(), media_type="text/plain")

    @app.get("/broken")
    async def broken() -> Any:
        await MODEL.ainvoke("of eve: before it breaks")
        raise Broken("at the endpoint")

    @app.get("/hang")
    async def hang() -> Any:
        await MODEL.ainvoke("of eve: [hang]")

    @app.websocket("/ws")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        text = await websocket.receive_text()
        await websocket.send_text(str((await MODEL.ainvoke(f"of eve: {text}")).content))
        await websocket.close()

    async def who(connection: Any) -> CallContext | None:
        await asyncio.sleep(0)
        user = connection.headers.get("x-user")
        if user == "unknown":
            raise Broken("who?")
        return CallContext(user_id=user, session_id=f"s-{user}")

    return kit.served(app, who)


async def requests(kit: Kit) -> Any:
    """FastAPI behind the middleware: endpoints, a stream, a background task, an error, a client that hangs up."""
    seen: list[Any] = []
    app = _served(kit, seen)
    told = [await request(app, path, "eve") for path in ("/chat", "/sync", "/stream", "/broken", "/hang", "/none")]
    return [*told, await request(app, "/broken", "unknown"), await _socket(app), seen]
