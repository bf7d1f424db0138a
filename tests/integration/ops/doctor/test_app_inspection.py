"""Graphs are found wherever applications keep them."""

from __future__ import annotations

import pytest

from tests.kit.shop import GRAPH, Check, line, only

BARE = GRAPH.replace("wrap_graph(builder)", "builder")


def test_a_graph_that_is_not_wrapped(check: Check) -> None:
    """A global of one of the application's modules."""
    finding = only(check(graphs=BARE), "graphs")
    assert line(finding) == "graph = builder.compile()"


CLINIC = """
    class Clinic:
        def __init__(self):
            self.graph = make()

        async def x(self):
            return 1


    app.get("/x")(Clinic().x)
"""


@pytest.mark.parametrize(
    "after",
    [
        "app.state.graph = make()",
        "def add(inner):\n    @app.get('/x')\n    async def x():\n        return inner\n\n\nadd(make())",
        CLINIC,
    ],
    ids=["app.state", "a closure", "an object with the endpoint"],
)
def test_graphs_are_found_where_applications_keep_them(check: Check, after: str) -> None:
    """app.state, closures of endpoints, and the objects whose methods they are."""
    graphs = BARE.replace("graph = builder.compile()", "graph = None\n    make = builder.compile")
    only(check("from SHOP.graphs import make", after, graphs=graphs), "graphs")


def test_a_node_that_is_wrapped_by_itself_is_enough(check: Check) -> None:
    """wrap_node is a choice, not an oversight."""
    graphs = BARE.replace('"answer", answer', '"answer", wrap_node(answer)').replace("wrap_graph", "wrap_node")
    assert check(graphs=graphs) == []


def test_a_subgraph_goes_with_its_graph(check: Check) -> None:
    """A compiled graph that is a node of a wrapped one needs no wrapping of its own."""
    more = """
    inner = builder.compile()
    outer = StateGraph(MessagesState)
    outer.add_node("inner", inner)
    outer.add_edge(START, "inner")
    wrapped = wrap_graph(outer.compile())
"""
    graphs = BARE.replace("graph = builder.compile()", "") + more
    assert check(graphs=graphs + "    graph = wrapped\n") == []


def test_ids_in_configurable_need_a_wrapped_graph(check: Check) -> None:
    """LangGraph tells callbacks the thread_id and nothing else of it."""
    before = """
        async def ask(user):
            await graph.ainvoke({}, {"configurable": {"thread_id": "t", "user_id": user}})
    """
    findings = check(before, graphs=BARE)
    assert [finding.name for finding in findings] == ["graphs", "configurable"]
    assert "configurable" in line(findings[1])


AGENT = """
    from langchain.agents import create_agent
    from langchain_core.language_models.fake_chat_models import FakeListChatModel

    from llmctx.graph.agents import LlmctxMiddleware

    model = FakeListChatModel(responses=["yes"])
    graph = create_agent(model, [], middleware=[MIDDLEWARE_OF_AGENT])
"""


def test_an_agent_that_has_only_the_middleware(check: Check) -> None:
    """What it does not see is said; an agent without it is one that is not wrapped."""
    finding = only(check(graphs=AGENT.replace("MIDDLEWARE_OF_AGENT", "LlmctxMiddleware()")), "graphs")
    assert "only LlmctxMiddleware is in it" in finding.cause
    assert "wrap_graph(create_agent" in finding.fix
    finding = only(check(graphs=AGENT.replace("MIDDLEWARE_OF_AGENT", "")), "graphs")
    assert "LlmctxMiddleware" not in finding.cause
