"""A row is linked with the span of OpenTelemetry around its call, where the application has loaded it."""

from __future__ import annotations

import subprocess
import sys

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from llmctx import CallContext, bind, current
from llmctx.calllog import CallLog
from llmctx.core.tracing import current_span
from llmctx.delivery.memory_sink import MemorySink
from llmctx.middleware import ContextMiddleware

SPAN = NonRecordingSpan(SpanContext(0xABC << 100, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
TRACE_ID, SPAN_ID = f"{0xABC << 100:032x}", f"{0xDEF:016x}"


def test_a_row_has_the_span_around_its_call() -> None:
    """Its span_id always; its trace_id where the scope has none of its own. Outside of a span there is neither."""
    model, sink = FakeListChatModel(responses=["yes"]), MemorySink()
    with CallLog(sink=sink):
        model.invoke("outside")
        with trace.use_span(SPAN):
            model.invoke("inside")
            with bind(CallContext(user_id="ada", trace_id="ours")):
                model.invoke("of a trace of ours")
    assert [(row.trace_id, row.span_id) for row in sink.records] == [
        (None, None),
        (TRACE_ID, SPAN_ID),
        ("ours", SPAN_ID),
    ]


def test_a_request_continues_the_trace_that_it_is_in() -> None:
    """`ContextMiddleware` inside of the server's span; without one it makes an id of the same form."""

    async def endpoint(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(current().trace_id))

    app = ContextMiddleware(Starlette(routes=[Route("/", endpoint)]))

    async def spanned(scope, receive, send):  # type: ignore[no-untyped-def]  # ASGI's three
        with trace.use_span(SPAN):
            await app(scope, receive, send)

    assert TestClient(spanned).get("/").text == TRACE_ID
    assert len(TestClient(app).get("/").text) == len(TRACE_ID)


def test_opentelemetry_is_never_imported_by_llmctx() -> None:
    """It is looked for among what is loaded."""
    program = (
        "import sys; from llmctx.core.tracing import current_span; "
        "print(current_span(), any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["None", "False"]
    assert current_span() is None
