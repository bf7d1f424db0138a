"""The same work with some tracers at once, with llmctx before them, after them or without it: what each has seen."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph

from tests.kit.models import FakeLLM
from tests.kit.support import Talker

Seen = Callable[[], Any]


def _names(spans: Any) -> dict[str, int]:
    return dict(sorted(Counter(f"{span.name} {span.parent is not None}" for span in spans).items()))


def _provider() -> tuple[Any, Any]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


provider, exporter = _provider()
tracer = provider.get_tracer("work")


def otel_threading() -> Seen:
    from opentelemetry.instrumentation.threading import ThreadingInstrumentor

    ThreadingInstrumentor().instrument()
    return lambda: _names(exporter.get_finished_spans())


def openinference() -> Seen:
    from openinference.instrumentation.langchain import LangChainInstrumentor

    own, spans = _provider()
    LangChainInstrumentor().instrument(tracer_provider=own)
    return lambda: _names(spans.get_finished_spans())


def langfuse() -> Seen:
    from langfuse import Langfuse
    from langfuse.langchain import CallbackHandler

    own, spans = _provider()
    Langfuse(public_key="pk-lf-1", secret_key="sk-lf-1", tracer_provider=own)
    handlers.append(CallbackHandler(public_key="pk-lf-1"))
    return lambda: _names(spans.get_finished_spans())


def sentry() -> Seen:
    import sentry_sdk

    sent: list[Any] = []
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        traces_sample_rate=1.0,
        before_send_transaction=lambda event, hint: sent.append(event),
    )
    return lambda: dict(
        sorted(Counter(f"{event['transaction']} {len(event.get('spans', ()))}" for event in sent).items())
    )


def ddtrace() -> Seen:
    import ddtrace
    from ddtrace.trace import TraceFilter

    class Kept(TraceFilter):
        spans: ClassVar[list[Any]] = []

        def process_trace(self, trace: Any) -> Any:
            self.spans.extend(trace)
            return None

    kept = Kept()
    ddtrace.tracer.configure(trace_processors=[kept])
    ddtrace.patch(langchain=True, langgraph=True, futures=True, asyncio=True)
    return lambda: dict(sorted(Counter(f"{span.name} {span.parent_id is not None}" for span in kept.spans).items()))


handlers: list[Any] = []
model, completer = Talker(), FakeLLM()
CALLS = 8


def _node(state: MessagesState) -> Any:
    return {"messages": [model.invoke(state["messages"][-1:])]}


async def _a_node(state: MessagesState) -> Any:
    with tracer.start_as_current_span("a node"):
        return {"messages": [await model.ainvoke(state["messages"][-1:])]}


def _in(span: str, work: Callable[[], Any]) -> None:
    with tracer.start_as_current_span(span):
        work()


def work() -> None:
    """Do what an application does: a graph, chains, threads, pools; each of it in a span of the application's."""
    import sentry_sdk

    graph = StateGraph(MessagesState).add_node("one", _node).add_node("two", _a_node)
    compiled = graph.add_edge(START, "one").compile()
    later = StateGraph(MessagesState).add_node("two", _a_node).add_edge(START, "two").compile()
    config: Any = {"callbacks": handlers}
    given = {"messages": [("user", "hello")]}
    with sentry_sdk.start_transaction(name="request"), tracer.start_as_current_span("request"):
        compiled.invoke(given, config)
        asyncio.run(later.ainvoke(given, config))
        (RunnableLambda(lambda x: x) | model).invoke("hello", config)
        list(model.stream("hello", config))
        completer.invoke("hello", config)
        asyncio.run(completer.ainvoke("hello", config))
        thread = threading.Thread(target=_in, args=("thread", lambda: model.invoke("hello", config)))
        thread.start()
        thread.join()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(_in, "pool", lambda: model.invoke("hello", config)).result()


def main(when: str, names: list[str]) -> None:
    from llmctx import bind
    from llmctx.calllog import CallLog
    from llmctx.delivery.memory_sink import MemorySink

    call_log = CallLog(sink=(sink := MemorySink()), carry=True)
    if when == "first":
        call_log.start()
    seen = {name: globals()[name]() for name in names}
    if when == "last":
        call_log.start()
    with bind(user_id="u", session_id="s"):
        work()
    if when != "without":
        call_log.close()
    report = {name: look() for name, look in seen.items()}
    report["calls"] = CALLS
    if when != "without":
        report["rows"] = [[row.user_id, row.session_id] for row in sink.records]
    print(json.dumps(report), flush=True)


main(sys.argv[1], sys.argv[2:])
