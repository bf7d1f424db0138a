"""`LlmctxMiddleware`: calls of agents that cannot be wrapped have their ids, and what it does not see is said once."""

from __future__ import annotations

import asyncio
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelResponse, SummarizationMiddleware
from langchain_core.tools import tool
from langgraph.graph import MessagesState

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.record import CallRecord
from llmctx.delivery.memory_sink import MemorySink
from llmctx.graph import wrap_graph
from llmctx.graph.agents import LlmctxMiddleware
from tests.kit.agents import Scripted
from tests.kit.support import Talker

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from langgraph_supervisor import create_supervisor
    from langgraph_swarm import create_handoff_tool, create_swarm

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


@dataclass
class Context:
    """Ids as a team puts them into `context_schema`."""

    user_id: str
    session_id: str


@tool
def ask_expert(question: str) -> str:
    """Ask another model."""
    return str(Talker().invoke(question).content)


@tool
async def ask_expert_async(question: str) -> str:
    """Ask another model."""
    return str((await Talker().ainvoke(question)).content)


def rows_of(agent: Any, *, is_async: bool = False, **given: Any) -> list[CallRecord]:
    """The rows of one run of `agent`."""
    state = {"messages": [("user", "hello"), ("user", "and"), ("user", "now")], **given.pop("state", {})}
    with CallLog(sink=(sink := MemorySink())):
        if is_async:
            asyncio.run(agent.ainvoke(state, **given))
        else:
            agent.invoke(state, **given)
    return list(sink.records)


def people(rows: list[CallRecord]) -> set[tuple[str | None, str | None]]:
    return {(row.user_id, row.session_id) for row in rows}


def summarising() -> Any:
    return SummarizationMiddleware(model=Talker(), trigger=("messages", 2), keep=("messages", 1))


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_model_and_tools_have_the_ids_of_the_context(is_async: bool) -> None:
    """Without a scope around: by context_schema, by the state, by configurable, as in a wrapped graph."""
    inner = ask_expert_async if is_async else ask_expert
    script = Scripted(turns=[(inner.name, {"question": "why?"})])

    class State(MessagesState):
        user_id: str
        session_id: str

    ids = {"user_id": "ann", "session_id": "s-1"}
    agents: list[tuple[Any, dict[str, Any]]] = [
        (
            create_agent(script, [inner], middleware=[LlmctxMiddleware()], context_schema=Context),
            {"context": Context(**ids)},
        ),
        (create_agent(script, [inner], middleware=[LlmctxMiddleware()], state_schema=State), {"state": ids}),
        (create_agent(script, [inner], middleware=[LlmctxMiddleware()]), {"config": {"configurable": ids}}),
        (
            create_agent(
                script, [inner], middleware=[LlmctxMiddleware(fields={"user_id": "patient"}, agent_key="desk")]
            ),
            {"config": {"configurable": {"patient": "ann", "session_id": "s-1"}}},
        ),
    ]
    for agent, given in agents:
        rows = rows_of(agent, is_async=is_async, **given)
        assert [row.node for row in rows] == ["model", "tools", "model"]
        assert people(rows) == {("ann", "s-1")}
    assert {row.agent_key for row in rows} == {"desk"}


def test_where_wrap_graph_is_the_better_way_it_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """Hooks of other middleware ask models outside of it; where something around knows the user there is no need."""

    def agent() -> Any:
        return create_agent(Scripted(), [], middleware=[LlmctxMiddleware(), summarising()], context_schema=Context)

    context = {"context": Context("ann", "s-1")}
    first = agent()
    rows = [*rows_of(first, **context), *rows_of(first, **context)]
    assert people(rows[1:2]) == {("ann", "s-1")}
    assert rows[0].node == "SummarizationMiddleware.before_model"
    assert people(rows[:1]) == {(None, None)}
    (said,) = [record.getMessage() for record in caplog.records if "LlmctxMiddleware" in record.getMessage()]
    assert "wrap_graph(create_agent(…))" in said
    assert "SummarizationMiddleware.before_model" in said
    caplog.clear()
    assert people(rows_of(wrap_graph(agent()), **context)) == {("ann", "s-1")}
    with bind(user_id="ann", session_id="s-1"):
        assert people(rows_of(agent())) == {("ann", "s-1")}
    assert "LlmctxMiddleware" not in caplog.text


class Extending(AgentMiddleware[Any, Any]):
    """Answers with what only newer versions of LangChain know, or with the like of it."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        handler(request)
        return self.answer


def test_answers_and_errors_pass_untouched() -> None:
    """The very object that comes from inside, and the very exception."""
    middleware, request = LlmctxMiddleware(), object()
    answer = ModelResponse(result=[])
    assert middleware.wrap_model_call(request, lambda asked: (asked, answer)) == (request, answer)

    def fail(asked: Any) -> Any:
        raise KeyError(asked)

    with pytest.raises(KeyError) as problem:
        middleware.wrap_tool_call(request, fail)
    assert problem.value.args == (request,)

    async def give(asked: Any) -> Any:
        return answer

    assert asyncio.run(middleware.awrap_tool_call(request, give)) is answer
    assert asyncio.run(middleware.awrap_model_call(request, give)) is answer


def test_a_command_beside_the_answer_arrives() -> None:
    """`ExtendedModelResponse` changes the agent's state."""
    from langchain.agents.middleware import ExtendedModelResponse
    from langchain_core.messages import AIMessage
    from langgraph.types import Command

    class State(MessagesState):
        score: int

    answer = ExtendedModelResponse(ModelResponse(result=[AIMessage("done")]), Command(update={"score": 7}))
    agent: Any = create_agent(Scripted(), [], middleware=[LlmctxMiddleware(), Extending(answer)], state_schema=State)
    assert agent.invoke({"messages": [("user", "hello")]})["score"] == 7


class Selecting(AgentMiddleware[Any, Any]):
    """Asks a model before the agent does."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        Talker().invoke("which tools?")
        return handler(request)


def test_a_place_that_is_not_the_first_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """What stands before it asks its models outside of it; as the first it sees them."""
    context = {"context": Context("ann", "s-1")}
    later: Any = create_agent(Scripted(), [], middleware=[Selecting(), LlmctxMiddleware()], context_schema=Context)
    rows_of(later, **context)
    assert "LlmctxMiddleware comes after Selecting" in caplog.text
    caplog.clear()
    first: Any = create_agent(Scripted(), [], middleware=[LlmctxMiddleware(), Selecting()], context_schema=Context)
    assert people(rows_of(first, **context)) == {("ann", "s-1")}
    assert "comes after" not in caplog.text


def test_two_in_one_list_are_refused_by_langchain() -> None:
    """The name is stable."""
    assert LlmctxMiddleware().name == "LlmctxMiddleware"
    with pytest.raises(AssertionError, match="duplicate"):
        create_agent(Scripted(), [], middleware=[LlmctxMiddleware(), LlmctxMiddleware()])


def test_teams_of_agents_that_have_it() -> None:
    """Those of langgraph-supervisor and -swarm, which are not wrapped."""

    def expert(name: str, script: Any = (), tools: Any = ()) -> Any:
        return create_agent(Scripted(turns=script), list(tools), name=name, middleware=[LlmctxMiddleware()])

    ids = {"config": {"configurable": {"user_id": "ann", "session_id": "s-1"}}}
    boss = Scripted(turns=[("transfer_to_math", {})])
    supervised = create_supervisor([expert("math")], model=boss).compile()
    rows = [row for row in rows_of(supervised, **ids) if row.agent_key == "math"]
    assert people(rows) == {("ann", "s-1")}
    alice = expert("Alice", [("transfer_to_bob", {})], [create_handoff_tool(agent_name="Bob")])
    swarm = create_swarm([alice, expert("Bob")], default_active_agent="Alice").compile()
    rows = rows_of(swarm, is_async=True, **ids)
    assert [row.agent_key for row in rows] == ["Alice", "Bob"]
    assert people(rows) == {("ann", "s-1")}
