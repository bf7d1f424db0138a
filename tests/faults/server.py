"""The application behind a real uvicorn or gunicorn: `uvicorn tests.faults.server:app`.

What it is told stands in the environment: FAULTS_BOOK, FAULTS_STARTED, and llmctx's own LLMCTX_*.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from llmctx.calllog import CallLog
from llmctx.middleware import ContextMiddleware
from tests.faults.application import Application, ProviderDown, who
from tests.faults.book import Call, Pen

application = Application(Pen(os.environ["FAULTS_BOOK"]))
call_log = CallLog()
if os.environ.get("FAULTS_STARTED") == "at import":  # with gunicorn's --preload that is before the fork
    call_log.start()


@contextlib.asynccontextmanager
async def _called(request: Request) -> AsyncIterator[Call]:
    """The call that a client asks for; its body has been read."""
    call = Call(**json.loads(await request.body()))
    application.calls[call.run_id] = call
    try:
        yield call
    finally:
        del application.calls[call.run_id]


async def chat(request: Request) -> Response:
    async with _called(request) as call:
        try:
            said = await application.plain.ainvoke(call.prompt, {"run_id": call.run_id})
        except ProviderDown:
            return Response("fail", status_code=503)
        return Response(str(said.content))


async def stream(request: Request) -> Response:
    """Without an end, if the call is to be cancelled."""
    await request.body()

    async def pieces() -> AsyncIterator[str]:
        async with _called(request) as call:
            async for chunk in application.model.astream(call.prompt, {"run_id": call.run_id}):
                yield str(chunk.content)
            while call.end == "cancel":
                await asyncio.sleep(0.05)
                yield " and on"

    return StreamingResponse(pieces())


async def endless(request: Request) -> Response:
    """A call that is being waited for, behind a body that has begun."""
    await request.body()

    async def pieces() -> AsyncIterator[str]:
        async with _called(request) as call:
            yield "here it comes: "
            said = await application.plain.ainvoke(call.prompt, {"run_id": call.run_id})
            yield str(said.content)

    return StreamingResponse(pieces())


async def block(request: Request) -> Response:
    """Hold up the loop, until somebody loses patience."""
    async with _called(request) as call:
        said = application.plain.invoke(call.prompt, {"run_id": call.run_id})
        time.sleep(60)
        return Response(str(said.content))


async def stats(request: Request) -> Response:
    return JSONResponse({"balanced": call_log.stats().balanced, "pid": os.getpid()})


_PATHS: dict[str, Any] = {"/chat": chat, "/stream": stream, "/endless": endless, "/block": block}
app = Starlette(
    routes=[Route("/", stats), *(Route(path, end, methods=["POST"]) for path, end in _PATHS.items())],
    lifespan=call_log.lifespan,
)
app.add_middleware(ContextMiddleware, identify=who)
