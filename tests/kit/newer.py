"""What LangChain and LangGraph have gained since the lowest supported releases.

A scenario that needs one of them is left out where it is missing: only in the environment of `make test-lowest`.
"""

from __future__ import annotations

from typing import Any

import langgraph.errors
import langgraph.types
from langchain.agents import middleware
from langchain_core.language_models import BaseChatModel

ModelRetryMiddleware: Any = getattr(middleware, "ModelRetryMiddleware", None)
NodeError: Any = getattr(langgraph.errors, "NodeError", Exception)
NodeTimeoutError: Any = getattr(langgraph.errors, "NodeTimeoutError", TimeoutError)
TimeoutPolicy: Any = getattr(langgraph.types, "TimeoutPolicy", None)

HAS_EVENTS_V3 = hasattr(BaseChatModel, "stream_events")
HAS_MODEL_RETRIES = ModelRetryMiddleware is not None
HAS_NODE_POLICIES = TimeoutPolicy is not None  # time limits and error handlers of single nodes
