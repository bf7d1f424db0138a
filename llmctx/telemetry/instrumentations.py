"""Other instrumentations of LangChain in this process, whose spans are about the calls that llmctx records.

They are known by their own word, where they have one, and by the callback of LangChain's in which they start a span.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Set
from types import FrameType
from typing import Any, Final
from uuid import UUID

from llmctx.telemetry import names

SCOPE: Final = "llmctx"
"""The name of our own instrumentation scope."""

_INSTRUMENTORS: Final = (
    ("opentelemetry.instrumentation.genai.langchain", "LangChainInstrumentor"),
    ("opentelemetry.instrumentation.langchain", "LangchainInstrumentor"),
    ("openinference.instrumentation.langchain", "LangChainInstrumentor"),
)
_OF_MODELS: Final = re.compile(
    r"lang(chain|graph|smith|fuse)|openinference|traceloop|gen_?ai|llm|pydantic.ai|"
    r"\b(openai|anthropic|bedrock|vertexai|google_generativeai|mistralai|cohere|groq|ollama|watsonx|together|crewai)\b"
)
"""Names of instrumentation scopes whose spans are all about models or agents: some set no attribute at the start."""
CALLS: Final = frozenset({"on_chat_model_start", "on_llm_start"})
"""The callbacks of LangChain's that tell of a model's run."""
_IN_CALLS: Final = frozenset({"_generate_with_cache", "_agenerate_with_cache", "stream", "astream"})
"""The methods of its models under which a provider's client is asked."""
STARTS: Final = frozenset({*CALLS, "on_chain_start", "on_retriever_start", "on_tool_start"})
RUNS: Final = STARTS | _IN_CALLS
LANGSMITH: Final = "langsmith"
_LANGSMITHS: Final = "_create_span_for_run"
"""In which LangSmith makes spans of runs that it has noted, in a thread of its own."""
_DEEP: Final = 24


def active_instrumentation() -> str | None:
    """Return the name of an instrumentation of LangChain that is switched on; None if there is none."""
    for module, name in _INSTRUMENTORS:
        loaded = sys.modules.get(module)
        one = None if loaded is None else getattr(getattr(loaded, name, None), "_instance", None)
        if one is not None and getattr(one, "is_instrumented_by_opentelemetry", False):
            return module
    return None


def scope_name(span: Any) -> str:
    """Return the name of the instrumentation that has made a span; empty if that cannot be told."""
    return str(getattr(getattr(span, "instrumentation_scope", None), "name", ""))


def is_about_models(span: Any) -> bool:
    """Return whether a span that starts is one of an instrumentation of models or agents."""
    return _OF_MODELS.search(scope_name(span)) is not None or any(
        name.startswith(names.FOREIGN) for name in span.attributes or ()
    )


def run_of(frame: FrameType | None, where: Set[str] = CALLS) -> UUID | None:
    """Return the run of LangChain's of which the code in `frame` was told that it starts, or in which it is: one of
    the functions `where` stands above it."""
    for _ in range(_DEEP):
        if frame is None:
            break
        name = frame.f_code.co_name
        if name in where and (name not in _IN_CALLS or "language_models" in frame.f_code.co_filename):
            local = frame.f_locals
            told = local.get("run_id") or (local.get("kwargs") or {}).get("run_id")
            for run_id in (told, getattr(local.get("run_manager"), "run_id", None)):
                if isinstance(run_id, UUID):
                    return run_id
        elif name == _LANGSMITHS:
            run_id = getattr(frame.f_locals.get("op"), "id", None)
            return run_id if isinstance(run_id, UUID) else None
        frame = frame.f_back
    return None
