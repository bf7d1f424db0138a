"""Rows tell agents apart: teams and single agents, made by the libraries that people make them with."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import create_react_agent

from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.graph import wrap_graph
from tests.kit.agents import Scripted

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from langgraph_supervisor import create_supervisor
    from langgraph_swarm import create_handoff_tool, create_swarm

Make = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


def supervised(make: Make, **names: Any) -> Any:
    experts = [make(Scripted(), [], name=name) for name in ("math", "research")]
    script = [("transfer_to_math", {}), ("transfer_to_research", {})]
    return create_supervisor(experts, model=Scripted(turns=script), **names)


def supervisor(make: Make) -> Any:
    return supervised(make).compile()


def team_of_teams(make: Make) -> Any:
    team = supervised(make, supervisor_name="lead").compile(name="team")
    boss = Scripted(turns=[("transfer_to_team", {})])
    return create_supervisor([team], model=boss, supervisor_name="boss").compile(name="firm")


def swarm(make: Make) -> Any:
    alice = make(Scripted(turns=[("transfer_to_bob", {})]), [create_handoff_tool(agent_name="Bob")], name="Alice")
    return create_swarm([alice, make(Scripted(), [], name="Bob")], default_active_agent="Alice").compile()


def in_a_node(make: Make) -> Any:
    """An agent that a function of the team's runs, in a node of another name."""

    def ask(state: MessagesState) -> Any:
        return make(Scripted(), []).invoke(state)

    return StateGraph(MessagesState).add_node("billing", ask).add_edge(START, "billing").compile()


TEAMS: dict[Make, list[str]] = {
    supervisor: ["supervisor", "math", "supervisor", "research", "supervisor"],
    team_of_teams: ["boss", "lead", "math", "lead", "research", "lead", "boss"],
    swarm: ["Alice", "Bob"],
    in_a_node: ["billing"],
}


def agents_of(graph: Any, *, is_async: bool = False) -> list[str | None]:
    """Return the agent_key of each call that one run of `graph` makes."""
    given = {"messages": [("user", "hello")]}
    with CallLog(sink=(sink := MemorySink())):
        if is_async:
            asyncio.run(graph.ainvoke(given))
        else:
            graph.invoke(given)
    return [row.agent_key for row in sink.records]


@pytest.mark.parametrize("is_wrapped", [True, False], ids=["wrapped", "unwrapped"])
@pytest.mark.parametrize("make", [create_react_agent, create_agent])
@pytest.mark.parametrize("team", TEAMS)
def test_agents_of_a_team(team: Make, make: Make, is_wrapped: bool) -> None:
    """By the name of each agent, not by that of the node which all of them have."""
    graph = team(make)
    assert agents_of(wrap_graph(graph) if is_wrapped else graph, is_async=is_wrapped) == TEAMS[team]


@pytest.mark.parametrize("make", [create_react_agent, create_agent])
def test_a_single_agent_by_its_name(make: Make) -> None:
    """Without a name of its own it is called as its node is."""
    assert agents_of(wrap_graph(make(Scripted(), [], name="billing"))) == ["billing"]
    (unnamed,) = agents_of(wrap_graph(make(Scripted(), [])))
    assert unnamed in ("agent", "model")
    assert agents_of(wrap_graph(make(Scripted(), []), agent_key="mine")) == ["mine"]


def test_a_graph_by_its_name() -> None:
    """The nodes have a column of their own."""
    model = Scripted()

    def builder() -> Any:
        graph = StateGraph(MessagesState)
        graph.add_node("draft", lambda state: {"messages": [model.invoke(state["messages"])]})
        return graph.add_edge(START, "draft")

    assert agents_of(wrap_graph(builder()).compile(name="billing")) == ["billing"]
    assert agents_of(wrap_graph(builder()).compile()) == ["draft"]
    step = builder().compile(name="inner")
    outer = StateGraph(MessagesState).add_node("desk", step).add_edge(START, "desk")
    assert agents_of(wrap_graph(outer).compile(name="outer")) == ["desk"]


def test_graphs_without_a_name_by_their_keys_in_a_dict() -> None:
    """So that an application's registry of agents tells them apart; a name of their own comes first."""

    def unnamed() -> Any:
        return create_agent(Scripted(), [])

    twice = unnamed()
    draft = StateGraph(MessagesState).add_node("draft", lambda state: {"messages": [Scripted().invoke("hi")]})
    agents = wrap_graph(
        {
            "chat": unnamed(),
            "desk": create_agent(Scripted(), [], name="billing"),
            "letters": draft.add_edge(START, "draft"),
            "team": supervised(create_agent),
            "new": twice,
            "old": twice,
            "several": [unnamed()],
            7: unnamed(),
        }
    )
    assert agents_of(agents["chat"]) == ["chat"]
    assert agents_of(wrap_graph(agents["chat"])) == ["chat"]  # once more, alone
    assert agents_of(agents["desk"]) == ["billing"]
    assert agents_of(agents["letters"].compile()) == ["letters"]
    assert agents_of(agents["letters"].compile(name="mail")) == ["mail"]
    assert agents_of(agents["team"].compile()) == TEAMS[supervisor]
    assert [agents_of(agents[name]) for name in ("new", "old", 7)] == [["model"]] * 3
    assert agents_of(agents["several"][0]) == ["model"]
    outer = StateGraph(MessagesState).add_node("step", unnamed()).add_edge(START, "step").compile()
    assert agents_of(wrap_graph({"outer": outer})["outer"]) == ["step"]
    assert agents_of(wrap_graph({"a": unnamed()}, agent_key="mine")["a"]) == ["mine"]
