"""Logfire: spans of LangChain, which LangSmith makes in a thread of its own, say whose they are."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.platforms.server import ROOT

PROGRAM = """
import asyncio, json

import logfire
from langchain_core.runnables import RunnableLambda
from langsmith.run_trees import get_cached_client
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.otel import LlmctxSpanProcessor
from tests.kit.support import Talker

call_log, exporter = CallLog(sink=(sink := MemorySink()), otel_user="id"), InMemorySpanExporter()
logfire.configure(
    send_to_logfire=False,
    console=False,
    inspect_arguments=False,
    scrubbing=False,  # or it hides `session.id`, for its name
    additional_span_processors=[LlmctxSpanProcessor(call_log), SimpleSpanProcessor(exporter)],
)
with call_log, bind(user_id="u", session_id="s"):
    for _ in range(3):
        Talker().invoke("hello")
    asyncio.run((RunnableLambda(lambda text: text) | Talker()).ainvoke("hello"))
    get_cached_client().flush()
    logfire.force_flush()
spans = [dict(span.attributes) for span in exporter.get_finished_spans()]
found = [[span.get(name) for name in ("user.id", "session.id", "llmctx.call.id")] for span in spans]
print(json.dumps([found, [str(row.call_id) for row in sink.records]]), flush=True)
"""


def test_spans_in_logfire_say_whose_they_are() -> None:
    """User, session and the row of each call."""
    tracing = dict.fromkeys(("LANGSMITH_TRACING", "LANGSMITH_OTEL_ENABLED", "LANGSMITH_OTEL_ONLY"), "true")
    nowhere = {"LANGSMITH_API_KEY": "none", "LANGSMITH_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **tracing, **nowhere},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found, rows = json.loads(done.stdout.splitlines()[-1])
    assert [one[:2] for one in found] == [["u", "s"]] * 6, "of chains as well"
    assert sorted(one[2] for one in found if one[2]) == sorted(rows)
