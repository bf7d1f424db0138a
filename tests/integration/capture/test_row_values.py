"""What a row says of its call, through the real clients: when it first spoke, what it cost, what an error carried."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.callbacks import CallbackManager
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.rate_limiters import BaseRateLimiter, InMemoryRateLimiter
from langchain_google_genai import ChatGoogleGenerativeAI
from langchain_openai import ChatOpenAI, OpenAI
from openai import APIError
from pydantic import BaseModel

from llmctx.calllog import CallLog
from llmctx.core.record import CallRecord
from llmctx.delivery.memory_sink import MemorySink
from tests.kit.wire import Wire, wired

PAUSE = 0.25
pytestmark = pytest.mark.filterwarnings("ignore")  # the clients leave connections open


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with wired() as opened:
        yield opened


@pytest.fixture(scope="module")
def sink() -> Iterator[MemorySink]:
    kept = MemorySink()
    with CallLog(sink=kept, linger_ms=0, content="full"):
        yield kept


async def one_row(sink: MemorySink, within_s: float = 60) -> CallRecord:
    """The row that comes of the call, as soon as it does."""
    async with asyncio.timeout(within_s):
        while not sink.records:
            await asyncio.sleep(0.01)
    (row,) = sink.records
    sink.records = []
    return row


def openai(wire: Wire, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="gpt-4o-mini", api_key="x", base_url=f"{wire.url}/v1", max_retries=0, stream_usage=True, **more
    )


class Choiceless(FakeListChatModel):
    """A service that was paid and sends a list of choices without any, as gateways do."""

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        usage = {"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10}
        return ChatResult(generations=[], llm_output={"token_usage": usage})


async def test_an_answer_without_a_choice_is_an_error(sink: MemorySink) -> None:
    """LangChain reports the end of the call before it raises."""
    with pytest.raises(IndexError):
        await asyncio.to_thread(Choiceless(responses=[""]).invoke, "hi")
    row = await one_row(sink)
    assert (row.status, row.error_code, row.prompt_tokens) == ("error", "empty_answer", 10)


# -- time to first token ----------------------------------------------------------------------------------------------


def chunk(**delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


CALL = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}
USAGE = {"input_tokens": 3, "output_tokens": 1}
START = {"type": "message_start", "message": {"id": "msg", "type": "message", "role": "assistant", "model": "m",
         "content": [], "stop_reason": None, "stop_sequence": None, "usage": USAGE}}  # fmt: skip
END = [{"type": "content_block_stop", "index": 0}, {"type": "message_delta", "delta": {"stop_reason": "end_turn"},
       "usage": USAGE}, {"type": "message_stop"}]  # fmt: skip
RESPONSE = {"id": "resp", "object": "response", "created_at": 1, "model": "m", "output": [], "tool_choice": "auto",
            "parallel_tool_calls": True, "tools": [], "status": "in_progress"}  # fmt: skip
REASONING = {"type": "reasoning", "id": "rs", "summary": []}


def anthropic_block(kind: str, delta: str) -> list[Any]:
    return [
        START, {"type": "ping"}, {"type": "content_block_start", "index": 0, "content_block": {"type": kind, kind: ""}},
        PAUSE, {"type": "content_block_delta", "index": 0, "delta": {"type": delta, delta.split("_")[0]: "x"}}, *END,
    ]  # fmt: skip


STREAMS: dict[str, tuple[str, list[Any]]] = {
    "text": ("openai", [chunk(role="assistant", content=""), PAUSE, chunk(content="x"), "[DONE]"]),
    "tool call": ("openai", [chunk(role="assistant", content=None), PAUSE, chunk(tool_calls=[CALL]), "[DONE]"]),
    "refusal": ("openai", [chunk(role="assistant", content="", refusal=None), PAUSE, chunk(content="x"), "[DONE]"]),
    "empty chunk": ("openai", [{**chunk(), "choices": []}, chunk(content=""), PAUSE, chunk(content="x"), "[DONE]"]),
    "anthropic text": ("anthropic", anthropic_block("text", "text_delta")),
    "anthropic thinking": ("anthropic", anthropic_block("thinking", "thinking_delta")),
    "responses": ("responses", [
        {"type": "response.created", "sequence_number": 0, "response": RESPONSE},
        {"type": "response.in_progress", "sequence_number": 1, "response": RESPONSE},
        {"type": "response.output_item.added", "sequence_number": 2, "output_index": 0, "item": REASONING},
        PAUSE,
        {"type": "response.output_text.delta", "sequence_number": 3, "output_index": 1, "content_index": 0,
         "item_id": "msg", "delta": "x", "logprobs": []},
        {"type": "response.completed", "sequence_number": 4, "response": {**RESPONSE, "status": "completed"}},
    ]),
    "google": ("google", [
        {"usageMetadata": {"promptTokenCount": 3}, "candidates": [{"content": {"role": "model"}}]},
        PAUSE, {"candidates": [{"content": {"role": "model", "parts": [{"text": "x"}]}, "finishReason": "STOP"}]},
    ]),
}  # fmt: skip


def client(maker: str, wire: Wire) -> Any:
    if maker == "anthropic":
        return ChatAnthropic(model="m", api_key="x", base_url=wire.url, max_retries=0, max_tokens=9)
    if maker == "google":
        return ChatGoogleGenerativeAI(model="m", api_key="x", base_url=wire.url, max_retries=0)
    return openai(wire, use_responses_api=maker == "responses", output_version="v1" if maker == "responses" else None)


@pytest.mark.parametrize("way", ["astream", "stream", "v3"])
@pytest.mark.parametrize("case", STREAMS)
async def test_the_first_token_is_the_first_content(case: str, way: str, wire: Wire, sink: MemorySink) -> None:
    """Not a role frame, a `message_start`, a ping, an empty chunk or an empty block."""
    maker, wire.events = STREAMS[case]
    model = client(maker, wire)
    if way == "stream":
        await asyncio.to_thread(lambda: list(model.stream("hi")))
    elif way == "astream":
        assert [one async for one in model.astream("hi")]
    elif maker != "google":  # whose client has no such events yet
        await asyncio.to_thread(lambda: list(model.stream_events("hi", version="v3")))
    else:
        return
    row = await one_row(sink)
    assert row.status == "ok", row.error_message
    assert row.ttft_ms is not None
    assert PAUSE * 1000 <= row.ttft_ms <= (row.latency_ms or 0)


async def test_a_stream_of_events_that_breaks_keeps_what_it_said(wire: Wire, sink: MemorySink) -> None:
    """LangChain hands over nothing of it: its text, and the arguments of a tool as far as they came."""
    begun = {**CALL, "function": {"name": "f", "arguments": '{"city": "Ro'}}
    wire.events = [chunk(content="He"), chunk(content="llo"), chunk(tool_calls=[begun]), {"error": {"message": "no"}}]
    with pytest.raises(APIError):
        await asyncio.to_thread(lambda: list(openai(wire).stream_events("hi", version="v3")))
    row = await one_row(sink)
    assert (row.status, row.error_message) == ("error", "no")
    assert '"content":"Hello"' in (row.response_snapshot or "")
    assert r"{\"city\": \"Ro" in (row.response_snapshot or "")


# -- answers in exceptions --------------------------------------------------------------------------------------------


class Joke(BaseModel):
    setup: str
    punchline: str


HALF = '{"setup": "Why did'


def completion(finish: str, **usage: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": HALF, "refusal": None}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini-2024-07-18",
        "service_tier": "default", "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 50, "completion_tokens": 5, "total_tokens": 55, **usage},
    }  # fmt: skip


INCOMPLETE = {
    **RESPONSE, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"},
    "output": [{"type": "message", "id": "msg", "status": "incomplete", "role": "assistant",
                "content": [{"type": "output_text", "text": HALF, "annotations": []}]}],
    "usage": {"input_tokens": 50, "output_tokens": 5, "total_tokens": 55, "input_tokens_details": {"cached_tokens": 0},
              "output_tokens_details": {"reasoning_tokens": 0}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "error", "finish"),
    [
        (completion("length"), "LengthFinishReasonError", "length"),
        (completion("content_filter"), "ContentFilterFinishReasonError", "content_filter"),
        (completion("stop"), "ValidationError", "stop"),
        (INCOMPLETE, "ValidationError", "max_output_tokens"),
    ],
    ids=["length", "filter", "cut JSON", "responses"],
)
async def test_an_answer_in_an_exception_is_read(
    body: Any, error: str, finish: str, wire: Wire, sink: MemorySink
) -> None:
    """It was paid for: its tokens, finish reason, id and text are in the row, which is an error all the same."""
    wire.body = body
    model = openai(wire, use_responses_api="output" in body).with_structured_output(Joke, method="json_schema")
    with pytest.raises(Exception, match=r"parse|JSON"):
        await model.ainvoke("a joke")
    row = await one_row(sink)
    assert (row.status, row.error_code, row.finish_reason) == ("error", error, finish)
    assert (row.prompt_tokens, row.completion_tokens, row.total_tokens) == (50, 5, 55)
    assert (row.response_id, row.response_model) == (body["id"], body["model"])
    assert "Why did" in (row.response_snapshot or "")


# -- money ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "headers", "cost"),
    [
        ({"cost": 0.00417}, {}, "0.00417"),
        ({"cost": 0}, {}, "0"),
        ({"cost": 0.0001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.004}}, {}, "0.0041"),
        ({"cost": {"input_tokens_cost": 1, "total_cost": 0.00609}}, {}, "0.00609"),
        ({"cost_in_usd_ticks": 6696500}, {}, "0.00066965"),
        ({"estimated_cost": 2e-6}, {}, "0.000002"),
        ({}, {"x-litellm-response-cost": "3.5e-06"}, "0.0000035"),
    ],
)
async def test_what_the_provider_reports_is_the_cost(
    usage: Any, headers: dict[str, str], cost: str, wire: Wire, sink: MemorySink
) -> None:
    """OpenRouter, with and without a key of one's own; Perplexity, xAI, DeepInfra, LiteLLM's proxy."""
    wire.body, wire.headers = completion("stop", **usage), headers
    await openai(wire, include_response_headers=True).ainvoke("hi")
    wire.headers = {}
    row = await one_row(sink)
    assert (row.cost_usd, row.cost_source) == (Decimal(cost), "provider")


async def test_a_gateway_names_the_model_that_answered(wire: Wire, sink: MemorySink) -> None:
    """And the tier in which it did; the price is that of the tier."""
    costs = []
    for tier in ("default", "flex", "unheard-of"):
        wire.body = {**completion("stop"), "service_tier": tier}
        await openai(wire).ainvoke("hi")
        row = await one_row(sink)
        assert (row.response_model, row.response_id, row.service_tier) == ("gpt-4o-mini-2024-07-18", "chatcmpl-1", tier)
        costs.append(row.cost_usd)
    assert costs[0] == 2 * (costs[1] or 0) != 0
    assert costs[2] is None


# -- figures of several calls -----------------------------------------------------------------------------------------


async def test_the_sum_of_a_batch_is_no_calls_own(wire: Wire, sink: MemorySink) -> None:
    """A completion model answers several prompts at once, and reports their sum."""
    choices = [{"index": n, "text": f"t{n}", "finish_reason": "stop", "logprobs": None} for n in range(2)]
    wire.body = {**completion("stop"), "object": "text_completion", "choices": choices}
    model = OpenAI(api_key="x", base_url=f"{wire.url}/v1", max_retries=0)
    await model.agenerate(["one", "two"])
    async with asyncio.timeout(60):
        while len(sink.records) < 2:
            await asyncio.sleep(0.01)
    rows, sink.records = sink.records, []
    assert [(row.prompt_tokens, row.total_tokens, row.cost_usd) for row in rows] == [(None, None, None)] * 2
    assert {row.usage_source.partition(":")[0] for row in rows if row.usage_source} == {"missing"}
    assert [(row.attributes or {}).get("llmctx_shared_usage") for row in rows].count(2) == 1


class Router(FakeListChatModel):
    """A model that asks another one, and reports what that has used."""

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        used: Any = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        inner = FakeListChatModel(responses=["x"])
        below = CallbackManager(run_manager.handlers, parent_run_id=run_manager.run_id)
        inner.invoke(messages, {"callbacks": below})
        inner.invoke(messages, {"callbacks": below})
        return ChatResult(generations=[ChatGeneration(message=AIMessage("x", usage_metadata=used))])


async def test_the_sum_of_inner_calls_is_no_calls_own(sink: MemorySink) -> None:
    """It stands in the rows of those that were made."""
    Router(responses=["x"]).invoke("hi")
    async with asyncio.timeout(60):
        while len(sink.records) < 3:
            await asyncio.sleep(0.01)
    rows, sink.records = sink.records, []
    (outer,) = [row for row in rows if row.parent_run_id is None]
    assert outer.total_tokens is None
    assert (outer.attributes or {})["llmctx_shared_usage"] == 3


# -- streams that end before their first chunk ------------------------------------------------------------------------


class Quota(BaseRateLimiter):
    """Refuses."""

    def acquire(self, *, blocking: bool = True) -> bool:
        raise RuntimeError("quota")

    async def aacquire(self, *, blocking: bool = True) -> bool:
        raise RuntimeError("quota")


def limited() -> FakeListChatModel:
    limiter = InMemoryRateLimiter(requests_per_second=0.001, check_every_n_seconds=0.01)
    return FakeListChatModel(responses=["x"], rate_limiter=limiter)


class NeverFree(BaseRateLimiter):
    """Lets no call pass, and says when one waits."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def acquire(self, *, blocking: bool = True) -> bool:
        raise NotImplementedError

    async def aacquire(self, *, blocking: bool = True) -> bool:
        self.asked.set()
        return await asyncio.Event().wait()


async def read(model: Any) -> None:
    async for _ in model.astream("hi"):
        pass


async def cancel() -> None:
    limiter = NeverFree()
    task = asyncio.create_task(read(FakeListChatModel(responses=["x"], rate_limiter=limiter)))
    await limiter.asked.wait()
    task.cancel()


async def wait_for() -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(limited()), 0.05)


async def timeout_in_the_task() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await read(limited())


async def refuse() -> None:
    task = asyncio.create_task(read(FakeListChatModel(responses=["x"], rate_limiter=Quota())))
    await asyncio.wait({task})
    assert isinstance(task.exception(), RuntimeError)


async def refuse_in_a_thread() -> None:
    def sync() -> None:
        with pytest.raises(RuntimeError):
            list(FakeListChatModel(responses=["x"], rate_limiter=Quota()).stream("hi"))

    thread = threading.Thread(target=sync)
    thread.start()
    await asyncio.to_thread(thread.join)


@pytest.mark.parametrize(
    ("end", "status"),
    [(cancel, "cancelled"), (wait_for, "cancelled"), (timeout_in_the_task, "cancelled"), (refuse, "error"),
     (refuse_in_a_thread, "cancelled")],
)  # fmt: skip
async def test_a_stream_that_ends_before_its_first_chunk(end: Any, status: str, sink: MemorySink) -> None:
    """At a rate limiter LangChain reports no end. It is seen within seconds."""
    await end()
    row = await one_row(sink)
    assert (row.status, row.streamed, row.ttft_ms) == (status, True, None)


async def test_a_stream_that_waits_long_is_let_wait(sink: MemorySink) -> None:
    """Whatever looks for calls that were cut off, this one was not."""
    limiter = InMemoryRateLimiter(requests_per_second=0.5, check_every_n_seconds=0.05)
    model = FakeListChatModel(responses=["x"], rate_limiter=limiter)
    await asyncio.gather(read(model), asyncio.to_thread(lambda: list(model.stream("hi"))))
    async with asyncio.timeout(60):
        while len(sink.records) < 2:
            await asyncio.sleep(0.01)
    assert {row.status for row in sink.records} == {"ok"}
    sink.records = []
