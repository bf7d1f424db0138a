"""`LlmctxMiddleware` for LangChain's `create_agent`, where the agent's graph cannot be wrapped.

    agent = create_agent(model, tools, middleware=[LlmctxMiddleware(), …])

`wrap_graph(create_agent(…))` sees more, namely the models that hooks of other middleware ask. This is for agents that
are built from configuration, or by libraries that take middleware. Needs `pip install "llmctx[agents]"`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from langchain.agents.middleware import AgentMiddleware

from llmctx.graph import Identify
from llmctx.graph.agent_calls import in_call

__all__ = ["LlmctxMiddleware"]


class LlmctxMiddleware(AgentMiddleware[Any, Any]):
    """Gives an agent's calls of its model and of its tools the identity that `wrap_graph` would find.

    It has to be the first in the list: what stands before it runs outside of it. The arguments are `wrap_graph`'s.
    """

    name = "LlmctxMiddleware"

    def __init__(
        self,
        *,
        identify: Identify | None = None,
        fields: Mapping[str, str] | None = None,
        agent_key: str | None = None,
    ) -> None:
        super().__init__()
        self._in_call = in_call(identify, fields, agent_key)

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Ask the model in a scope."""
        with self._in_call(request):
            return handler(request)

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """`wrap_model_call` for coroutines."""
        with self._in_call(request):
            return await handler(request)

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Run a tool in a scope: it may ask models itself."""
        with self._in_call(request):
            return handler(request)

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """`wrap_tool_call` for coroutines."""
        with self._in_call(request):
            return await handler(request)
