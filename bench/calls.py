"""What recording adds to a call, against handlers that do nothing, append to a deque, or note each start in a file.

The same fake model that answers at once, called in three ways: one call after another, 200 at once in LangGraph, and
from four threads. Interleaved rounds; a round's figure is the mean of its calls, a handler's the median of its rounds.
Wall time is that of the calls; CPU is that of all threads until the rows are in PostgreSQL.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import struct
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import uuid_utils
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig
from langgraph.graph import MessagesState, StateGraph

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.identity.carry import carry
from llmctx.identity.scope import current_scope

ROUNDS: Final = 24
CALLS: Final = 200
THREADS: Final = 4
MESSAGES: Final = [HumanMessage("How is my blood pressure today? " * 20)]


class InstantModel(BaseChatModel):
    """Answers at once: what is measured is everything around it."""

    @property
    def _llm_type(self) -> str:
        return "instant"

    def _answer(self) -> ChatResult:
        usage = {"input_tokens": 120, "output_tokens": 8, "total_tokens": 128}
        message = AIMessage("It is fine.", usage_metadata=usage, response_metadata={"model_name": "instant-1"})
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return self._answer()

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return self._answer()


class EmptyHandler(BaseCallbackHandler):
    """Inline, and does nothing: LangChain's own share."""

    run_inline = True

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None: ...

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None: ...


class DequeHandler(BaseCallbackHandler):
    """Inline, and appends what it gets: the least that a recorder can do."""

    run_inline = True

    def __init__(self) -> None:
        self.events: deque[Any] = deque(maxlen=1000)

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.events.append((time.time(), kwargs["run_id"]))

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.events.append((time.time(), kwargs["run_id"]))


class NotingHandler(DequeHandler):
    """Notes each start in a file, with an id and the current scope: the least that survives `kill -9`."""

    def __init__(self, file: int) -> None:
        super().__init__()
        self.file = file
        self.open: dict[int, Any] = {}

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        call_id, scope, now, run_id = uuid_utils.uuid7(), current_scope(), time.time(), kwargs["run_id"].int
        self.open[run_id] = call_id, now, time.perf_counter_ns(), scope, messages, kwargs
        frame = struct.pack("<16sd", call_id.bytes, now) + b" " * 100
        os.write(self.file, frame + struct.pack("<I", crc32(frame)))

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.events.append((self.open.pop(kwargs["run_id"].int), response, time.perf_counter_ns()))


@dataclass
class Series:
    """One way of recording and its rounds: wall and CPU, in µs a call."""

    name: str
    handler: BaseCallbackHandler | None = None
    rounds: list[tuple[float, float]] = field(default_factory=list)

    @property
    def config(self) -> RunnableConfig:
        return {} if self.handler is None else {"callbacks": [self.handler]}


Round = Callable[[RunnableConfig], Awaitable[None]]


def _sequential(model: BaseChatModel) -> Round:
    async def run(config: RunnableConfig) -> None:
        for _ in range(CALLS):
            await model.ainvoke(MESSAGES, config)

    return run


def _in_langgraph(model: BaseChatModel) -> Round:
    async def ask(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"], config)]}

    graph = StateGraph(MessagesState).add_node("ask", ask).set_entry_point("ask").compile()

    async def run(config: RunnableConfig) -> None:
        await asyncio.gather(*[graph.ainvoke({"messages": MESSAGES}, config) for _ in range(CALLS)])

    return run


def _in_threads(model: BaseChatModel) -> Round:
    pool = ThreadPoolExecutor(THREADS)

    def some(config: RunnableConfig) -> None:
        for _ in range(CALLS // THREADS):
            model.invoke(MESSAGES, config)

    async def run(config: RunnableConfig) -> None:
        for job in [pool.submit(carry(some), config) for _ in range(THREADS)]:
            job.result()

    return run


WAYS: Final = {"one after another": _sequential, "200 at once in LangGraph": _in_langgraph, "4 threads": _in_threads}


async def _measure(call_log: CallLog, run: Round, ways: list[Series]) -> None:
    with bind(session_id="s-1", user_id="u-1"):
        for number in range(ROUNDS + 2):
            for series in ways[number % len(ways) :] + ways[: number % len(ways)]:
                wall, cpu = time.perf_counter(), time.process_time()
                await run(series.config)
                wall = time.perf_counter() - wall
                if series.handler is call_log.handler:
                    await call_log.aflush(30)
                cpu = time.process_time() - cpu
                if number >= 2:  # the first rounds warm caches
                    series.rounds.append((wall / CALLS * 1e6, cpu / CALLS * 1e6))


def _added(ways: list[Series], which: int) -> dict[str, float]:
    """What each way adds to none, in µs: the median over rounds of the difference in that round."""
    none = [figures[which] for figures in ways[0].rounds]
    return {
        series.name: statistics.median(figures[which] - bare for figures, bare in zip(series.rounds, none, strict=True))
        for series in ways[1:]
    }


def run(database_url: str, **settings: Any) -> dict[str, Any]:
    """For each way of calling: µs a call without a handler, what each handler adds, in wall time and in CPU."""
    model = InstantModel()
    found: dict[str, Any] = {"rounds": ROUNDS, "calls_a_round": CALLS}
    with tempfile.TemporaryDirectory(prefix="llmctx-bench-") as journal:
        call_log = CallLog(database_url, **{"capture": "explicit", "journal_dir": journal, **settings})
        with call_log, (Path(journal) / "noted").open("ab", buffering=0) as file:
            for name, way in WAYS.items():
                ways = [
                    Series("none"),
                    Series("empty", EmptyHandler()),
                    Series("deque", DequeHandler()),
                    Series("noting", NotingHandler(file.fileno())),
                    Series("llmctx", call_log.handler),
                ]
                asyncio.run(_measure(call_log, way(model), ways))
                wall, cpu = _added(ways, 0), _added(ways, 1)
                found[name] = {
                    "bare_us": statistics.median(figures[0] for figures in ways[0].rounds),
                    "added_us": wall,
                    "added_cpu_us": cpu,
                    "times_deque": wall["llmctx"] / wall["deque"],
                }
        stats = call_log.stats()
    found["ledger_balanced"] = stats.balanced and stats.dropped == 0
    return found
