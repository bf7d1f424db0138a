"""`LlmctxMiddleware` for LangChain's `create_agent`, where the agent's graph cannot be wrapped.

    agent = create_agent(model, tools, middleware=[LlmctxMiddleware(), …])

`wrap_graph(create_agent(…))` sees more, namely the models that hooks of other middleware ask. This is for agents that
are built from configuration, or by libraries that take middleware; it says once which models it does not see. Needs
`pip install "llmctx[agents]"`, for `langchain`: `llmctx.graph` itself does not import this.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from langchain.agents.middleware import AgentMiddleware
from langchain_core.runnables.config import var_child_runnable_config

from llmctx.core.diagnostics import diagnostics
from llmctx.core.guard import guard_harmless, guard_without_ids
from llmctx.delivery.agent_name import HOOKS
from llmctx.graph.node_functions import NOWHERE, in_node
from llmctx.graph.node_identity import NO_STATE, READ, Identify, Plan
from llmctx.identity.scope import current_scope

__all__ = ["LlmctxMiddleware"]

_CHANNEL: Final = "branch:to:"
_WRAPS: Final = frozenset({"wrap_model_call", "awrap_model_call", "wrap_tool_call", "awrap_tool_call"})
_DEEP: Final = 40


class LlmctxMiddleware(AgentMiddleware[Any, Any]):
    """Give an agent's calls of its model and of its tools the identity that `wrap_graph` would find.

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
        self._in_call = _in_call(identify, fields, agent_key)

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Ask the model in a scope."""
        with self._in_call(request):
            return handler(request)

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Do as `wrap_model_call`, for coroutines."""
        with self._in_call(request):
            return await handler(request)

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Run a tool in a scope: it may ask models itself."""
        with self._in_call(request):
            return handler(request)

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Do as `wrap_tool_call`, for coroutines."""
        with self._in_call(request):
            return await handler(request)


def _in_call(
    identify: Identify | None, fields: Mapping[str, str] | None, agent_key: str | None
) -> Callable[[Any], AbstractContextManager[None]]:
    """Return what opens the scope of a call, for `with`; it takes the request of a model or of a tool."""
    plan = Plan.build(identify, fields, agent_key)
    advised: list[bool] = []

    @guard_without_ids("node_scope_failed", otherwise=lambda request: NOWHERE)
    def opened(request: Any) -> AbstractContextManager[None]:
        if not advised:
            advised.append(True)
            _advise()
        return in_node(plan, (getattr(request, "state", NO_STATE),), {}) or NOWHERE

    return opened


@guard_harmless("agent_advice_failed")
def _advise() -> None:
    """Say which models LlmctxMiddleware cannot see in the agent that runs."""
    outer = sorted({type(one).__name__ for one in _wrapped_around()})
    if outer:
        diagnostics.count(
            "agent_middleware_order",
            "LlmctxMiddleware comes after %s: make it the first in the list, or calls that they make have no ids",
            ", ".join(outer),
        )
    scope = current_scope()
    if scope is not None and (scope.kind == "node" or scope.identity):
        return  # what runs in hooks is known by what is around
    if hooks := sorted(_hooks_here()):
        diagnostics.count(
            "agent_not_wrapped",
            "LlmctxMiddleware does not see calls made in %s: wrap_graph(create_agent(…)) does",
            ", ".join(hooks),
        )


def _wrapped_around() -> Iterator[Any]:
    """Return the middleware in whose `wrap_…` the caller's runs."""
    frame, own = sys._getframe(1), None
    for _ in range(_DEEP):
        if frame.f_code.co_name in _WRAPS:
            one = frame.f_locals.get("self")
            if own is None:
                own = one
            elif one is not None and one is not own:
                yield one
        if frame.f_back is None:
            return
        frame = frame.f_back


def _hooks_here() -> Iterator[str]:
    """Return the names of the nodes in which other middleware of the running agent works, by the graph's channels."""
    read = ((var_child_runnable_config.get() or {}).get("configurable") or {}).get(READ)
    for one in getattr(read, "args", ()):
        if isinstance(one, Mapping):
            for channel in list(one):
                if isinstance(channel, str) and channel.startswith(_CHANNEL) and channel.endswith(HOOKS):
                    yield channel.removeprefix(_CHANNEL)
