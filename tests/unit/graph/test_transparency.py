"""A wrapped graph is to LangGraph, and to whoever looks at it, the graph that it was."""

from __future__ import annotations

import copy
import inspect
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import CachePolicy
from typing_extensions import TypedDict

from llmctx import bind
from llmctx.graph import wrap_graph, wrap_node
from llmctx.identity.candidates import CARRIED_KEY

pytestmark = pytest.mark.filterwarnings("error")


VOLATILE = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|'[0-9T:.+-]{32}'|[0-9a-f]{32}|0x[0-9a-f]+"
)


class State(TypedDict, total=False):
    text: str
    messages: Annotated[list[AnyMessage], add_messages]


def answer(state: State) -> dict[str, Any]:
    model = FakeMessagesListChatModel(responses=[AIMessage("hello", id="m1")])
    return {"messages": [model.invoke("hi")]}


def route(state: State) -> Literal["child", "last"]:
    return "child"


def last(state: State) -> dict[str, Any]:
    return {"messages": [HumanMessage("end", id="m2")]}


def a_graph(**kwargs: Any) -> Any:
    child = StateGraph(State).add_node("inner", last).add_edge(START, "inner").compile()
    builder = StateGraph(State).add_node("answer", answer).add_node("child", child).add_node("last", last)
    builder.add_edge(START, "answer").add_conditional_edges("answer", route).add_edge("child", "last")
    return builder.compile(checkpointer=InMemorySaver(), **kwargs)


def still(value: object) -> str:
    """`value` in words, without what differs from run to run."""
    return VOLATILE.sub("*", repr(value))


MODES: Any = ["values", "updates", "custom", "messages", "checkpoints", "tasks", "debug"]


def everything(graph: Any) -> tuple[str, str]:
    """All that a run of `graph` shows: every stream, and every snapshot that it leaves."""
    config: RunnableConfig = {"configurable": {"thread_id": "t"}, "metadata": {"mine": "x"}}
    streamed = list(graph.stream({"text": "hi"}, config, stream_mode=MODES, subgraphs=True))
    return still(streamed), still(list(graph.get_state_history(config)))


async def events(graph: Any) -> str:
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    return still([event async for event in graph.astream_events({"text": "hi"}, config, version="v2")])


def test_nothing_shows_where_nobody_is_known() -> None:
    """Without an identity, streams of every mode and snapshots are those of the plain graph, metadata included."""
    assert everything(wrap_graph(a_graph())) == everything(a_graph())


async def test_no_event_differs_where_nobody_is_known() -> None:
    """`astream_events` tells the same story, run by run."""
    assert await events(wrap_graph(a_graph())) == await events(a_graph())


def test_an_identity_shows_only_in_the_metadata_of_what_runs_inside_a_node() -> None:
    """With an identity, snapshots are the same, and so are streams, up to the metadata of model calls in nodes."""
    with bind(user_id="ann", session_id="s"):
        streamed, snapshots = everything(wrap_graph(a_graph()))
    plain_streamed, plain_snapshots = everything(a_graph())
    assert snapshots == plain_snapshots
    sent = f", '{CARRIED_KEY}': {{'session_id': 's', 'user_id': 'ann'}}"
    assert streamed.replace(sent, "") == plain_streamed
    assert streamed.count(sent) == 1  # the message of the model; not those of nodes, nor anything of the subgraph


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
    assert got[1]["metadata"] == {**got[0]["metadata"], CARRIED_KEY: {"user_id": "ann"}}
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
