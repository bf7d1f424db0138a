"""Requests a second of a real uvicorn whose endpoint calls a model, without and with llmctx, in interleaved rounds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Final

import httpx
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bench.workloads import MESSAGES, InstantModel
from llmctx.calllog import CallLog
from llmctx.identity.scope import CallContext
from llmctx.middleware import ContextMiddleware

ROUNDS: Final = 20
REQUESTS: Final = 200
AT_ONCE: Final = 8


def _who(connection: HTTPConnection) -> CallContext:
    return CallContext(session_id=connection.headers["x-session"], user_id=connection.headers["x-user"])


def application() -> Starlette:
    """Served by a process of its own; with llmctx if a database is named in the environment."""
    model = InstantModel()

    async def ask(request: Request) -> Response:
        answer = await model.ainvoke(MESSAGES)
        return PlainTextResponse(str(answer.content))

    routes = [Route("/ask", ask)]
    if not os.environ.get("LLMCTX_DATABASE_URL"):
        return Starlette(routes=routes)
    app = Starlette(routes=routes, lifespan=CallLog().lifespan)
    app.add_middleware(ContextMiddleware, identify=_who)
    return app


@contextlib.contextmanager
def _served(url: str, journal: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "bench.server:application", "--factory", "--port", str(port)]
    environment = {**os.environ, "LLMCTX_DATABASE_URL": url, "LLMCTX_JOURNAL_DIR": journal}
    process = subprocess.Popen([*command, "--log-level", "error"], env=environment)
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("uvicorn does not serve")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


async def _round(client: httpx.AsyncClient, url: str) -> float:
    async def some(number: int) -> None:
        headers = {"x-session": f"s-{number}", "x-user": f"u-{number}"}
        for _ in range(REQUESTS // AT_ONCE):
            (await client.get(f"{url}/ask", headers=headers)).raise_for_status()

    begin = time.perf_counter()
    await asyncio.gather(*[some(number) for number in range(AT_ONCE)])
    return REQUESTS / (time.perf_counter() - begin)


async def _measure(urls: dict[str, str]) -> dict[str, float]:
    rates: dict[str, list[float]] = {name: [] for name in urls}
    async with httpx.AsyncClient() as client:
        for number in range(ROUNDS + 2):
            for name, url in urls.items():
                rate = await _round(client, url)
                if number >= 2:
                    rates[name].append(rate)
    return {name: statistics.median(found) for name, found in rates.items()}


def run(database_url: str) -> dict[str, Any]:
    """Requests a second both ways, and the share."""
    with (
        tempfile.TemporaryDirectory(prefix="llmctx-bench-") as journal,
        _served("", journal) as without,
        _served(database_url, journal) as with_llmctx,
    ):
        found = asyncio.run(_measure({"without": without, "with": with_llmctx}))
    return {**found, "share": found["with"] / found["without"], "rounds": ROUNDS, "requests_a_round": REQUESTS}
