"""What the innocent applications are made of: their models, what of llmctx they use, what they can notice."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar, copy_context
from typing import Any, Final, TypedDict

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config

import llmctx
from llmctx.graph import wrap_graph, wrap_node
from llmctx.middleware import ContextMiddleware
from tests.kit.models import FakeChatModel, Reply, unobserved


class Kit:
    """What of llmctx the applications use. `used=False` is the same without it."""

    def __init__(self, used: bool, call_log: Any = None) -> None:
        self.used = used
        self.call_log = call_log

    def bind(self, **ids: Any) -> contextlib.AbstractContextManager[Any]:
        return llmctx.bind(**ids) if self.used else contextlib.nullcontext()

    def amend(self, **ids: Any) -> None:
        if self.used:
            llmctx.amend(**ids)

    def carry(self, fn: Any) -> Any:
        return llmctx.carry(fn) if self.used else fn

    def wrap(self, graph: Any, **how: Any) -> Any:
        return wrap_graph(graph, **how) if self.used else graph

    def node(self, node: Any) -> Any:
        return wrap_node(node) if self.used else node

    def served(self, app: Any, identify: Any) -> Any:
        return ContextMiddleware(app, identify) if self.used else app

    def record(self, prompt: str) -> contextlib.AbstractContextManager[Any]:
        if self.used:
            recording: contextlib.AbstractContextManager[Any] = self.call_log.record(model="own", prompt=prompt)
            return recording
        return contextlib.nullcontext()


class Broken(Exception):
    """The application's own trouble."""


class Model(FakeChatModel):
    """Answers at once; `[fail]` raises, `[hang]` waits until it is cancelled."""

    model_name: str = "innocent"

    def _reply(self, messages: list[BaseMessage], streamed: bool = False) -> Reply:
        text = str(messages[-1].content)
        hang = unobserved if "[hang]" in text and not streamed else None
        return Reply(f"heard {text}", ("one ", "two"), Broken(text) if "[fail]" in text else None, hang=hang)


class Listener(BaseCallbackHandler):
    """The application's own handler: hears what it always heard."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.heard.append("start")

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.heard.append("end")


MODEL: Final = Model()
own: Final[ContextVar[str]] = ContextVar("application's own", default="unset")


def surroundings() -> dict[str, Any]:
    """The context variables that are set, and LangChain's config without what belongs to a single run."""
    found: dict[str, Any] = {}
    for variable, value in copy_context().items():
        if variable.name == "llmctx_scope":
            found["identity"] = None if value is None else value.identity
        elif variable is not var_child_runnable_config and variable.name in ("application's own", "tracing_v2"):
            found[variable.name] = value
    config: Any = var_child_runnable_config.get()
    if config is not None:
        found["config"] = sorted(config), sorted(config.get("configurable") or {})
        found["metadata"] = sorted(set(config.get("metadata") or {}) - {"llmctx"})
    return found


def app_view(config: RunnableConfig | None = None) -> dict[str, Any]:
    """`surroundings` as far as the application can see: whose it is, is llmctx's own."""
    seen = surroundings()
    seen.pop("identity", None)
    if config is not None:
        seen["given"] = sorted(config), sorted(set(config.get("metadata") or {}) - {"llmctx"})
    return seen


class State(TypedDict, total=False):
    text: str
    said: list[str]
    user_id: str
