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
