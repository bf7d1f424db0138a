"""Server-sent events over a graph: every stream mode, bodies that run after the endpoint has returned."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, get_args

import pytest
from langchain_core._api import LangChainBetaWarning
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import StreamMode, StreamWriter
from starlette.responses import StreamingResponse

from llmctx.graph import wrap_graph
from tests.kit.newer import HAS_EVENTS_V3
from tests.kit.support import ProviderDown, User
from tests.scenarios import enter, shape
from tests.scenarios.http import answering, sse
from tests.scenarios.world import State, World, chain, model, on


async def tell(state: State, writer: StreamWriter) -> State:
    """A node that streams from its model, and into the graph's custom stream."""
    async for chunk in model.astream(state["prompts"][0]):
        writer(chunk.content)
    return {}


def tell_sync(state: State, writer: StreamWriter) -> State:
    for chunk in model.stream(state["prompts"][0]):
        writer(chunk.content)
    return {}


async def last(state: State) -> State:
    await chain.ainvoke({"prompt": state["prompts"][1]})
    return {}


def last_sync(state: State) -> State:
    chain.invoke({"prompt": state["prompts"][1]})
    return {}


def streamer(*, wrapped: bool, sync: bool = False) -> Any:
    """tell -> inner, which is a graph of its own; with a checkpointer."""
    inner = StateGraph(State).add_node("last", last_sync if sync else last).add_edge(START, "last")
    builder = StateGraph(State)
    builder.add_node("tell", tell_sync if sync else tell)
    builder.add_node("inner", inner.compile())
    builder.add_edge(START, "tell")
    builder.add_edge("tell", "inner")
    return (wrap_graph(builder) if wrapped else builder).compile(checkpointer=InMemorySaver())


def told(world: World, user: User, status: str = "ok") -> State:
    """The input of `streamer`; its last call may be refused."""
    return {"prompts": [world.prompt(user), world.prompt(user, status)]}


def streamers(world: World, *, sync: bool = False) -> Callable[[User], Any]:
    """Every other user has a graph that is wrapped."""
    graphs = [streamer(wrapped=True, sync=sync), streamer(wrapped=False, sync=sync)]
    return lambda user: graphs[world.users.index(user) % 2]


async def streamed(world: World, events: Callable[[Any, State, User], AsyncIterator[Any]]) -> None:
    """Server-sent events that `events` makes of a graph, once to its end and once until it fails."""
    graph_of = streamers(world)

    async def body(user: User) -> AsyncIterator[str]:
        async for _ in events(graph_of(user), told(world, user), user):
            yield "data: step\n\n"
        with pytest.raises(ProviderDown):
            async for _ in events(graph_of(user), told(world, user, "error"), user):
                yield "data: step\n\n"

    await answering(world, lambda user: sse(body(user)), rounds=1)


MODES: dict[str, Any] = {**{mode: mode for mode in get_args(StreamMode)}, "several": ["updates", "messages", "custom"]}

for _name, _mode in MODES.items():

    async def _by_mode(world: World, mode: Any = _mode) -> None:
        await streamed(world, lambda graph, state, user: graph.astream(state, on(user), stream_mode=mode))

    async def _by_mode_sync(world: World, mode: Any = _mode) -> None:
        """The graph is driven by a synchronous body, each step of it in another thread."""
        graph_of = streamers(world, sync=True)

        def body(user: User) -> Iterator[str]:
            for _ in graph_of(user).stream(told(world, user), on(user), stream_mode=mode):
                yield "data: step\n\n"
            with pytest.raises(ProviderDown):
                list(graph_of(user).stream(told(world, user, "error"), on(user), stream_mode=mode))

        await answering(world, lambda user: sse(body(user)), rounds=1)

    enter(f"stream_mode_{_name}", _by_mode, family=__name__)
    if _name in ("updates", "messages", "several"):
        enter(f"sync_stream_mode_{_name}", _by_mode_sync, family=__name__)


@shape
async def stream_with_subgraphs(world: World) -> None:
    modes = ["updates", "messages"]
    await streamed(world, lambda graph, state, user: graph.astream(state, on(user), stream_mode=modes, subgraphs=True))


@shape
async def astream_events_v2_of_a_graph(world: World) -> None:
    await streamed(world, lambda graph, state, user: graph.astream_events(state, on(user), version="v2"))


@shape
async def astream_events_v2_of_a_model_and_a_chain(world: World) -> None:
    async def run(user: User) -> None:
        assert [event async for event in model.astream_events(world.prompt(user), version="v2")]
        assert [event async for event in chain.astream_events({"prompt": world.prompt(user)}, version="v2")]
        with pytest.raises(ProviderDown):
            assert [event async for event in model.astream_events(world.prompt(user, "error"), version="v2")]

    await answering(world, run)


@contextlib.contextmanager
def beta() -> Iterator[None]:
    """LangChain warns of its third version of events; around a whole shape, for warnings belong to the process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainBetaWarning)
        yield


async def astream_events_v3_of_a_graph(world: World) -> None:
    async def events(graph: Any, state: State, user: User) -> AsyncIterator[Any]:
        async for event in await graph.astream_events(state, on(user), version="v3"):
            yield event

    with beta():
        await streamed(world, events)


async def astream_events_v3_of_a_graph_by_message(world: World) -> None:
    """The run is driven by whoever reads a message of it, in tasks of their own."""

    async def events(graph: Any, state: State, user: User) -> AsyncIterator[Any]:
        run = await graph.astream_events(state, on(user), version="v3")

        async def steps() -> None:
            async for _ in run.values:
                pass

        stepping = asyncio.create_task(steps())
        try:
            async for message in run.messages:
                async for text in message.text:
                    yield text
        finally:
            await stepping

    with beta():
        await streamed(world, events)


async def astream_events_v3_of_a_model(world: World) -> None:
    async def run(user: User) -> None:
        assert [event async for event in await model.astream_events(world.prompt(user), version="v3")]
        with pytest.raises(ProviderDown):
            assert [event async for event in await model.astream_events(world.prompt(user, "error"), version="v3")]

    with beta():
        await answering(world, run)


async def stream_events_v3_sync(world: World) -> None:
    """A model's and a graph's, in a synchronous body."""
    compiled = streamer(wrapped=True, sync=True)

    def body(user: User) -> Iterator[str]:
        for _ in model.stream_events(world.prompt(user), version="v3"):
            yield "data: event\n\n"
        for _ in compiled.stream_events(told(world, user), on(user), version="v3"):
            yield "data: event\n\n"

    with beta():
        await answering(world, lambda user: StreamingResponse(body(user)))


if HAS_EVENTS_V3:
    for _scenario in (
        astream_events_v3_of_a_graph,
        astream_events_v3_of_a_graph_by_message,
        astream_events_v3_of_a_model,
        stream_events_v3_sync,
    ):
        shape(_scenario)
