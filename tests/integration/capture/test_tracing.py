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

from llmctx import CallContext, bind, current, hand_over, take_over
from llmctx.calllog import CallLog
from llmctx.core.tracing import current_span, span_of
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


def test_the_calls_of_a_job_are_linked_with_the_span_that_handed_it_over() -> None:
    """Its token carries `traceparent`, also through jobs that hand over in turn; a job's own span comes first."""
    model, sink = FakeListChatModel(responses=["yes"]), MemorySink()
    own = NonRecordingSpan(SpanContext(0x1 << 100, 0x2, is_remote=False, trace_flags=TraceFlags(1)))
    with CallLog(sink=sink, handover_key="k" * 40) as call_log:
        with bind(user_id="ada"), trace.use_span(SPAN):
            token = hand_over()
        with take_over(token):
            model.invoke("in the job")
            again = hand_over()
            with trace.use_span(own):
                model.invoke("in a span of the job's")
            with call_log.record(model="whisper"):
                pass
        with take_over(again), bind(session_id="s-1"):
            model.invoke("in a job of the job's")
        with bind(user_id="ada"):
            without = hand_over()
        with take_over(without):
            model.invoke("handed over outside of any span")
    linked = (TRACE_ID, SPAN_ID)
    assert [(row.trace_id, row.span_id) for row in sink.records] == [
        linked,
        (f"{1 << 100:032x}", f"{2:016x}"),
        linked,
        linked,
        (None, None),
    ]
    assert all(row.user_id == "ada" for row in sink.records)


def test_what_is_no_traceparent_names_no_span() -> None:
    """Nothing is raised, whatever stands there."""
    text = f"00-{TRACE_ID}-{SPAN_ID}-01"
    assert span_of(text) == (0xABC << 100, 0xDEF, True)
    assert span_of(text[:-1] + "0") == (0xABC << 100, 0xDEF, False)
    for wrong in (None, 7, "", "00", text[3:], f"00-{'0' * 32}-{SPAN_ID}-01", f"00-{'x' * 32}-{SPAN_ID}-01", text[:-1]):
        assert span_of(wrong) is None
