"""Canary calls: a fake model is called where the application calls its models; is each recorded once, with its ids?

They go through the real handler and pipeline into memory. None of the application's code runs: a stand-in replaces
middleware that is not starlette's or llmctx's where only its kind matters, and the rest is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langsmith import tracing_context
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from llmctx.calllog import CallLog
from llmctx.capture.recorder import active
from llmctx.core.record import CallRecord
from llmctx.core.text import counted
from llmctx.delivery.memory_sink import MemorySink, first_words
from llmctx.identity.binding import bind
from llmctx.identity.scope import CallContext
from llmctx.middleware import ContextMiddleware
from llmctx.ops.doctor.app_inspection import Layer
from llmctx.ops.doctor.finding import Finding, list_names

_PATIENCE_S: Final = 15.0
_WHO: Final = CallContext(session_id="canary-session", user_id="canary-user")
_SAFE: Final = (CORSMiddleware, GZipMiddleware)
"""Starlette's middleware that only passes requests on, and may see a canary."""


async def call() -> Finding:
    """Check that one call without any wiring is recorded once, with its ids."""
    sink = MemorySink()
    with _alone():
        async with CallLog(sink=sink, capture="all", db_schema="") as call_log:
            with bind(_WHO):
                await _model().ainvoke("are you there?")
            await call_log.aflush(5.0)
    seen = [(record.session_id, record.user_id) for record in sink.records]
    if seen == [(_WHO.session_id, _WHO.user_id)]:
        return Finding("canary call", True, "recorded once, with its session and user")
    return Finding(
        "canary call", False,
        f"{counted(len(seen), 'row')} instead of one" if len(seen) != 1 else f"its ids were {seen[0]}",
        "Calls are missing, duplicated, or without ids.",
        "Look for code that replaces langchain-core's callbacks (other tracers), and please report it.",
    )  # fmt: skip


async def requests(layers: Sequence[Layer], where: str | None) -> Finding:
    """Check that calls in requests, through middleware of the same kinds and order, get what `identify` returns."""
    stack, left_out = _stand_ins(layers)
    sink = MemorySink()
    application = Starlette(routes=_ROUTES, middleware=stack)
    problem = ""
    with _alone():
        async with CallLog(sink=sink, capture="all", db_schema="") as call_log:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    for path in _PATHS:
                        await _get(application, f"/{path}")
                    await _talk(application)
            except Exception as failure:  # noqa: BLE001  a stack that breaks on a canary is the finding
                problem = f"{type(failure).__name__}: {failure}".splitlines()[0]
            await call_log.aflush(5.0)
    recorded = {first_words(record.prompt_snapshot): record for record in sink.records}
    lost = [path for path in (*_PATHS, _SOCKET) if not _has_ids(recorded.get(path))]
    if not lost and not problem:
        cause = f"{len(_PATHS) + 1} of {len(_PATHS) + 1} calls in requests got the identity of a test request"
        return Finding("canary requests", True, cause + (f"; left out: {list_names(left_out)}" if left_out else ""))
    return Finding(
        "canary requests", False,
        problem or f"calls made in {list_names(lost)} did not get the identity that identify gives",
        "Such calls have no session_id and user_id, or another's.",
        "Add ContextMiddleware last, so that it runs first, apart from authentication; and report it.", where,
    )  # fmt: skip


def _has_ids(record: CallRecord | None) -> bool:
    return record is not None and (record.session_id, record.user_id) == (_WHO.session_id, _WHO.user_id)


@contextmanager
def _alone() -> Iterator[None]:
    """Keep canaries out of a running call log of the application's, and out of LangSmith."""
    running = [recorder for recorder in active if recorder.enabled]
    for recorder in running:
        recorder.enabled = False
    try:
        with tracing_context(enabled=False):
            yield
    finally:
        for recorder in running:
            recorder.enabled = True


def _stand_ins(layers: Sequence[Layer]) -> tuple[list[Middleware], list[str]]:
    """Return middleware of the same kinds in the same order, and the names of what is left out."""
    stack: list[Middleware] = []
    left_out: list[str] = []
    for layer in layers:
        if layer.is_ours:
            stack.append(Middleware(ContextMiddleware, identify=_who))
        elif layer.is_base:
            stack.append(Middleware(BaseHTTPMiddleware, dispatch=_pass_on))
        elif layer.cls in _SAFE:
            stack.append(Middleware(layer.cls, *layer.args, **layer.kwargs))
        else:
            left_out.append(layer.name)
    return stack, left_out


def _who(_: Any) -> CallContext:
    return _WHO


async def _pass_on(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    return await call_next(request)


# -- endpoints that call a model --------------------------------------------------------------------------------------


def _model() -> FakeListChatModel:
    return FakeListChatModel(responses=["tweet"])


async def _async(request: Request) -> Response:
    await _model().ainvoke("an async endpoint")
    return PlainTextResponse("")


def _sync(request: Request) -> Response:
    _model().invoke("a sync endpoint")
    return PlainTextResponse("")


async def _stream(request: Request) -> Response:
    async def body() -> Any:
        yield (await _model().ainvoke("a streamed answer")).text

    return StreamingResponse(body())


async def _background(request: Request) -> Response:
    return PlainTextResponse("", background=BackgroundTask(_model().ainvoke, "a background task"))


async def _socket(socket: WebSocket) -> None:
    await socket.accept()
    await _model().ainvoke(_SOCKET)
    await socket.close()


_SOCKET: Final = "a websocket"
_PATHS: Final = {
    "an async endpoint": _async,
    "a sync endpoint": _sync,
    "a streamed answer": _stream,
    "a background task": _background,
}
_ROUTES: Final = [
    *(Route(f"/{path}", endpoint) for path, endpoint in _PATHS.items()),
    WebSocketRoute(f"/{_SOCKET}", _socket),
]


# -- a minimal server -------------------------------------------------------------------------------------------------


async def _get(application: Starlette, path: str) -> None:
    await _send(application, {"type": "http", "method": "GET"}, path, {"type": "http.request", "body": b""})


async def _talk(application: Starlette) -> None:
    await _send(application, {"type": "websocket", "subprotocols": []}, f"/{_SOCKET}", {"type": "websocket.connect"})


async def _send(application: Starlette, connection: dict[str, Any], path: str, first: dict[str, Any]) -> None:
    coming = [first]

    async def receive() -> dict[str, Any]:
        if coming:
            return coming.pop()
        await asyncio.Event().wait()  # the client sends nothing more, and stays connected
        raise AssertionError

    async def send(message: Any) -> None:
        return None

    scope = {
        "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": [(b"host", b"canary")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), **connection,
    }  # fmt: skip
    await application(scope, receive, send)
