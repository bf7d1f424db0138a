"""A model for ready-made agents: it asks for the tools of its script, one a turn, and says "done" afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolCall
from langchain_core.outputs import ChatGeneration, ChatResult

from tests.kit.models import FakeChatModel, Reply


class Scripted(FakeChatModel):
    """Each conversation counts for itself: its turn is the number of its own answers so far."""

    turns: Sequence[tuple[str, dict[str, Any]]] = ()

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[{"type": "function", "function": {"name": _name_of(tool)}} for tool in tools])

    def _reply(self, messages: list[BaseMessage], streamed: bool = False) -> Reply:
        return Reply("done", ("done",))

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        asked = {call["name"] for message in messages if isinstance(message, AIMessage) for call in message.tool_calls}
        turn = next(((name, given) for name, given in self.turns if name not in asked), None)
        calls = [] if turn is None else [ToolCall(name=turn[0], args=turn[1], id=turn[0])]
        message = AIMessage(content="" if calls else "done", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return self._generate(messages)

    def _stream(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    _astream = _stream


def _name_of(tool: Any) -> str:
    return str(tool["name"] if isinstance(tool, dict) else tool.name)
