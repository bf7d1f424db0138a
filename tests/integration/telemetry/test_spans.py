"""Spans and metrics of llmctx's own: made from finished rows, by the names of the conventions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.record import CallRecord
from llmctx.delivery.memory_sink import MemorySink
from llmctx.telemetry import names, spans
from tests.kit.models import FakeLLM
from tests.kit.support import ProviderDown, Talker


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    """The application's provider of spans. OpenTelemetry lets it be set once in a process."""
    provider = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield provider
    provider.shutdown()


@pytest.fixture
def exporter(provider: TracerProvider) -> InMemorySpanExporter:
    """What the application exports to."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


def model() -> GenericFakeChatModel:
    answer = AIMessage(
        content="Yes.",
        usage_metadata={
            "input_tokens": 11,
            "output_tokens": 4,
            "total_tokens": 15,
            "input_token_details": {"cache_read": 3},
            "output_token_details": {"reasoning": 2},
        },
        response_metadata={"model_name": "m-1-2026", "finish_reason": "stop", "id": "r-7"},
    )
    return GenericFakeChatModel(messages=iter([answer]))


def emitted(exporter: InMemorySpanExporter, work: Any, **settings: Any) -> tuple[list[CallRecord], list[ReadableSpan]]:
    """The rows of `work`, and the spans that llmctx has made of them."""
    sink = MemorySink()
    with CallLog(sink=sink, otel_spans="on", **settings):
        work()
    mine = [span for span in exporter.get_finished_spans() if span.instrumentation_scope.name == "llmctx"]
    return list(sink.records), mine


def test_a_row_becomes_a_span_by_the_conventions(provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
    """Name, kind, times, parent, the attributes of the table; and the span's id is the row's."""

    def work() -> None:
        with provider.get_tracer("app").start_as_current_span("request"), bind(user_id="ann", session_id="s-1"):
            model().invoke([SystemMessage("Be kind."), HumanMessage("May I?")], config={"metadata": {"thread_id": "t"}})

    (row,), (span,) = emitted(exporter, work, otel_user="id")
    request = next(one for one in exporter.get_finished_spans() if one.name == "request")
    assert (span.name, span.kind, span.parent.span_id) == (
        f"chat {row.model}",
        trace.SpanKind.CLIENT,
        request.context.span_id,
    )
    assert (row.span_id, row.trace_id) == (f"{span.context.span_id:016x}", f"{request.context.trace_id:032x}")
    assert abs(span.start_time / 1e9 - row.created_at.timestamp()) < 1e-5
    assert abs(span.end_time / 1e9 - row.finished_at.timestamp()) < 1e-5
    said = dict(span.attributes)
    expected = {
        names.OPERATION: "chat",
        names.REQUEST_MODEL: row.model,
        names.RESPONSE_MODEL: "m-1-2026",
        names.RESPONSE_ID: row.response_id,
        names.FINISH_REASONS: ("stop",),
        names.INPUT_TOKENS: 11,
        names.OUTPUT_TOKENS: 4,
        names.CACHE_READ_TOKENS: 3,
        names.REASONING_TOKENS: 2,
        names.USER: "ann",
        names.SESSION: "s-1",
        names.CONVERSATION: "s-1",
        names.THREAD: "t",
        names.STATUS: "ok",
        names.IDENTITY_SOURCE: "context",
        names.CALL_ID: str(row.call_id),
    }
    assert {name: said.get(name) for name in expected} == {k: v for k, v in expected.items() if v is not None} | {
        name: None for name, value in expected.items() if value is None
    }
    assert not {names.INPUT_MESSAGES, names.OUTPUT_MESSAGES, names.REQUEST_STREAM} & set(said), "texts are opt-in"


def test_failures_streams_and_completions(exporter: InMemorySpanExporter) -> None:
    """An error has its class and no words; a stream says so, and when it began; a completion is one."""

    def work() -> None:
        with pytest.raises(ProviderDown):
            Talker().invoke("[fail]")
        list(Talker().stream("hello"))
        FakeLLM().invoke("hello")

    rows, made = emitted(exporter, work)
    failed, streamed, completed = (dict(span.attributes) for span in made)
    assert failed[names.ERROR_TYPE] == rows[0].error_code == "ProviderDown"
    assert (made[0].status.status_code, made[0].status.description) == (StatusCode.ERROR, "ProviderDown")
    assert streamed[names.REQUEST_STREAM] is True
    assert streamed[names.TIME_TO_FIRST_CHUNK] == rows[1].ttft_ms / 1000
    assert completed[names.OPERATION] == "text_completion"
    assert made[2].name.startswith("text_completion ")


def test_texts_go_along_only_when_asked_for(exporter: InMemorySpanExporter) -> None:
    """As messages with parts, of the redacted snapshots."""

    def work() -> None:
        model().invoke([SystemMessage("Be kind."), HumanMessage("I am ann@example.org. May I?")])

    _, (span,) = emitted(exporter, work, otel_content="span")
    said = {name: json.loads(str(span.attributes[name])) for name in (names.SYSTEM_INSTRUCTIONS, names.INPUT_MESSAGES)}
    assert said[names.SYSTEM_INSTRUCTIONS] == [{"type": "text", "content": "Be kind."}]
    (message,) = said[names.INPUT_MESSAGES]
    assert message["role"] == "user"
    assert "ann@example.org" not in message["parts"][0]["content"]
    (answer,) = json.loads(str(span.attributes[names.OUTPUT_MESSAGES]))
    assert answer == {"role": "assistant", "parts": [{"type": "text", "content": "Yes."}], "finish_reason": "stop"}


def test_texts_as_events(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log records beside a span that has no texts: what was said, and with a failure its words."""
    logs = LoggerProvider()
    kept = InMemoryLogRecordExporter()
    logs.add_log_record_processor(SimpleLogRecordProcessor(kept))
    monkeypatch.setattr(_logs, "get_logger", logs.get_logger)

    def work() -> None:
        with pytest.raises(ProviderDown):
            Talker().invoke("[fail] of ann@example.org")

    _, (span,) = emitted(exporter, work, otel_content="event")
    assert names.INPUT_MESSAGES not in span.attributes
    details, problem = (one.log_record for one in kept.get_finished_logs())
    assert (details.event_name, problem.event_name) == (names.DETAILS, names.EXCEPTION)
    assert "[fail] of" in details.attributes[names.INPUT_MESSAGES]
    assert "ann@example.org" not in details.attributes[names.INPUT_MESSAGES]
    assert problem.attributes[names.EXCEPTION_TYPE] == "ProviderDown"
    assert {details.span_id, problem.span_id} == {span.context.span_id}
    logs.shutdown()


def test_rows_of_unsampled_traces_are_kept_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The span around is not recorded anywhere: the row is, with its ids and a note."""
    provider = TracerProvider(sampler=ALWAYS_OFF)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    sink = MemorySink()
    with CallLog(sink=sink, otel_spans="on"), provider.get_tracer("app").start_as_current_span("request") as around:
        model().invoke("May I?")
    (row,) = sink.records
    assert row.span_id == f"{around.get_span_context().span_id:016x}"
    assert row.attributes is not None
    assert row.attributes["llmctx"]["sampled"] is False


class OtherInstrumentation(BaseCallbackHandler):
    """One of LangChain, as they all are made."""

    def __init__(self, provider: TracerProvider) -> None:
        self.tracer = provider.get_tracer("other.instrumentation")

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.tracer.start_span("chat").end()


def test_no_spans_where_another_instrumentation_makes_them(
    provider: TracerProvider, exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    """Of whichever kind, from its first call on, with one warning: two spans for a call would double its cost."""
    with CallLog(sink=MemorySink(), otel_spans="on") as call_log:
        model().invoke("alone")
        call_log.flush()
        for _ in range(3):
            model().invoke("together", config={"callbacks": [OtherInstrumentation(provider)]})
        call_log.flush()
    scopes = [span.instrumentation_scope.name for span in exporter.get_finished_spans()]
    assert scopes == ["llmctx", *["other.instrumentation"] * 3]
    assert [record.getMessage().count("other.instrumentation") for record in caplog.records] == [1]
    assert spans._watched[provider].seen == "other.instrumentation"


def test_a_row_that_is_made_twice_has_one_span(exporter: InMemorySpanExporter) -> None:
    """The pipeline's thread may die over a call, and take it up again."""
    sink = MemorySink()
    with CallLog(sink=sink, otel_spans="on") as call_log:
        pipeline, made = call_log._worker.pipeline, []
        record = pipeline._record

        def twice(call: Any, **given: Any) -> Any:
            made.append(record(call, **given))
            made.append(record(call, **given))
            return made[-1]

        pipeline._record = twice  # type: ignore[method-assign]  # as after the thread's death
        model().invoke("May I?")
        call_log.flush()
    (span,) = exporter.get_finished_spans()
    assert [one.span_id for one in made] == [f"{span.context.span_id:016x}"] * 2


def test_metrics_where_the_application_has_a_meter_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, units and buckets of the conventions, and llmctx's own; no ids."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    with CallLog(sink=MemorySink()) as call_log, bind(user_id="ann", session_id="s-1"):
        model().invoke("May I?")
        list(model().stream("May I?"))
        with pytest.raises(ProviderDown):
            Talker().invoke("[fail]")
        call_log.flush()
        call_log.observer.refresh()
    data = reader.get_metrics_data()
    assert data is not None
    found = {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    duration = found[names.DURATION]
    assert duration.unit == "s"
    assert sum(point.count for point in duration.data.data_points) == 3
    assert tuple(duration.data.data_points[0].explicit_bounds) == names.SECONDS
    assert {point.attributes.get(names.ERROR_TYPE) for point in duration.data.data_points} == {None, "ProviderDown"}
    assert tuple(found[names.TOKEN_USAGE].data.data_points[0].explicit_bounds) == names.TOKENS
    assert found[names.TOKEN_USAGE].unit == "{token}"
    assert found[names.FIRST_CHUNK].unit == "s"
    assert sum(point.value for point in found["llmctx.calls"].data.data_points) == 3
    assert sum(point.value for point in found["llmctx.rows_written"].data.data_points) == 3
    values = {
        str(value) for metric in found.values() for p in metric.data.data_points for value in p.attributes.values()
    }
    assert not values & {"ann", "s-1"}
    provider.shutdown()
