"""What llmctx adds to a call, against a handler that does nothing and one that appends to a deque.

The same graphless `ainvoke` of a fake model, in interleaved rounds; the figure of a round is the mean of its calls,
the figure of a handler the median of its rounds.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from llmctx.calllog import CallLog
from llmctx.context import bind

ROUNDS = 24
CALLS = 200
MESSAGES = [HumanMessage("How is my blood pressure today? " * 20)]


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


@dataclass
class Series:
    """One way of recording and its rounds, in µs a call."""

    name: str
    handler: BaseCallbackHandler | None = None
    rounds: list[float] = field(default_factory=list)

    @property
    def us(self) -> float:
        return statistics.median(self.rounds)


async def _round(model: BaseChatModel, series: Series) -> float:
    config: Any = {} if series.handler is None else {"callbacks": [series.handler]}
    start = time.perf_counter()
    for _ in range(CALLS):
        await model.ainvoke(MESSAGES, config)
    return (time.perf_counter() - start) / CALLS * 1e6


async def _measure(call_log: CallLog, ways: Iterable[Series], recorder: Series) -> None:
    model = InstantModel()
    with bind(session_id="s-1", user_id="u-1"):
        for number in range(ROUNDS + 2):
            for series in ways:
                took = await _round(model, series)
                if number >= 2:  # the first rounds warm caches
                    series.rounds.append(took)
                if series is recorder:
                    await call_log.aflush(30)  # the writer's share is not this round's, nor the next one's


def run(database_url: str) -> dict[str, Any]:
    """µs a call: without a handler, and what each handler adds."""
    journal = tempfile.TemporaryDirectory(prefix="llmctx-bench-")
    call_log = CallLog(database_url, capture="explicit", journal_dir=journal.name)
    ours = Series("llmctx", call_log.handler)
    ways = [Series("none"), Series("empty", EmptyHandler()), Series("deque", DequeHandler()), ours]
    with journal, call_log:
        asyncio.run(_measure(call_log, ways, ours))
        stats = call_log.stats()
    base = ways[0].us
    added = {series.name: series.us - base for series in ways[1:]}
    return {
        "bare_call_us": base,
        "added_us": added,
        "times_empty": added["llmctx"] / added["empty"],
        "times_deque": added["llmctx"] / added["deque"],
        "rounds": ROUNDS,
        "calls_a_round": CALLS,
        "ledger_balanced": stats.balanced and stats.dropped == 0,
    }
