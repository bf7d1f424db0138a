"""Answers that travel in exceptions, in each provider's form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage

from llmctx.capture.payload.failures import failure_of
from llmctx.capture.payload.messages import Answer
from llmctx.capture.payload.raw_answers import answer_in, merge
from llmctx.delivery.payload_fields import error_fields, fields_of

CALL = {"name": "f", "arguments": "{}"}
OPENAI = {
    "id": "c-1", "model": "m", "service_tier": "default", "usage": {"prompt_tokens": 9, "completion_tokens": 4},
    "choices": [{"finish_reason": "length", "message": {
        "role": "assistant", "content": "said", "reasoning_content": "thought",
        "tool_calls": [{"id": "t", "type": "function", "function": CALL}]}}],
}  # fmt: skip
ANTHROPIC = {
    "type": "message", "id": "c-1", "model": "m", "role": "assistant", "stop_reason": "length",
    "content": [{"type": "thinking", "thinking": "thought"}, {"type": "text", "text": "said"},
                {"type": "tool_use", "id": "t", "name": "f", "input": {}}],
    "usage": {"input_tokens": 2, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 3, "output_tokens": 4,
              "service_tier": "default"},
}  # fmt: skip
RESPONSES = {
    "id": "c-1", "model": "m", "status": "incomplete", "incomplete_details": {"reason": "length"}, "error": None,
    "service_tier": "default", "usage": {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13},
    "output": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "thought"}]},
               {"type": "message", "content": [{"type": "output_text", "text": "said"}]},
               {"type": "function_call", "call_id": "t", **CALL}],
}  # fmt: skip
GEMINI = {
    "responseId": "c-1", "modelVersion": "m", "candidates": [{"finishReason": "length", "content": {"parts": [
        {"text": "thought", "thought": True}, {"text": "said"},
        {"functionCall": {"name": "f", "args": {}, "id": "t"}}]}}],
    "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 1, "thoughtsTokenCount": 3, "totalTokenCount": 13},
}  # fmt: skip
BEDROCK = {
    "stopReason": "length", "usage": {"inputTokens": 9, "outputTokens": 4, "totalTokens": 13},
    "output": {"message": {"role": "assistant", "content": [
        {"reasoningContent": {"reasoningText": {"text": "thought"}}}, {"text": "said"},
        {"toolUse": {"toolUseId": "t", "name": "f", "input": {}}}]}},
}  # fmt: skip
BODIES = {"openai": OPENAI, "anthropic": ANTHROPIC, "responses": RESPONSES, "gemini": GEMINI, "bedrock": BEDROCK}


class Failed(Exception):
    """An error with whatever attributes."""

    def __init__(self, **more: Any) -> None:
        super().__init__("it could not be parsed")
        vars(self).update(more)


class Response:
    """An HTTP response of httpx' or requests' kind."""

    status_code = 200

    def __init__(self, body: Any) -> None:
        self._content = json.dumps(body).encode()


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("place", ["completion", "response", "body", "http"])
def test_an_answer_is_read_in_every_form(name: str, place: str) -> None:
    """Text, reasoning, calls, tokens, finish reason; and the error stays what it is."""
    body = BODIES[name]
    error = Failed(response=Response(body)) if place == "http" else Failed(**{place: body})
    try:
        raise ValueError("wrapped") from error
    except ValueError as wrapping:
        answer, failure = answer_in(wrapping, 1000), failure_of(error)
    fields = fields_of(answer=answer, failure=failure)
    shown = json.loads(fields["response_snapshot"])
    assert (shown["content"], json.loads(fields["reasoning_snapshot"])) == ("said", "thought")
    assert [(call["name"], call["id"]) for call in shown["tool_calls"]] == [("f", "t")]
    assert (fields["prompt_tokens"], fields["completion_tokens"], fields["total_tokens"]) == (9, 4, 13)
    assert fields["finish_reason"] == "length"
    if name != "bedrock":
        assert (fields["response_id"], fields["response_model"]) == ("c-1", "m")
    assert error_fields(failure) == {"error_code": "Failed", "error_message": "it could not be parsed"}


def test_an_error_is_no_answer() -> None:
    """Whatever it is made of."""
    for body in (
        {"error": {"message": "no", "code": "x"}},
        {"detail": "no"},
        {"choices": []},
        {"output": ""},
        [],
        "no",
    ):
        assert answer_in(Failed(response=Response(body), body=body), 1000) is None
    assert answer_in(Failed(), 1000) is None


def test_what_langchain_and_others_put_into_errors() -> None:
    """The text of its parsers, a message; of a retried call the last attempt, without the sum of all."""
    answer = answer_in(OutputParserException("no JSON", llm_output="said"), 1000)
    assert answer is not None
    assert answer.choices[0].text == "said"
    usage: Any = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}
    answer = answer_in(Failed(result=AIMessage("said", usage_metadata=usage)), 1000)
    assert fields_of(answer=answer)["total_tokens"] == 13
    for error in (ValueError(OPENAI), ExceptionGroup("in a task", [Failed(completion=OPENAI)])):
        assert fields_of(answer=answer_in(error, 1000))["total_tokens"] == 13
    answer = answer_in(Failed(last_completion=OPENAI, n_attempts=3), 1000)
    fields = fields_of(answer=answer)
    assert (fields["total_tokens"], fields["finish_reason"]) == (None, "length")


def test_chunks_and_exception_complete_each_other() -> None:
    """A stream's error has the text without tokens, its chunks may have those."""
    paid = answer_in(Failed(completion={**OPENAI, "usage": None}), 1000)
    assert paid is not None
    seen = Answer(usage={"input_tokens": 9, "output_tokens": 4, "total_tokens": 13})
    fields = fields_of(answer=merge(paid, seen))
    assert (fields["total_tokens"], fields["finish_reason"], fields["response_id"]) == (13, "length", "c-1")


def test_what_a_provider_has_not_let_through_is_read() -> None:
    """Groq's, in its own client's error and in OpenAI's; the error stays what it is."""
    refused = {"message": "Failed to call a function.", "code": "tool_use_failed", "failed_generation": "<function=f>"}
    for body in ({"error": refused}, refused):
        answer, failure = answer_in(Failed(body=body), 1000), failure_of(Failed(body=body))
        fields = fields_of(answer=answer, failure=failure)
        assert json.loads(fields["response_snapshot"])["content"] == "<function=f>"
        assert (fields["error_code"], fields["error_message"]) == ("tool_use_failed", "Failed to call a function.")
