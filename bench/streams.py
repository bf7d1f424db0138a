"""What recording adds to a stream of 500 tokens; and, on the caller's thread, to a prompt of a megabyte."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from typing import Any, Final

from langchain_core.messages import HumanMessage

from bench.calls import with_ratio
from bench.paired import measure
from bench.workloads import InstantModel
from llmctx import bind
from llmctx.calllog import CallLog

ROUNDS: Final = 12
LARGE: Final = 1_000_000
PROMPTS: Final = 20


async def _prompts(config: Any) -> float:
    """CPU of the caller's thread, in µs a call."""
    model, spent = InstantModel(), 0.0
    for number in range(PROMPTS):
        messages = [HumanMessage(f"{number}" + "How is my blood pressure today? " * (LARGE // 32))]
        begin = time.thread_time()
        await model.ainvoke(messages, config)
        spent += time.thread_time() - begin
    return spent / PROMPTS * 1e6


async def _large(call_log: CallLog) -> float:
    added = []
    with bind(session_id="s-1", user_id="u-1"):
        for _ in range(ROUNDS):
            none, ours = await _prompts({}), await _prompts({"callbacks": [call_log.handler]})
            await call_log.aflush(30)
            added.append(ours - none)
    return statistics.median(added[2:])


def run(database_url: str) -> dict[str, Any]:
    """Return `paired.measure` of streams, and µs that a megabyte of prompt adds to its call."""
    with (
        tempfile.TemporaryDirectory(prefix="llmctx-bench-") as journal,
        CallLog(database_url, capture="explicit", journal_dir=journal) as call_log,
    ):
        large = asyncio.run(_large(call_log))
    streams = measure("streams of 500 tokens", ("deque", "llmctx"), database_url)
    return {**with_ratio(streams), "megabyte_us": large}
