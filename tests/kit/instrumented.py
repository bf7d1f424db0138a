"""The same work under one instrumentation of LangChain after another, with `LlmctxSpanProcessor`: what their spans say.

    python -m tests.kit.instrumented official openinference openllmetry

Prints a JSON object: instrumentation -> its spans, as [name, attributes], and the call_ids of the
rows. In a process of its own, for not all of them can be taken back.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.graph import wrap_graph
from llmctx.otel import LlmctxSpanProcessor
from tests.kit.support import Talker

sink = MemorySink()
call_log = CallLog(sink=sink, otel_user="id")
exporter = InMemorySpanExporter()


class Named(Talker):
    """A model with the name without which the official instrumentation makes no span."""

    model_name: str = "talker"


model = Named()


def official() -> Any:
    from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor

    return LangChainInstrumentor()


def openinference() -> Any:
    from openinference.instrumentation.langchain import LangChainInstrumentor

    return LangChainInstrumentor()


def openllmetry() -> Any:
    from opentelemetry.instrumentation.langchain import LangchainInstrumentor

    return LangchainInstrumentor()


def work() -> None:
    """Call a model in every way: alone, in graphs with a name, in a chain and a tool of a node."""

    @tool
    def ask(question: str) -> str:
        """Ask."""
        return str(model.invoke(question).content)

    def node(state: MessagesState) -> Any:
        return {"messages": [(RunnableLambda(lambda text: text) | model).invoke("hello"), ask.invoke("hello")]}

    async def async_node(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"][-1:])]}

    given: Any = {"messages": [("user", "hello")]}
    with bind(agent_key="desk"):
        model.invoke("hello")
        asyncio.run(model.ainvoke("hello"))
        list(model.stream("hello"))
    for wrapped in (node, async_node):
        graph = StateGraph(MessagesState).add_node("one", wrapped).add_edge(START, "one").compile(name="desk")
        asyncio.run(wrap_graph(graph).ainvoke(given))


def seen() -> dict[str, Any]:
    """Return the spans and the rows since the last look."""
    call_log.flush()
    rows = [str(row.call_id) for row in sink.records]
    spans = [[span.name, dict(span.attributes or {})] for span in exporter.get_finished_spans()]
    sink.records.clear()
    exporter.clear()
    return {"rows": rows, "spans": spans}


def main(names: list[str]) -> None:
    provider = TracerProvider()
    provider.add_span_processor(LlmctxSpanProcessor(call_log))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    found = {}
    with call_log:
        for name in names:
            instrumentor = globals()[name]()
            instrumentor.instrument(tracer_provider=provider)
            with bind(user_id="ann", session_id="s-1"):
                work()
            instrumentor.uninstrument()
            found[name] = seen()
    print(json.dumps(found, default=str), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
