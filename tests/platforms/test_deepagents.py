"""deepagents: a main agent and its subagents, each with a row of its own name."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from deepagents import create_deep_agent

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.graph import wrap_graph
from llmctx.graph.agents import LlmctxMiddleware
from tests.kit.agents import Scripted


@dataclass
class Context:
    """Ids as a team puts them into `context_schema`."""

    user_id: str
    session_id: str


@pytest.mark.parametrize("is_wrapped", [True, False], ids=["wrapped", "unwrapped"])
def test_subagents(is_wrapped: bool) -> None:
    """The user's, too."""
    boss = Scripted(turns=[("task", {"description": "look", "subagent_type": "researcher"})])
    researcher = {"name": "researcher", "description": "d", "system_prompt": "p", "model": Scripted(), "tools": []}
    agent = create_deep_agent(model=boss, tools=[], subagents=[researcher], name="boss")
    with CallLog(sink=(sink := MemorySink())), bind(user_id="u", session_id="s"):
        (wrap_graph(agent) if is_wrapped else agent).invoke({"messages": [("user", "hello")]})
    assert [row.agent_key for row in sink.records] == ["boss", "researcher", "boss"]
    assert {(row.user_id, row.session_id) for row in sink.records} == {("u", "s")}


def test_the_middleware_in_a_deep_agent() -> None:
    """Without a scope around: calls of the main agent and of its subagents have the ids of the context."""
    boss = Scripted(turns=[("task", {"description": "look", "subagent_type": "researcher"})])
    researcher = {"name": "researcher", "description": "d", "system_prompt": "p", "model": Scripted(), "tools": []}
    agent = create_deep_agent(
        model=boss,
        tools=[],
        subagents=[researcher],
        name="boss",
        middleware=[LlmctxMiddleware()],
        context_schema=Context,
    )
    with CallLog(sink=(sink := MemorySink())):
        agent.invoke({"messages": [("user", "hello")]}, context=Context("u", "s"))
    assert [row.agent_key for row in sink.records] == ["boss", "researcher", "boss"]
    assert {(row.user_id, row.session_id) for row in sink.records} == {("u", "s")}
