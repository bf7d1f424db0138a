"""What recording adds to a streamed token, and to a prompt of a megabyte; CPU of the caller's thread, in µs."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk

from bench.calls import DequeHandler, EmptyHandler, InstantModel, Series
from llmctx import bind
from llmctx.calllog import CallLog

ROUNDS: Final = 24
TOKENS: Final = 400
STREAMS: Final = 5
LARGE: Final = 1_000_000
PROMPTS: Final = 20


class TokenModel(InstantModel):
    """Streams as fast as it can."""

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        run_manager = kwargs.get("run_manager")
        for number in range(TOKENS):
            chunk = ChatGenerationChunk(message=AIMessageChunk("token "))
            if number == TOKENS - 1:
                chunk.message.response_metadata = {"finish_reason": "stop"}
            if run_manager is not None:
                await run_manager.on_llm_new_token("token ", chunk=chunk)
            yield chunk


class TokenDeque(DequeHandler):
    """Appends each token, too."""

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.events.append(token)


class TokenEmpty(EmptyHandler):
    def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None: ...


async def _stream(series: Series) -> float:
    model = TokenModel()
    begin = time.thread_time()
    for _ in range(STREAMS):
        async for _chunk in model.astream("Tell me.", series.config):
            pass
    return (time.thread_time() - begin) / STREAMS / TOKENS * 1e6


async def _prompt(series: Series) -> float:
    model, spent = InstantModel(), 0.0
    for number in range(PROMPTS):
        messages = [HumanMessage(f"{number}" + "How is my blood pressure today? " * (LARGE // 32))]
        begin = time.thread_time()
        await model.ainvoke(messages, series.config)
        spent += time.thread_time() - begin
    return spent / PROMPTS * 1e6


async def _measure(
    call_log: CallLog, ways: list[Series], one: Callable[[Series], Awaitable[float]]
) -> dict[str, float]:
    found: dict[str, list[float]] = {series.name: [] for series in ways}
    with bind(session_id="s-1", user_id="u-1"):
        for number in range(ROUNDS + 2):
            for series in ways[number % len(ways) :] + ways[: number % len(ways)]:
                took = await one(series)
                if series.handler is call_log.handler:
                    await call_log.aflush(30)
                if number >= 2:
                    found[series.name].append(took)
    return {
        name: statistics.median(ours - none for ours, none in zip(rounds, found["none"], strict=True))
        for name, rounds in found.items()
        if name != "none"
    }


def run(database_url: str) -> dict[str, Any]:
    """µs that each handler adds to a token, and to a call with a megabyte of prompt."""
    with tempfile.TemporaryDirectory(prefix="llmctx-bench-") as journal:
        call_log = CallLog(database_url, capture="explicit", journal_dir=journal)
        ways = [
            Series("none"),
            Series("empty", TokenEmpty()),
            Series("deque", TokenDeque()),
            Series("llmctx", call_log.handler),
        ]
        with call_log:
            tokens = asyncio.run(_measure(call_log, ways, _stream))
            prompts = asyncio.run(_measure(call_log, ways, _prompt))
    return {
        "token_us": tokens,
        "token_times_deque": tokens["llmctx"] / tokens["deque"],
        "megabyte_us": prompts,
        "rounds": ROUNDS,
    }
