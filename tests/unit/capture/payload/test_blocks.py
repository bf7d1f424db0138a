"""Blocks of every type are kept, and a stream's first token is its first content."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Iterator
from typing import Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints, is_typeddict

import anthropic.types
import langchain_protocol.protocol
import pytest
from anthropic.types.beta import BetaContentBlock
from langchain_core.messages import AIMessage, AIMessageChunk, content
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, GenerationChunk, LLMResult
from openai.types.chat import ChatCompletionMessage
from openai.types.responses import ResponseOutputItem
from pydantic import BaseModel
from typing_extensions import ReadOnly, TypeAliasType

from llmctx.capture.payload.blocks import is_delta, is_event_with_content
from llmctx.capture.payload.messages import answer_of
from llmctx.delivery.payload_fields import fields_of

BASE64 = "iVBORw0KGgo" * 5000
WORD = "wombat"


def filled(hint: Any, name: str = "", depth: int = 0) -> Any:
    """A value of that type, with a word in each text and a picture in each base64."""
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(hint, TypeAliasType):
        return filled(hint.__value__, name, depth)
    if origin in (NotRequired, Required, ReadOnly) or str(origin) == "typing.Annotated":
        return filled(args[0], name, depth)
    if origin is Literal:
        return args[0]
    if origin in (Union, types.UnionType):
        return filled(next(arg for arg in args if arg is not type(None)), name, depth)
    if depth > 6:
        return None
    if origin is list:
        return [filled(args[0], name, depth + 1)]
    if origin is dict or hint is dict:
        return {"key": WORD}
    if inspect.isclass(hint) and issubclass(hint, BaseModel):
        return {key: filled(field.annotation, key, depth + 1) for key, field in hint.model_fields.items()}
    if is_typeddict(hint):
        hints = get_type_hints(hint, include_extras=True)
        return {key: filled(kind, key, depth + 1) for key, kind in hints.items()}
    if hint in (int, float, bool):
        return hint(1)
    return BASE64 if name in ("base64", "result", "data", "encrypted_content") else WORD


def kinds() -> Iterator[tuple[str, Any]]:
    """Every block of LangChain's standard, of its wire protocol, of OpenAI's Responses and of Anthropic's Messages."""
    standard = (content.ContentBlock, langchain_protocol.protocol.ContentBlock)
    for union in (*standard, ResponseOutputItem, anthropic.types.ContentBlock, BetaContentBlock):
        members = get_args(union)
        if members and not inspect.isclass(members[0]):  # Annotated
            members = get_args(members[0])
        for kind in members:
            yield f"{kind.__module__.split('.')[0]}.{kind.__name__}", kind


KINDS = sorted(kinds(), key=lambda pair: pair[0])


def row(message: AIMessage) -> dict[str, Any]:
    return fields_of(answer=answer_of(LLMResult(generations=[[ChatGeneration(message=message)]])))


def test_the_types_were_found() -> None:
    """Those of each maker, and not a few."""
    assert len(KINDS) > 60
    assert {name.split(".")[0] for name, _ in KINDS} == {"langchain_core", "langchain_protocol", "openai", "anthropic"}


@pytest.mark.parametrize("kind", [kind for _, kind in KINDS], ids=[name for name, _ in KINDS])
def test_a_block_is_kept_as_text_or_as_a_note(kind: Any) -> None:
    """Alone, and as LangChain wraps what it does not know."""
    block = filled(kind)
    for sent in (block, {"type": "non_standard", "value": block}):
        fields = row(AIMessage([sent]))
        shown = (fields["response_snapshot"] or "") + (fields.get("reasoning_snapshot") or "")
        assert WORD in shown or " kB>" in shown or WORD not in str(block), shown
        assert BASE64 not in shown
        assert len(shown) < 6000


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (AIMessage([{"type": "image_generation_call", "result": BASE64, "output_format": "png"}]), "<png, 41 kB>"),
        (AIMessage([{"type": "image", "base64": BASE64}]), "<image, 41 kB>"),
        (AIMessage([{"type": "image", "base64": BASE64, "mime_type": "image/png"}]), "<png, 41 kB>"),
        (AIMessage([{"type": "redacted_thinking", "data": BASE64}]), "<redacted_thinking, 41 kB>"),
        (AIMessage([{"type": "reasoning", "summary": [], "encrypted_content": BASE64}]), "<reasoning, 41 kB>"),
        (AIMessage([{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BASE64}"}}]), "<png, 41 kB>"),
        (AIMessage([{"type": "media", "mime_type": "video/mp4", "data": b"x" * 3_200_000}]), "<mp4, 3.2 MB>"),
        (AIMessage("", additional_kwargs={"audio": b"x" * 48_000}), "<audio, 48 kB>"),
        (AIMessage("", additional_kwargs={"audio": {"id": "a", "data": BASE64, "transcript": WORD}}), WORD),
        (AIMessage("", additional_kwargs={"tool_outputs": [{"type": "web_search_call", "action": WORD}]}), WORD),
        (AIMessage("", additional_kwargs={"something_new": WORD}), WORD),
        (AIMessage([{"type": "refusal", "refusal": WORD}]), f'"refusal":"{WORD}"'),
        (AIMessage([{"type": "text", "text": "x", "annotations": [{"type": "citation", "url": WORD}]}]), WORD),
        (AIMessage([{"something": WORD}]), WORD),
        (AIMessage([{"type": "text", "text": "x", "reference": {"type": "reference", "title": WORD}}]), WORD),
        (AIMessage("", response_metadata={"finish_message": f"Malformed function call: {WORD}"}), WORD),
        (AIMessage([{"type": "tool_use", "id": "t", "name": WORD, "input": {}}]), WORD),
        (AIMessage([{"type": "thinking", "thinking": "", "signature": WORD}]), WORD),
        (AIMessage([{"type": "thinking", "thinking": "", "signature": BASE64}]), "<thinking, 41 kB>"),
        (AIMessage([{"type": "reasoning", "reasoning": "", "extras": {"signature": WORD}}]), WORD),
        (AIMessage([{"type": "reasoning_content", "reasoning_content": {"text": "", "signature": WORD}}]), WORD),
    ],
)  # fmt: skip
def test_an_answer_that_says_something_is_not_empty(message: AIMessage, expected: str) -> None:
    """Wherever the client has put it."""
    assert expected in row(message)["response_snapshot"]


def test_what_says_nothing_is_empty() -> None:
    """And stands nowhere else as if it said something."""
    for message in (
        AIMessage([{"type": "text", "text": "", "annotations": []}]),
        AIMessage("", additional_kwargs={"refusal": None, "parsed": None, "__sig__": {"a": "b"}}),
        AIMessage([]),
    ):
        assert json.loads(row(message)["response_snapshot"]) == {"role": "assistant", "content": ""}


NOT_YET: list[Any] = [
    "", [], [{"type": "text", "text": "", "index": 0}],
    [{"type": "thinking", "thinking": "", "signature": "", "index": 0}],
    [{"type": "reasoning", "id": "rs_1", "summary": [], "index": 0, "status": "in_progress"}],
    [{"type": "reasoning", "summary": [{"index": 0, "type": "summary_text", "text": ""}], "index": 0}],
    [{"type": "text", "text": "", "phase": "final_answer", "index": 1}],
]  # fmt: skip
FIRST: list[Any] = [
    "x", [{"type": "text", "text": "x", "index": 0}], [{"type": "thinking", "thinking": "x", "index": 0}],
    [{"type": "tool_use", "id": "t", "name": "f", "input": {}, "index": 0}],
    [{"type": "redacted_thinking", "data": "x"}],
    [{"type": "reasoning", "summary": [{"index": 0, "type": "summary_text", "text": "x"}], "index": 0}],
    [{"type": "reasoning_content", "reasoning_content": {"text": "x"}}], ["x"],
    [{"type": "server_tool_call_chunk", "name": "web_search", "args": ""}],
]  # fmt: skip


@pytest.mark.parametrize("value", NOT_YET, ids=str)
def test_a_frame_without_content_is_no_token(value: Any) -> None:
    """Roles, beginnings of blocks, pings, empty texts."""
    message = AIMessageChunk(value, additional_kwargs={"reasoning_content": "", "refusal": None})
    assert not is_delta(value, ChatGenerationChunk(message=message))
    for block in value:
        assert not is_event_with_content({"event": "content-block-start", "index": 0, "content": block})


@pytest.mark.parametrize("value", FIRST, ids=str)
def test_content_reasoning_and_calls_are_tokens(value: Any) -> None:
    """In every maker's spelling, with or without LangChain's `token`."""
    chunk = ChatGenerationChunk(message=AIMessageChunk(value))
    assert is_delta(value, chunk)
    assert is_delta("", chunk)


def test_a_token_may_stand_beside_the_content() -> None:
    """Reasoning of DeepSeek's kind, tool calls of OpenAI's, audio; and completion models."""
    for more in (
        {"additional_kwargs": {"reasoning_content": "x"}},
        {"additional_kwargs": {"audio": {"id": "a", "transcript": "x"}}},
        {"tool_call_chunks": [{"name": "f", "args": "", "id": "1", "index": 0}]},
    ):
        assert is_delta("", ChatGenerationChunk(message=AIMessageChunk("", **more)))
    assert is_delta("x", GenerationChunk(text="x"))
    assert not is_delta("", GenerationChunk(text=""))
    for more in ({"audio": {"id": "a"}}, {"citations": ["http://a.test"]}):  # xAI's come before the first word
        assert not is_delta("", ChatGenerationChunk(message=AIMessageChunk("", additional_kwargs=more)))


CHUNK = {"type": "tool_call_chunk", "name": "f", "id": "1", "args": ""}
DELTAS: list[tuple[dict[str, Any], bool]] = [
    ({"type": "text-delta", "text": ""}, False),
    ({"type": "text-delta", "text": "x"}, True),
    ({"type": "reasoning-delta", "reasoning": "x"}, True),
    ({"type": "data-delta", "data": "QQ=="}, True),
    ({"type": "block-delta", "fields": {"type": "tool_call_chunk", "args": "{"}}, True),
    ({"type": "block-delta", "fields": {"type": "reasoning", "id": "r"}}, False),
]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"event": "message-start", "role": "ai", "id": "m", "metadata": {"model": "m"}}, False),
        ({"event": "content-block-start", "index": 0, "content": {"type": "text", "text": ""}}, False),
        ({"event": "content-block-start", "index": 0, "content": CHUNK}, True),
        *(({"event": "content-block-delta", "index": 0, "delta": delta}, expected) for delta, expected in DELTAS),
        ({"event": "message-finish", "usage": {"input_tokens": 1}}, False),
        ({"event": "error", "message": "x"}, False),
        ("ping", False),
    ],
)
def test_an_event_of_v3_with_content_is_a_token(event: Any, expected: bool) -> None:
    """The beginning and the end of a message are none."""
    assert is_event_with_content(event) is expected


def test_a_message_of_the_sdk_is_no_surprise() -> None:
    """The fields of OpenAI's message, each alone: none of them is lost by `additional_kwargs`."""
    names = set(ChatCompletionMessage.model_fields) - {"role", "content", "tool_calls", "function_call"}
    for name in names:
        assert WORD in row(AIMessage("", additional_kwargs={name: WORD}))["response_snapshot"], name
