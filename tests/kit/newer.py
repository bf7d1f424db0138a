"""What LangChain and LangGraph have gained since the lowest supported releases.

A scenario that needs one of them is left out where it is missing: only in the environment of `make test-lowest`.
"""

from __future__ import annotations

from inspect import signature
from typing import Any, cast

import langgraph.errors
import langgraph.types
from langchain.agents import middleware
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

ModelRetryMiddleware: Any = getattr(middleware, "ModelRetryMiddleware", None)
NodeError: Any = getattr(langgraph.errors, "NodeError", Exception)
NodeTimeoutError: Any = getattr(langgraph.errors, "NodeTimeoutError", TimeoutError)
TimeoutPolicy: Any = getattr(langgraph.types, "TimeoutPolicy", None)

HAS_EVENTS_V3 = hasattr(BaseChatModel, "stream_events")
HAS_SERVER_INFO = "server_info" in signature(Runtime).parameters  # whom a platform has authenticated
HAS_MODEL_RETRIES = ModelRetryMiddleware is not None
HAS_NODE_POLICIES = TimeoutPolicy is not None  # time limits and error handlers of single nodes


class _Hears(BaseCallbackHandler):
    heard = False

    def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
        self.heard = True


def _keeps_bound_callbacks() -> bool:
    """Try whether callbacks that a graph is bound to are kept where it is a node of another graph."""
    handler = _Hears()
    inner = StateGraph(dict).add_node("n", RunnableLambda(lambda state: {})).add_edge(START, "n").compile()
    bound = inner.with_config(callbacks=[handler])
    cast("Any", StateGraph(dict).add_node("n", bound).add_edge(START, "n").compile()).invoke({})
    return handler.heard


KEEPS_BOUND_CALLBACKS = _keeps_bound_callbacks()
