"""The graphs: one wrapped, the same unwrapped, and one that is made for each run."""

from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.graph import START, MessagesState, StateGraph

from llmctx.graph import wrap_graph
from tests.kit.models import FakeChatModel, Reply


class Model(FakeChatModel):
    def _reply(self, messages: list[BaseMessage], streamed: bool = False) -> Reply:
        return Reply(f"heard {messages[-1].content}")


model = Model()


async def answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await model.ainvoke(state["messages"][-1:])]}


def builder() -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    return graph


wrapped = wrap_graph(builder()).compile()
plain = builder().compile()


def factory() -> Any:
    return wrap_graph(builder().compile())
