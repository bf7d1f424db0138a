"""Ready-made agents: their models, tools, middleware and hand-overs, and graphs inside of tools.

A script stands in the user's message: for each turn, which tools the model asks for. Rows are told apart by the first
mark of their prompt, so each call of the agent's own model gets a fresh one, in its system prompt.
"""

from __future__ import annotations

import asyncio
import json
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelFallbackMiddleware,
    ToolRetryMiddleware,
    dynamic_prompt,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolCall
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import create_react_agent
from langgraph.types import Command
from pydantic import BaseModel

from llmctx.graph import wrap_graph
from tests.kit.newer import HAS_MODEL_RETRIES, ModelRetryMiddleware
from tests.kit.support import ProviderDown, Talker, User, _latency
from tests.scenarios import enter
from tests.scenarios.graphs import drained, wrapped_and_bare
from tests.scenarios.world import World, model, on

Turns = list[list[str]]
TWO_TOOLS: Turns = [["look", "look_too"], ["look"]]


class Brain(Talker):
    """Asks for the tools that the script names for this turn, and says "done" when it is through."""

    streams: bool = True

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[])

    def _answer(self, messages: list[BaseMessage]) -> AIMessage:
        if "[fail]" in str(messages[0].content):
            raise ProviderDown(str(messages[0].content))
        script = script_of(messages)
        number = sum(message.type == "ai" for message in messages)
        names = script["turns"][number] if number < len(script["turns"]) else []
        calls = [ToolCall(name=name, args={"who": script["who"]}, id=f"{number}.{n}") for n, name in enumerate(names)]
        return AIMessage(content="" if names else "done", tool_calls=calls)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        time.sleep(_latency())
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        await asyncio.sleep(_latency())
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        time.sleep(_latency())
        yield _chunk(self._answer(messages))

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        await asyncio.sleep(_latency())
        yield _chunk(self._answer(messages))


def _chunk(answer: AIMessage) -> ChatGenerationChunk:
    calls: Any = [
        {"name": call["name"], "args": json.dumps(call["args"]), "id": call["id"], "index": number}
        for number, call in enumerate(answer.tool_calls)
    ]
    return ChatGenerationChunk(message=AIMessageChunk(content=answer.content, tool_call_chunks=calls))


brain = Brain()


def script_of(messages: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(next(str(message.content) for message in messages if message.type == "human"))
    return found


def asked(world: World, user: User, turns: Turns = TWO_TOOLS) -> dict[str, Any]:
    """What the user says to an agent."""
    script = json.dumps({"who": world.users.index(user), "turns": turns})
    return {"messages": [HumanMessage(script)]}


def scripted(world: World, status: Callable[[int], str] = lambda number: "ok") -> AgentMiddleware[Any, Any]:
    """Gives each call of the agent's model a prompt of its own; `status` says how its n-th, per user, ends."""
    counts: dict[int, int] = {}

    @dynamic_prompt
    def system(request: Any) -> str:
        who = script_of(request.messages)["who"]
        counts[who] = counts.get(who, -1) + 1
        return world.prompt(world.users[who], status(counts[who]))

    return system


def tools(world: World, sync: bool = False) -> list[Any]:
    """Two tools that call a model."""

    @tool
    def look(who: int) -> str:
        """Look it up."""
        return str(model.invoke(world.prompt(world.users[who])).content)

    @tool
    def look_too(who: int) -> str:
        """Look that up as well."""
        return str("".join(str(chunk.content) for chunk in model.stream(world.prompt(world.users[who]))))

    @tool("look")
    async def alook(who: int) -> str:
        """Look it up."""
        return str((await model.ainvoke(world.prompt(world.users[who]))).content)

    @tool("look_too")
    async def alook_too(who: int) -> str:
        """Look that up as well."""
        return "".join([str(chunk.content) async for chunk in model.astream(world.prompt(world.users[who]))])

    return [look, look_too] if sync else [alook, alook_too]


def agent(world: World, *, wrapped: bool = True, sync: bool = False, **kwargs: Any) -> Any:
    given = {"tools": tools(world, sync), "middleware": [scripted(world)], "checkpointer": InMemorySaver(), **kwargs}
    made = create_agent(brain, **given)
    return wrap_graph(made) if wrapped else made


def react_agent(world: World, *, wrapped: bool = True, sync: bool = False, **kwargs: Any) -> Any:
    def prompt(state: Any) -> list[BaseMessage]:
        who = script_of(state["messages"])["who"]
        return [SystemMessage(world.prompt(world.users[who])), *state["messages"]]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        given = {"tools": tools(world, sync), "prompt": prompt, "checkpointer": InMemorySaver(), **kwargs}
        made = create_react_agent(brain, **given)
    return wrap_graph(made) if wrapped else made


ASYNC_RUNS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "ainvoke": lambda agent, state, config: agent.ainvoke(state, config),
    "astream": lambda agent, state, config: drained(
        agent.astream(state, config, stream_mode=["messages", "updates"], subgraphs=True)
    ),
    "astream_events": lambda agent, state, config: drained(agent.astream_events(state, config, version="v2")),
}
SYNC_RUNS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "invoke": lambda agent, state, config: asyncio.to_thread(agent.invoke, state, config),
    "stream": lambda agent, state, config: asyncio.to_thread(
        lambda: list(agent.stream(state, config, stream_mode="messages"))
    ),
    "ainvoke_of_sync_tools": ASYNC_RUNS["ainvoke"],
}


async def _run(world: World, *, make: Any, run: Any, sync: bool, wrapped: bool) -> None:
    made = make(world, wrapped=wrapped, sync=sync)
    await world.through(lambda user: run(made, asked(world, user), on(user)), rounds=1)


for _make in (agent, react_agent):
    for _sync, _runs in ((False, ASYNC_RUNS), (True, SYNC_RUNS)):
        for _name, _ways in _runs.items():
            for _wrapped in (True, False) if "invoke" in _name else (True,):
                enter(
                    f"{_make.__name__}_by_{_name}_{'wrapped' if _wrapped else 'bare'}",
                    partial(_run, make=_make, run=_ways, sync=_sync, wrapped=_wrapped),
                    family=__name__,
                )


class Watching(AgentMiddleware[Any, Any]):
    """Calls a model of its own before and after everything that an agent does."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def _prompt(self, messages: list[Any]) -> str:
        return self.world.prompt(self.world.users[script_of(messages)["who"]])

    def before_agent(self, state: Any, runtime: Any) -> None:
        model.invoke(self._prompt(state["messages"]))

    before_model = after_model = after_agent = before_agent

    async def abefore_agent(self, state: Any, runtime: Any) -> None:
        await model.ainvoke(self._prompt(state["messages"]))

    abefore_model = aafter_model = aafter_agent = abefore_agent

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        model.invoke(self._prompt(request.messages))
        return handler(request)

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        await model.ainvoke(self._prompt(request.messages))
        return await handler(request)

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        model.invoke(self._prompt(request.state["messages"]))
        return handler(request)

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        await model.ainvoke(self._prompt(request.state["messages"]))
        return await handler(request)


@wrapped_and_bare
async def middleware_that_calls_a_model(world: World, *, wrapped: bool) -> None:
    made = agent(world, wrapped=wrapped, middleware=[Watching(world), scripted(world)])
    await world.through(lambda user: made.ainvoke(asked(world, user), on(user)), rounds=1)


@wrapped_and_bare
async def sync_middleware_that_calls_a_model(world: World, *, wrapped: bool) -> None:
    made = agent(world, wrapped=wrapped, sync=True, middleware=[Watching(world), scripted(world)])
    await world.through(lambda user: asyncio.to_thread(made.invoke, asked(world, user), on(user)), rounds=1)


async def a_model_that_is_tried_again(world: World, *, wrapped: bool) -> None:
    """ModelRetryMiddleware: every second call fails."""
    again = ModelRetryMiddleware(max_retries=1, initial_delay=0.001, jitter=False)
    failing = scripted(world, lambda number: "ok" if number % 2 else "error")
    made = agent(world, wrapped=wrapped, middleware=[again, failing])
    await world.through(lambda user: made.ainvoke(asked(world, user), on(user)), rounds=1)


if HAS_MODEL_RETRIES:
    wrapped_and_bare(a_model_that_is_tried_again)


@wrapped_and_bare
async def a_model_that_falls_back(world: World, *, wrapped: bool) -> None:
    failing = scripted(world, lambda number: "ok" if number % 2 else "error")
    made = agent(world, wrapped=wrapped, middleware=[ModelFallbackMiddleware(Brain()), failing])
    await world.through(lambda user: made.ainvoke(asked(world, user), on(user)), rounds=1)


@wrapped_and_bare
async def a_tool_that_is_tried_again(world: World, *, wrapped: bool) -> None:
    tries: dict[int, int] = {}

    @tool
    async def look(who: int) -> str:
        """Fails at first."""
        tries[who] = tries.get(who, 0) + 1
        await model.ainvoke(world.prompt(world.users[who], "error" if tries[who] % 2 else "ok"))
        return "found"

    again = ToolRetryMiddleware(max_retries=1, initial_delay=0.001, jitter=False)
    made = agent(world, wrapped=wrapped, tools=[look], middleware=[again, scripted(world)])
    await world.through(lambda user: made.ainvoke(asked(world, user, [["look"], ["look"]]), on(user)), rounds=1)


@wrapped_and_bare
async def a_human_in_the_loop(world: World, *, wrapped: bool) -> None:
    """The tool waits for approval, which comes in a later request."""
    waits = HumanInTheLoopMiddleware(interrupt_on={"look": True})
    made = agent(world, wrapped=wrapped, middleware=[waits, scripted(world)])

    async def endpoint(user: User) -> None:
        waiting = (await made.aget_state(on(user))).next
        approval = Command(resume={"decisions": [{"type": "approve"}]})
        await made.ainvoke(approval if waiting else asked(world, user, [["look"]]), on(user))

    await world.through(endpoint, rounds=2)


class Diagnosis(BaseModel):
    who: int


@wrapped_and_bare
async def a_structured_answer(world: World, *, wrapped: bool) -> None:
    made = agent(world, wrapped=wrapped, response_format=ToolStrategy(Diagnosis))
    await world.through(lambda user: made.ainvoke(asked(world, user, [["look"], ["Diagnosis"]]), on(user)), rounds=1)
