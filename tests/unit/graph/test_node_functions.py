"""A wrapped function looks like itself and raises what it raised."""

from __future__ import annotations

import asyncio
import functools
import inspect
import traceback
from typing import Any, Literal

import pytest
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphInterrupt
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from llmctx.graph import wrap_graph, wrap_node
from tests.kit.graphs import State, last, route
from tests.kit.newer import HAS_NODE_POLICIES

pytestmark = pytest.mark.filterwarnings("error")


if HAS_NODE_POLICIES:

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
