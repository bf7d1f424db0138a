"""The calls that are measured: real texts, rounds that are long enough for whatever a recorder has put off.

A fake model answers at once, natively asynchronous: what is measured is everything around it. Prompts are 2 kB, no two
alike, answers 1 kB. Nothing in here knows of llmctx: the same file runs in the environments of other recorders.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

TOKENS: Final = 500
THREADS: Final = 4
NODES: Final = 5
_FILL: Final = (
    "The patient reports that headaches have become less frequent since the dose was changed, that sleep is better, "
    "and that nothing else is new; blood pressure was taken twice and is a little high. "
) * 12
_ANSWER: Final = _FILL[:1024]
_USAGE: Final[Any] = {"input_tokens": 500, "output_tokens": 250, "total_tokens": 750}
MESSAGES: Final[list[BaseMessage]] = [HumanMessage("How is my blood pressure today? " * 20)]
"""Where it does not matter which."""

Config = Callable[..., dict[str, Any]]
"""Makes the config of one call, of its number."""


class InstantModel(BaseChatModel):
    """Answers at once, and streams as fast as it can."""

    model_name: str = "instant-1"
    temperature: float = 0.2
    max_tokens: int = 512

    @property
    def _llm_type(self) -> str:
        return "instant"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "temperature": self.temperature, "max_tokens": self.max_tokens}

    def _answer(self, messages: list[BaseMessage]) -> ChatResult:
        told = {"model_name": self.model_name, "finish_reason": "stop"}
        text = f"{str(messages[-1].content)[:8]} {_ANSWER}"  # no two alike
        message = AIMessage(text, usage_metadata=_USAGE, response_metadata=told)
        usage = {"prompt_tokens": 500, "completion_tokens": 250, "total_tokens": 750}
        output = {"model_name": self.model_name, "token_usage": usage}
        return ChatResult(generations=[ChatGeneration(message=message)], llm_output=output)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return self._answer(messages)

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return self._answer(messages)

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for _ in range(TOKENS - 1):
            yield ChatGenerationChunk(message=AIMessageChunk("ab"))
        yield ChatGenerationChunk(message=AIMessageChunk("ab", chunk_position="last", usage_metadata=_USAGE))


class Workload(NamedTuple):
    """One way of calling."""

    calls: int
    """LLM calls in a round."""
    prepare: Callable[[int, int], Callable[[Config], Awaitable[None]]]
    """Make a round of so many calls, whose numbers begin there: all that is not to be measured."""


def _prompts(calls: int, first: int) -> list[list[BaseMessage]]:
    return [
        [SystemMessage("You are terse."), HumanMessage(f"{number:08d} {_FILL}"[:2048])]
        for number in range(first, first + calls)
    ]


def _sequential(calls: int, first: int) -> Callable[[Config], Awaitable[None]]:
    model, prompts = InstantModel(), _prompts(calls, first)

    async def run(config: Config) -> None:
        for number, prompt in enumerate(prompts):
            await model.ainvoke(prompt, config(number))

    return run


def _in_langgraph(calls: int, first: int) -> Callable[[Config], Awaitable[None]]:
    from langgraph.graph import START, MessagesState, StateGraph

    model, prompts = InstantModel(), _prompts(max(1, calls // NODES), first)

    async def ask(state: MessagesState) -> dict[str, Any]:
        await model.ainvoke(state["messages"][:2])
        return {"messages": []}

    builder = StateGraph(MessagesState)
    for number in range(NODES):
        builder.add_node(f"step{number}", ask)
        builder.add_edge(f"step{number - 1}" if number else START, f"step{number}")
    graph = builder.compile()

    async def run(config: Config) -> None:
        runs = [
            graph.ainvoke({"messages": prompt}, config(number, configurable={"thread_id": f"t-{first + number}"}))
            for number, prompt in enumerate(prompts)
        ]
        await asyncio.gather(*runs)

    return run


def _streams(calls: int, first: int) -> Callable[[Config], Awaitable[None]]:
    model, prompts = InstantModel(), _prompts(calls, first)

    async def run(config: Config) -> None:
        for number, prompt in enumerate(prompts):
            async for _ in model.astream(prompt, config(number)):
                pass

    return run


def _in_threads(calls: int, first: int) -> Callable[[Config], Awaitable[None]]:
    model, prompts = InstantModel(), _prompts(calls, first)

    async def run(config: Config) -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        left = THREADS

        def one_is_done() -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set()

        def some(begin: int) -> None:
            for number in range(begin, calls, THREADS):
                model.invoke(prompts[number], config(number))
            loop.call_soon_threadsafe(one_is_done)

        for begin in range(THREADS):
            threading.Thread(target=some, args=(begin,)).start()
        await done.wait()

    return run


WORKLOADS: Final = {
    "one after another": Workload(2_000, _sequential),
    "200 graphs of 5 nodes at once": Workload(1_000, _in_langgraph),
    "4 threads": Workload(2_000, _in_threads),
    "streams of 500 tokens": Workload(20, _streams),
}
