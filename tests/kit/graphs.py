"""A state, an edge and a last node for graphs of the tests."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    text: str
    messages: Annotated[list[AnyMessage], add_messages]


def route(state: State) -> Literal["child", "last"]:
    return "child"


def last(state: State) -> dict[str, Any]:
    return {"messages": [HumanMessage("end", id="m2")]}
