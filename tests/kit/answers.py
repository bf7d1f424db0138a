"""Results of chat models, and the row that comes of one."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
)
from langchain_core.outputs import ChatGeneration, LLMResult

from llmctx.capture.payload.messages import answer_of
from llmctx.capture.payload.token_usage import Stream
from llmctx.delivery.payload_fields import fields_of

LIMIT = 32 * 1024


def result(message: BaseMessage | str = "hi", *more: BaseMessage, info: Any = None, output: Any = None) -> LLMResult:
    """A chat model's result; AIMessage is made of a text."""
    messages = [AIMessage(message) if isinstance(message, str) else message, *more]
    return LLMResult(
        generations=[[ChatGeneration(message=m, generation_info=info) for m in messages]], llm_output=output
    )


def row(message: BaseMessage | str | LLMResult, *, stream: Stream | None = None, **given: Any) -> dict[str, Any]:
    answer = answer_of(message if isinstance(message, LLMResult) else result(message), LIMIT)
    return fields_of(answer=answer, stream=stream, **given)
