"""Calls of the public API as users write them. Must type-check; never executed."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from langchain.agents.middleware import AgentMiddleware
from langgraph.graph import MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from opentelemetry.sdk.trace import SpanProcessor
from prometheus_client import CollectorRegistry
from starlette.requests import HTTPConnection

from llmctx import CallContext, amend, bind, carry, current, hand_over, take_over
from llmctx.calllog import CallLog, Stats
from llmctx.capture.handler import CallLogHandler
from llmctx.core.record import CallRecord
from llmctx.delivery.memory_sink import MemorySink
from llmctx.graph import wrap_graph, wrap_node
from llmctx.graph.agents import LlmctxMiddleware
from llmctx.identity.registry import Entry, MemoryRegistry, Registry
from llmctx.middleware import ContextMiddleware
from llmctx.otel import LlmctxSpanProcessor
from llmctx.prometheus import metrics_app
from llmctx.testing.captured import CapturedCalls, captured_calls

sink = MemorySink()
registry: Registry = MemoryRegistry(entries=10, ttl_s=60.0)
call_log: CallLog = CallLog("postgresql+asyncpg://app@localhost/app", registry=registry, batch_rows=100)
with_sink = CallLog(sink=sink, capture="explicit")
app = FastAPI(lifespan=call_log.lifespan)


async def who(conn: HTTPConnection) -> CallContext | None:
    return CallContext(user_id=conn.headers.get("x-user"))


def who_sync(conn: HTTPConnection) -> CallContext | None:
    return None


app.add_middleware(ContextMiddleware, identify=who)
app.add_middleware(ContextMiddleware, identify=who_sync)
app.add_middleware(ContextMiddleware)


def node(state: MessagesState) -> dict[str, Any]:
    return {}


builder: StateGraph[MessagesState] = wrap_graph(StateGraph(MessagesState))
builder.add_node("a", wrap_node(node, agent_key="triage"))
graph: CompiledStateGraph[Any, Any, Any, Any] = wrap_graph(builder.compile(), fields={"user_id": "patient"})

with bind(session_id="s", user_id="u") as identity:
    user: str | None = identity.user_id
    amended: CallContext = amend(user_id="u")
    now: CallContext = current()
    token: str = hand_over(ttl_s=60)

with take_over(token, on_invalid="anonymous") as taken:
    session: str | None = taken.session_id


@carry
def shorten(text: str) -> str:
    return text[:10]


short: str = shorten("text")
handler: CallLogHandler = call_log.handler
own = CallLogHandler(context=CallContext(user_id="u"))

with call_log.record(model="m", prompt="p") as call:
    call.set(response="r", prompt_tokens=1)

left: int = call_log.flush(1.0)
stats: Stats = call_log.stats()
entry: Entry | None = registry.get(thread_id="t")
records: list[CallRecord] = sink.records


with captured_calls(carry=True) as calls:
    captured: list[CallRecord] = calls.records
    calls.assert_all_attributed()


def test_with_the_fixture(llm_calls: CapturedCalls) -> None:
    captured.extend(llm_calls.unattributed)


async def main() -> int:
    async with captured_calls() as others:
        others.assert_all_attributed()
    async with call_log:
        return await call_log.aflush()


spans: SpanProcessor = LlmctxSpanProcessor(call_log)
metered = CallLog(prometheus=CollectorRegistry())
app.mount("/metrics", metrics_app(call_log))
app.mount("/own-metrics", metrics_app(call_log, registry=CollectorRegistry()))
in_agents: AgentMiddleware[Any, Any] = LlmctxMiddleware(fields={"user_id": "patient"}, agent_key="desk")
