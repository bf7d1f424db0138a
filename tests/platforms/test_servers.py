"""The same application behind each server: several processes, event loops of other kinds, AWS Lambda, Socket.IO."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import socketio
from mangum import Mangum

from llmctx import CallContext
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.middleware import ContextMiddleware
from tests.kit.support import Talker
from tests.kit.uvicorn_server import served
from tests.platforms.server import Server, command_of, judge
from tests.platforms.users import APPLICATION, Calls

ADDRESS = "127.0.0.1:{port}"
SERVERS: dict[str, list[str]] = {
    "uvicorn-uvloop": [sys.executable, "-m", "uvicorn", "webapp:app", "--port", "{port}", "--loop", "uvloop"],
    "gunicorn": [command_of("gunicorn"), "-k", "uvicorn.workers.UvicornWorker", "-w", "2", "-b", ADDRESS, "webapp:app"],
    "hypercorn": [command_of("hypercorn"), "-w", "2", "-b", ADDRESS, "webapp:app"],
    "granian": [command_of("granian"), "--interface", "asgi", "--workers", "2", "--port", "{port}", "webapp:app"],
}
model = Talker()


async def _visit(server: Server, calls: Calls, user: str) -> None:
    headers = {"x-user": user, "x-session": f"s-{user}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
        for path in ("/quick", "/graph", "/thread"):
            prompt = f"{user} {path}"
            calls[prompt, user] += 1
            (await client.get(path, params={"question": prompt})).raise_for_status()


async def _visit_all(server: Server, calls: Calls) -> None:
    await asyncio.gather(*(_visit(server, calls, f"u{number}") for number in range(20)))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SERVERS)
def test_server(name: str, serve: Callable[..., Server], database: str, tmp_path: Path) -> None:
    """20 users at once, then Ctrl-C."""
    folder = tmp_path / "app"
    shutil.copytree(APPLICATION, folder)
    server = serve(SERVERS[name], folder=folder, health="/process")
    calls: Calls = Counter()
    asyncio.run(_visit_all(server, calls))
    server.interrupt()
    rows = judge(database, calls, thread_is_session=False)
    assert all(row.session_id == f"s-{row.user_id}" for row in rows)


def _who(connection: Any) -> CallContext | None:
    user = connection.headers.get("x-user")
    return CallContext(user_id=user, session_id=f"s-{user}") if user else None


def test_lambda() -> None:
    """Mangum starts and ends the application with each event, or never."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        answer = await model.ainvoke(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer.text.encode()})

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # Mangum makes one otherwise, and leaves it open
    handler = Mangum(ContextMiddleware(app, identify=_who), lifespan="off")
    with CallLog(sink=(sink := MemorySink())):
        for number in range(5):
            event = {
                "version": "2.0",
                "rawPath": f"/{number}",
                "rawQueryString": "",
                "headers": {"x-user": f"u{number}", "host": "x"},
                "requestContext": {"http": {"method": "GET", "path": f"/{number}", "sourceIp": "127.0.0.1"}},
            }
            assert handler(event, None)["statusCode"] == 200
    loop.close()
    asyncio.set_event_loop(None)
    assert [(row.user_id, row.session_id) for row in sink.records] == [(f"u{n}", f"s-u{n}") for n in range(5)]


async def test_socket_io() -> None:
    """Events of a connection are its user's, by polling and by websocket, and jobs that they start."""
    server = socketio.AsyncServer(async_mode="asgi")

    @server.event
    async def ask(sid: str, question: str) -> str:
        await model.ainvoke(question)
        await server.start_background_task(model.ainvoke, f"{question} later")
        return "done"

    async def use(url: str, user: str, transport: str) -> None:
        async with aiohttp.ClientSession(headers={"x-user": user}) as session:  # with each request, as a cookie
            client = socketio.AsyncClient(http_session=session)
            await client.connect(url, transports=[transport])
            for _ in range(2):
                await client.call("ask", user)
            await client.disconnect()

    app = ContextMiddleware(socketio.ASGIApp(server), identify=_who)
    with CallLog(sink=(sink := MemorySink())):
        async with served(app, ws="auto", lifespan="off") as url:
            kinds = ["polling", "websocket"] * 5
            await asyncio.gather(*(use(url, f"u{n}", kind) for n, kind in enumerate(kinds)))
    assert len(sink.records) == 40
    for row in sink.records:
        prompt = json.loads(row.prompt_snapshot or "")[-1]["content"]
        assert (row.user_id, row.session_id) == (prompt.split()[0], f"s-{prompt.split()[0]}")
