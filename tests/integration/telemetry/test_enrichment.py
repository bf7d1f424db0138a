"""Spans of other instrumentations say whose they are, and which row is theirs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.otel import LlmctxSpanProcessor
from llmctx.settings import load
from llmctx.telemetry import names
from llmctx.telemetry.attributes import user_shown
from tests.kit.support import PlainTalker, Talker

INSTRUMENTATIONS = ("official", "openinference", "openllmetry")
CALLS = 6
PEOPLE = {names.USER: "ann", names.SESSION: "s-1", names.CONVERSATION: "s-1"}


@pytest.fixture(scope="module")
def seen() -> Any:
    """What each instrumentation has seen of the same work."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.kit.instrumented", *INSTRUMENTATIONS],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(400)
@pytest.mark.parametrize("instrumentation", INSTRUMENTATIONS)
def test_spans_of_other_instrumentations_say_whose_they_are(seen: Any, instrumentation: str) -> None:
    """User, session, conversation and agent on all of them; on that of a model call also the row's call_id."""
    spans, rows = seen[instrumentation]["spans"], seen[instrumentation]["rows"]
    assert len(rows) == CALLS
    assert len(spans) > CALLS, "spans of graphs as well"
    for name, attributes in spans:
        assert {key: attributes.get(key) for key in PEOPLE} == PEOPLE, name
        assert attributes.get(names.AGENT) == "desk", name
    linked = [attributes[names.CALL_ID] for _, attributes in spans if names.CALL_ID in attributes]
    assert sorted(linked) == sorted(rows)


def made(call_log: CallLog | None, scope: str, **attributes: str) -> dict[str, Any]:
    """The attributes of a span with `attributes`, of an instrumentation of that name, in ann's scope."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    processor = LlmctxSpanProcessor(call_log)
    provider.add_span_processor(processor)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with bind(user_id="ann", session_id="s-1"):
        provider.get_tracer(scope).start_span("one", attributes=attributes).end()
    provider.shutdown()
    (span,) = exporter.get_finished_spans()
    return dict(span.attributes or {})


def test_the_user_is_hashed_unless_a_setting_says_otherwise() -> None:
    """By default a keyed hash, the same in every process with the same key; with "off" nothing."""
    about = {"gen_ai.operation.name": "chat"}
    users = {}
    for how in ("hash", "id", "off"):
        call_log = CallLog(sink=MemorySink(), otel_user=how, otel_key="k" * 32)
        with call_log:
            users[how] = made(call_log, "some.instrumentation", **about).get(names.USER)
        assert user_shown(call_log.settings)("ann") == users[how]
    other = CallLog(sink=MemorySink(), otel_key="another" * 8)
    assert users["id"] == "ann"
    assert users["off"] is None
    assert users["hash"] not in (None, "ann", user_shown(other.settings)("ann"))


def test_a_rotated_password_changes_no_hash() -> None:
    """Where no key is set, that of the hash is made of where the database is, not of how one gets in."""
    hashes = {
        user_shown(load(database_url=f"postgresql://{who}@db/shop"))("ann")
        for who in ("app:old", "app:new", "reader:other")
    }
    assert len(hashes) == 1
    assert user_shown(load(database_url="postgresql://app:old@db/another"))("ann") not in hashes


def test_spans_that_are_about_no_model_are_left_alone() -> None:
    """Those of HTTP and SQL; and what an instrumentation has said itself stays as it is."""
    with CallLog(sink=MemorySink(), otel_user="id") as call_log:
        assert made(call_log, "opentelemetry.instrumentation.fastapi", **{"http.route": "/"}) == {"http.route": "/"}
        own = {"gen_ai.operation.name": "chat", names.USER: "bob"}
        assert made(call_log, "some.instrumentation", **own)[names.USER] == "bob"
        assert made(call_log, "logfire.openai")[names.USER] == "ann"


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_span_of_a_providers_client_is_that_of_the_call_that_asks_it(streamed: bool) -> None:
    """Logfire's of OpenAI and its like: they begin inside of LangChain's model. Its request by HTTP says nothing."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()

    def ask() -> None:
        with provider.get_tracer("logfire.openai").start_as_current_span("chat"):
            provider.get_tracer("opentelemetry.instrumentation.httpx").start_span("POST").end()

    class Asking(PlainTalker):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            ask()
            return super()._generate(*args, **kwargs)

        async def _astream(self, *args: Any, **kwargs: Any) -> Any:
            ask()
            async for chunk in Talker._astream(self, *args, **kwargs):
                yield chunk

    with CallLog(sink=(sink := MemorySink())) as call_log, bind(user_id="ann", session_id="s-1"):
        provider.add_span_processor(LlmctxSpanProcessor(call_log))
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        if streamed:
            assert [chunk async for chunk in Asking().astream("hello")]
        else:
            Asking().invoke("hello")
    provider.shutdown()
    http, chat = exporter.get_finished_spans()
    assert not http.attributes
    assert [(chat.attributes or {}).get(names.CALL_ID)] == [str(row.call_id) for row in sink.records]


def test_without_a_call_log_spans_are_as_they_were() -> None:
    """None is started: nothing is put onto a span, and nothing is raised."""
    assert made(None, "openinference.instrumentation.langchain") == {}
