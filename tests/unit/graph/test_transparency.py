"""A wrapped graph is to LangGraph, and to whoever looks at it, the graph that it was."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import traceback
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnableSequence
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphInterrupt
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import CachePolicy, Command, interrupt
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
    got: list[RunnableConfig] = []
    node = wrap_node(RunnableLambda(lambda state, config: got.append(config)))
    with bind(user_id="ann"):
        node.invoke({}, config)
        wrap_graph(a_graph()).invoke({"text": "hi"}, config)
    assert config == {"configurable": {"thread_id": "t"}, "metadata": {"mine": "x"}}
    assert got[0]["metadata"] == {"mine": "x", CARRIED_KEY: {"user_id": "ann"}}


def test_a_node_without_config_keeps_what_is_around() -> None:
    """A wrapped Runnable that is run without a config adds to the metadata around it, and replaces nothing."""
    got: list[RunnableConfig] = []
    inner = wrap_node(RunnableLambda(lambda state, config: got.append(config)))
    with bind(user_id="ann"):
        RunnableLambda(lambda state: inner.invoke(state)).invoke({}, {"metadata": {"mine": "x"}, "tags": ["a"]})
    assert got[0]["metadata"] == {"mine": "x", CARRIED_KEY: {"user_id": "ann"}}
    assert got[0]["tags"] == ["a"]


def test_a_timeout_is_refused_for_sync_nodes_as_before() -> None:
    """LangGraph asks whether a node is natively async; the answer is the one of the original."""

    async def is_async(state: State) -> None: ...

    class SyncOnly(Runnable[Any, Any]):
        def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:  # noqa: A002
            return {}

    for node in (last, SyncOnly(), RunnableLambda(last)):
        builder = StateGraph(State).add_node("node", wrap_node(node), timeout=1).add_edge(START, "node")
        with pytest.raises(ValueError, match="timeout"):
            wrap_graph(builder).compile()
    for fine in (is_async, RunnableLambda(is_async)):
        builder = StateGraph(State).add_node("node", wrap_node(fine), timeout=1).add_edge(START, "node")
        asyncio.run(wrap_graph(builder).compile().ainvoke({"text": "hi"}))


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


def test_interrupts_commands_and_errors_pass_through() -> None:
    """What a node raises arrives as it was raised: control flow, errors, and the line they came from."""
    raised: list[BaseException] = []

    def asks(state: State) -> None:
        try:
            interrupt("?")
        except GraphInterrupt as control:
            raised.append(control)
            raise

    def jumps(state: State) -> Any:
        return Command(goto="broken", graph=Command.PARENT)

    def broken(state: State) -> None:
        raise KeyError("here")

    child = StateGraph(State).add_node("jumps", jumps).add_edge(START, "jumps").compile()
    builder = StateGraph(State).add_node("asks", asks).add_node("child", child).add_node("broken", broken)
    builder.add_edge(START, "asks").add_edge("asks", "child")
    graph = wrap_graph(builder).compile(checkpointer=InMemorySaver())
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    assert graph.invoke({"text": "hi"}, config)["__interrupt__"][0].value == "?"
    assert len(raised) == 1
    with pytest.raises(KeyError, match="here") as caught:
        graph.invoke(Command(resume=True), config)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "broken"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_a_cancelled_node_is_cancelled() -> None:
    """CancelledError reaches the node and comes back out of the graph."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def node(state: State) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            raise

    graph = wrap_graph(StateGraph(State).add_node("node", wrap_node(node)).add_edge(START, "node")).compile()
    run = asyncio.create_task(graph.ainvoke({"text": "hi"}))
    await started.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert ended.is_set()


def test_a_wrapped_function_looks_like_itself() -> None:
    """Name, signature, hints and kind of a wrapped function are the original's; LangGraph infers the same from them."""

    async def asynchronous(state: State) -> None: ...

    def generator(state: State) -> Any:
        yield {}

    async def async_generator(state: State) -> Any:
        yield {}

    for original in (route, asynchronous, generator, async_generator):
        wrapped = wrap_node(original)
        assert wrapped.__name__ == original.__name__
        assert wrapped.__qualname__ == original.__qualname__
        assert inspect.signature(wrapped) == inspect.signature(original)
        for kind in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
            assert kind(wrapped) == kind(original)


def goes_on(state: State) -> Command[Literal["last"]]:
    return Command(goto="last")


def test_edges_are_inferred_from_the_hints_of_a_wrapped_function() -> None:
    """A node that returns Command[Literal[…]] is drawn with its edges, wrapped or not."""

    def draw(node: Any) -> str:
        builder = StateGraph(State).add_node(node).add_node(last).add_edge(START, "goes_on").add_edge("last", END)
        return builder.compile().get_graph().draw_mermaid()

    assert draw(wrap_node(goes_on)) == draw(goes_on)


def test_a_graph_in_the_closure_of_a_wrapped_function_is_found() -> None:
    """Subgraph discovery looks through `wrap_node`."""
    child = StateGraph(State).add_node("inner", last).add_edge(START, "inner").compile()

    def calls(state: State) -> Any:
        return child.invoke(state)

    @functools.wraps(calls)
    def decorated(*args: Any) -> Any:
        return calls(*args)

    for function in (calls, decorated):
        graph = StateGraph(State).add_node("calls", wrap_node(function)).add_edge(START, "calls").compile()
        assert [name for name, _ in graph.get_subgraphs()] == ["calls"]
        assert inspect.signature(wrap_node(function)) == inspect.signature(calls)


def test_a_wrapped_runnable_is_of_its_own_kind() -> None:
    """A wrapped model or ToolNode keeps its type's name, attributes, equality and methods, and the original is free."""
    model = GenericFakeChatModel(messages=iter([AIMessage("a"), AIMessage("b")]))
    wrapped = wrap_node(model, agent_key="mine")
    assert isinstance(wrapped, GenericFakeChatModel)
    assert repr(type(wrapped)) == repr(type(model))
    assert wrapped.model_dump(exclude={"messages"}) == model.model_dump(exclude={"messages"})
    assert wrapped.invoke("hi").content == "a"
    assert (wrapped | (lambda message: message.content)).invoke("hi") == "b"
    assert type(model) is GenericFakeChatModel
    assert type(wrap_node(model)) is type(wrapped)
    tools = wrap_node(ToolNode([]))
    assert isinstance(tools, ToolNode)
    assert tools.tools_by_name == {}


def test_a_wrapped_sequence_runs_whole() -> None:
    """LangGraph takes sequences apart; one wrapped by `wrap_node` runs as one, in one scope."""
    from llmctx.identity.scope import current_scope

    scopes: list[Any] = []

    def step(state: Any) -> Any:
        scopes.append(current_scope())
        return state

    wrapped: Any = wrap_node(RunnableLambda(step) | RunnableLambda(step))
    assert not isinstance(wrapped, RunnableSequence)
    StateGraph(State).add_node("node", wrapped).add_edge(START, "node").compile().invoke({"text": "hi"})
    assert len(scopes) == 2
    assert len(set(map(id, scopes))) == 1
