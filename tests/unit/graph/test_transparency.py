"""A wrapped graph is to LangGraph, and to whoever looks at it, the graph that it was."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy

from llmctx import bind, current
from llmctx.graph import wrap_graph, wrap_node
from tests.kit.graphs import State, last, route
from tests.kit.trust import recorded

pytestmark = pytest.mark.filterwarnings("error")


VOLATILE = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|'[0-9T:.+-]{32}'|[0-9a-f]{32}|0x[0-9a-f]+"
)


def answer(state: State) -> dict[str, Any]:
    model = FakeMessagesListChatModel(responses=[AIMessage("hello", id="m1")])
    return {"messages": [model.invoke("hi")]}


def a_graph(**kwargs: Any) -> Any:
    child = StateGraph(State).add_node("inner", last).add_edge(START, "inner").compile()
    builder = StateGraph(State).add_node("answer", answer).add_node("child", child).add_node("last", last)
    builder.add_edge(START, "answer").add_conditional_edges("answer", route).add_edge("child", "last")
    return builder.compile(checkpointer=InMemorySaver(), **kwargs)


def still(values: Iterable[object]) -> list[str]:
    """`values` in words, without what differs from run to run: in no order, for nodes and tasks run side by side."""
    return sorted(VOLATILE.sub("*", repr(value)) for value in values)


MODES: Any = ["values", "updates", "custom", "messages", "checkpoints", "tasks", "debug"]


def everything(graph: Any, **more: Any) -> tuple[list[str], list[str]]:
    """All that a run of `graph` shows: every stream, and every snapshot that it leaves."""
    config: RunnableConfig = {"configurable": {"thread_id": "t"}, "metadata": {"mine": "x"}, **more}  # type: ignore[typeddict-item]  # keys of a config
    streamed = list(graph.stream({"text": "hi"}, config, stream_mode=MODES, subgraphs=True))
    return still(streamed), still(graph.get_state_history(config))


async def events(graph: Any) -> list[str]:
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    return still([event async for event in graph.astream_events({"text": "hi"}, config, version="v2")])


def test_nothing_shows_where_nobody_is_known() -> None:
    """Without an identity, streams of every mode and snapshots are those of the plain graph, metadata included."""
    assert everything(wrap_graph(a_graph())) == everything(a_graph())


async def test_no_event_differs_where_nobody_is_known() -> None:
    """`astream_events` tells the same story, run by run."""
    assert await events(wrap_graph(a_graph())) == await events(a_graph())


class Shown(BaseCallbackHandler):
    """What a tracer is shown of each run: its name, tags and metadata."""

    run_inline = True

    def __init__(self) -> None:
        self.runs: list[object] = []

    def on_chain_start(self, *args: Any, **run: Any) -> None:
        self.runs.append((run.get("name"), run.get("tags"), run.get("metadata")))

    on_chat_model_start = on_tool_start = on_chain_start


def a_nest() -> Any:
    """Graphs in nodes, called with the config, without it, on a thread of their own; and the code's own config."""
    inner = wrapped_or_not(StateGraph(State).add_node("inner", answer).add_edge(START, "inner").compile())

    def calls(state: State, config: RunnableConfig) -> dict[str, Any]:
        answer(state)
        RunnableLambda(answer).invoke(state, config)
        inner.invoke({"text": "hi"}, config)
        inner.invoke({"text": "hi"}, {"configurable": {"thread_id": "other"}})
        with ThreadPoolExecutor(1) as pool:
            pool.submit(inner.invoke, {"text": "hi"}, config).result()
        return {"text": "done"}

    builder = StateGraph(State).add_node("calls", calls).add_edge(START, "calls")
    return builder.compile(checkpointer=InMemorySaver())


def an_agent() -> Any:
    """A prebuilt agent with a tool that calls a model."""

    @tool
    def ask(text: str) -> str:
        """Ask a model."""
        return answer({})["messages"][0].text

    class Model(FakeMessagesListChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

    calling = AIMessage("", id="m0", tool_calls=[{"name": "ask", "args": {"text": "x"}, "id": "1"}])
    return create_agent(Model(responses=[calling, AIMessage("done", id="m3")]), [ask], checkpointer=InMemorySaver())


def a_function() -> Any:
    """The functional API: a task that calls a model."""

    @task
    def step(text: str) -> str:
        return str(answer({})["messages"][0].text)

    @entrypoint(checkpointer=InMemorySaver())
    def flow(state: State) -> str:
        return f"{step('a').result()} {step('b').result()}"  # of LangGraph 1.0, under astream_events, None

    return flow


def wrapped_or_not(graph: Any) -> Any:
    return wrap_graph(graph) if current().user_id else graph


@pytest.mark.parametrize("build", [a_graph, a_nest, an_agent, a_function])
async def test_an_identity_shows_nowhere(build: Any) -> None:
    """Streams of every mode, snapshots, events and what a tracer is shown are those of the plain graph."""
    sights: list[list[Any]] = []
    with recorded() as sink:
        for known in ({}, {"user_id": "ann", "session_id": "s-ann"}):
            tracer = Shown()
            with bind(**known):
                graphs = [wrapped_or_not(build()) for _ in range(2)]
                streamed, snapshots = everything(graphs[0], callbacks=[tracer])
                sights.append([streamed, snapshots, await events(graphs[1]), still(tracer.runs)])
    for plain, wrapped in zip(*sights, strict=True):
        assert wrapped == plain
    assert "ann" not in str(sights)
    assert "ann" in {row.user_id for row in sink.records}


def test_what_draws_and_describes_a_graph_sees_no_difference() -> None:
    """Drawing, schemas, names, subgraphs and node objects are those of the plain graph."""
    plain, wrapped = a_graph(), a_graph()
    before = {name: (node.bound, node.writers) for name, node in wrapped.nodes.items()}
    wrap_graph(wrapped)
    assert {name: (node.bound, node.writers) for name, node in wrapped.nodes.items()} == before
    assert wrapped.get_graph(xray=True).draw_mermaid() == plain.get_graph(xray=True).draw_mermaid()
    assert wrapped.get_input_jsonschema() == plain.get_input_jsonschema()
    assert [name for name, _ in wrapped.get_subgraphs()] == ["child"]
    assert repr(type(wrapped.nodes["answer"].node)) == repr(type(plain.nodes["answer"].node))


def test_a_builder_stays_a_builder_of_its_class() -> None:
    """A wrapped builder has its class's name and signature, and can be built on."""
    plain, wrapped = StateGraph(State), wrap_graph(StateGraph(State))
    assert isinstance(wrapped, StateGraph)
    assert repr(type(wrapped)) == repr(type(plain))
    assert inspect.signature(wrapped.compile) == inspect.signature(plain.compile)
    assert wrap_graph(wrapped) is wrapped


def test_graphs_with_dataclass_states_can_still_be_drawn() -> None:
    """LangGraph copies the nodes of such a graph by their attributes: there must be none of ours."""

    @dataclass
    class Data:
        text: str = ""

    graph = wrap_graph(StateGraph(Data).add_node("node", lambda s: {}).add_edge(START, "node")).compile()
    assert "node" in graph.get_graph().draw_mermaid()


def test_the_config_is_never_changed() -> None:
    """Neither the caller's config nor the metadata in it is touched, also with an identity."""
    config: RunnableConfig = {"configurable": {"thread_id": "t"}, "metadata": {"mine": "x"}}
    bare = copy.deepcopy(config)  # langchain-core before 1.3 adds the thread_id to the caller's metadata itself
    got: list[RunnableConfig] = []
    seen = RunnableLambda(lambda state, config: got.append(config))
    seen.invoke({}, bare)
    a_graph().invoke({"text": "hi"}, bare)
    node = wrap_node(seen)
    with bind(user_id="ann"):
        node.invoke({}, config)
        wrap_graph(a_graph()).invoke({"text": "hi"}, config)
    assert config == bare
    assert got[1]["metadata"] == got[0]["metadata"]
    assert got[0]["metadata"]["mine"] == "x"


def test_a_cached_node_is_found_by_its_wrapped_self() -> None:
    """The name under which LangGraph caches a node does not change with wrapping."""
    calls: list[str] = []

    def node(state: State) -> dict[str, Any]:
        calls.append("ran")
        return {"text": "done"}

    cache = InMemoryCache[Any]()

    def build(function: Any) -> Any:
        builder = StateGraph(State).add_node("node", function, cache_policy=CachePolicy()).add_edge(START, "node")
        return builder.compile(cache=cache)

    for graph in (build(node), wrap_graph(build(node)), build(wrap_node(node))):
        assert graph.invoke({"text": "hi"}) == {"text": "done", "messages": []}
    assert calls == ["ran"]
