"""A wrapped Runnable is of its own kind, and runs whole."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda, RunnableSequence
from langgraph.graph import START, StateGraph
from langgraph.prebuilt import ToolNode

from llmctx import bind
from llmctx.graph import wrap_node
from tests.kit.graphs import State

pytestmark = pytest.mark.filterwarnings("error")


def test_a_node_without_config_keeps_what_is_around() -> None:
    """A wrapped Runnable that is run without a config replaces nothing of the one around, and adds nothing."""
    got: list[RunnableConfig] = []
    inner = wrap_node(RunnableLambda(lambda state, config: got.append(config)))
    with bind(user_id="ann"):
        RunnableLambda(lambda state: inner.invoke(state)).invoke({}, {"metadata": {"mine": "x"}, "tags": ["a"]})
    assert got[0]["metadata"] == {"mine": "x"}
    assert got[0]["tags"] == ["a"]


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
