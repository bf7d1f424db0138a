"""Names of OpenTelemetry's conventions for generative AI, and of what those have no name for. Spelled nowhere else.

The conventions are in development: what is called otherwise tomorrow is changed here, and a test compares the names
with `opentelemetry-util-genai`. `OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai/dup` adds the names of the time before, for tools
that do not know the new ones yet; `gen_ai_latest_experimental`, and nothing at all, is the new ones alone.
"""

from __future__ import annotations

import os
from typing import Final

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_STREAM: Final = "gen_ai.request.stream"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
CONVERSATION: Final = "gen_ai.conversation.id"
AGENT: Final = "gen_ai.agent.name"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105  a kind of tokens, no secret

# general conventions
ERROR_TYPE: Final = "error.type"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
SESSION: Final = "session.id"
USER: Final = "user.id"

# llmctx's own
CALL_ID: Final = "llmctx.call.id"
COST: Final = "llmctx.cost.usd"
IDENTITY_REASON: Final = "llmctx.identity.reason"
IDENTITY_SOURCE: Final = "llmctx.identity.source"
NODE: Final = "llmctx.node"
STATUS: Final = "llmctx.status"
THREAD: Final = "llmctx.thread.id"
TOOL_CALLS: Final = "llmctx.tool_calls"

# operations
CHAT: Final = "chat"
TEXT_COMPLETION: Final = "text_completion"
EMBEDDINGS: Final = "embeddings"

# metrics
DURATION: Final = "gen_ai.client.operation.duration"
TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105  as above
FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
SECONDS: Final = tuple(0.01 * 2**step for step in range(14))
"""Buckets of durations: 0.01 … 81.92."""
TOKENS: Final = tuple(4**step for step in range(14))
"""Buckets of tokens: 1 … 67,108,864."""

# events
DETAILS: Final = "gen_ai.client.inference.operation.details"
EXCEPTION: Final = "gen_ai.client.operation.exception"

FOREIGN: Final = ("gen_ai.", "openinference.", "traceloop.", "llm.")
"""How attributes begin by which a span of another instrumentation is known to be about a model or an agent."""

PROVIDERS: Final = {
    "amazon_bedrock": "aws.bedrock",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "azure": "azure.ai.inference",
    "azure_openai": "azure.ai.openai",
    "google_genai": "gcp.gen_ai",
    "google_generativeai": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "vertexai": "gcp.vertex_ai",
    "mistral": "mistral_ai",
    "mistralai": "mistral_ai",
}
"""LangChain's name of a provider -> that of the conventions, where they differ."""

FORMER: Final = {
    PROVIDER: "gen_ai.system",
    CACHE_READ_TOKENS: "gen_ai.usage.cache_read_input_tokens",
    CACHE_WRITE_TOKENS: "gen_ai.usage.cache_creation.input_tokens",
}
"""A name -> the name that it had before."""


def adds_former_names() -> bool:
    """Return whether the process asks for the former names beside the new ones."""
    asked = os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").split(",")
    return "gen_ai/dup" in [one.strip() for one in asked]
