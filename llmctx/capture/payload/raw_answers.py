"""Answers as providers send them, read where LangChain's client could not: they travel in the exception.

A structured answer that ran into its length limit, one that the client's parser refused, one that was filtered: each
was paid for, and its text, tokens and finish reason lie in an attribute of the error (`completion`, `response`, …).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

import orjson
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_core.outputs.chat_generation import merge_chat_generation_chunks

from llmctx.capture.payload.blocks import begun_blocks
from llmctx.capture.payload.messages import Answer, Choice, answer_of, answer_of_choices, choice_of
from llmctx.capture.payload.snapshot import LIMIT, cut
from llmctx.capture.payload.token_usage import Stream
from llmctx.core.diagnostics import diagnostics

CHAIN: Final = 6  # exceptions that wrap each other
_BODY_LIMIT: Final = 1024 * 1024  # bytes of a response that is parsed
_PLACES: Final = (
    "completion", "last_completion", "raw_completion", "response", "raw_response", "http_response", "body", "result",
    "llm_result", "answer", "ai_message",
)  # fmt: skip


def chain_of(error: BaseException) -> Iterator[Exception]:
    """Yield `error` and the exceptions that it wraps.

    CancelledError, GeneratorExit and their like come from outside; what they interrupted says nothing.
    """
    current: BaseException | None = error
    for _ in range(CHAIN):
        if not isinstance(current, Exception):
            return
        yield current
        if isinstance(current, ExceptionGroup) and len(current.exceptions) == 1:  # of a client's `TaskGroup`
            current = current.exceptions[0]
        else:
            current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def answer_in(error: BaseException, limit: int) -> Answer | None:
    """Return the answer that an exception carries; None for one that carries none."""
    for one in chain_of(error):
        for value in chain((getattr(one, name, None) for name in _PLACES), one.args[:1]):
            answer = None if value is None else _read(value, limit) or _refused(value, limit)
            if answer is not None:
                if (getattr(one, "n_attempts", 1) or 1) != 1:  # instructor's: the sum over all of its attempts
                    answer = answer._replace(usage=None, raw=None, cost=None)
                return answer
        text = getattr(one, "llm_output", None)  # LangChain's own parsers
        if isinstance(text, str) and text:
            return answer_of_choices((Choice(cut(text, limit)),), {}, None, None)
    return None


def merge(paid: Answer, partial: Answer | None) -> Answer:
    """Return `paid`, with what only the chunks of the stream have told."""
    if partial is None:
        return paid
    has_choices = any(choice != Choice() for choice in paid.choices)
    told = {name: getattr(paid, name) or getattr(partial, name) for name in Answer._fields}
    return Answer(**{**told, "choices": paid.choices if has_choices else partial.choices})


def with_events(answer: Answer | None, events: list[Any], limit: int) -> Answer | None:
    """Return `answer`, the partial one of a stream of events that broke, with the blocks that these have brought."""
    if not events:
        return answer
    return merge(answer or Answer(), Answer((choice_of({"content": begun_blocks(events, limit)}, limit),)))


def with_chunks(answer: Answer | None, stream: Stream | None, limit: int = LIMIT) -> Answer | None:
    """Return `answer`, the partial one of a call that did not end well, with what its chunks have brought.

    LangChain puts them together where `stream` breaks; where `invoke` streams, as in a graph whose messages are
    streamed, and where a call is cut off, nobody does. Never raises.
    """
    chunks = stream.chunks if stream is not None else None
    if not chunks or (answer is not None and any(choice != Choice() for choice in answer.choices)):
        return answer
    try:
        whole = merge_chat_generation_chunks(list(chunks))  # a copy: the call may go on elsewhere
    except Exception as problem:  # noqa: BLE001  as in `answer_of`
        diagnostics.count(
            "answer_unreadable", "a response could not be read; the row is stored without it", exc=problem
        )
        return answer
    found = answer_of(LLMResult(generations=[[whole or ChatGeneration(message=AIMessage(""))]]), limit)
    return found if answer is None else merge(answer, found)


def is_answer(body: Any) -> bool:
    """Return whether a body is an answer, of whichever provider, and no error."""
    return isinstance(body, Mapping) and not (body.get("error") or body.get("Error")) and _reader(body) is not None


def _read(value: Any, limit: int) -> Answer | None:
    if isinstance(value, AIMessage):
        return answer_of(LLMResult(generations=[[ChatGeneration(message=value)]]), limit)
    if isinstance(value, ChatResult):
        return answer_of(LLMResult(generations=[list(value.generations)], llm_output=value.llm_output), limit)
    if isinstance(value, LLMResult):
        return answer_of(value, limit)
    body = _as_dict(value)
    reader = _reader(body)
    return None if reader is None or body is None else reader(body, limit)


def _refused(body: Any, limit: int) -> Answer | None:
    """Return what a model has said that its provider has not let through: Groq's, a call or JSON that is none."""
    inner = body.get("error") or body if isinstance(body, dict) else None
    text = inner.get("failed_generation") if isinstance(inner, dict) else None
    return answer_of_choices((Choice(cut(text, limit)),), {}, None, None) if isinstance(text, str) and text else None


def _as_dict(value: Any) -> dict[str, Any] | None:
    if isinstance(value, dict):
        return value
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        found = dump(warnings=False)
        return found if isinstance(found, dict) else None
    raw = getattr(value, "_content", None)  # httpx and requests alike; asking for `.content` might read on
    if isinstance(raw, bytes) and 1 < len(raw) <= _BODY_LIMIT:
        try:
            found = orjson.loads(raw)
        except ValueError:  # a gateway's page
            return None
        return found if isinstance(found, dict) else None
    return None


def _reader(body: Mapping[str, Any] | None) -> Any:
    """Return what reads a body of that kind."""
    if body is None:
        return None
    for name, kind, reader in _READERS:
        found = body.get(name)
        if isinstance(found, kind) and (found or body.get("usage")):
            return reader
    return None


def _openai(body: dict[str, Any], limit: int) -> Answer:
    choices = [choice for choice in body["choices"] if isinstance(choice, dict)]
    first = choices[0] if choices else {}
    found = []
    for choice in choices:
        message = choice.get("message") or {"content": choice.get("text")}
        extra = {name: value for name, value in message.items() if name not in ("role", "content", "tool_calls")}
        calls = [_call(one.get("function") or one, one.get("id")) for one in message.get("tool_calls") or ()]
        found.append(_choice(message.get("content"), calls, limit, extra))
    return _answer(found, body, finish_reason=first.get("finish_reason"))


def _responses(body: dict[str, Any], limit: int) -> Answer:
    blocks: list[Any] = []
    calls = []
    for item in body["output"]:
        if isinstance(item, dict) and item.get("type") == "message":
            blocks += item.get("content") or []
        elif isinstance(item, dict) and item.get("type") == "function_call":
            calls.append(_call(item, item.get("call_id")))
        else:
            blocks.append(item)
    details = body.get("incomplete_details")
    return _answer([_choice(blocks, calls, limit)], body, status=body.get("status"), incomplete_details=details)


def _anthropic(body: dict[str, Any], limit: int) -> Answer:
    blocks = [block for block in body["content"] if isinstance(block, dict)]
    calls = [_call(block, block.get("id")) for block in blocks if block.get("type") == "tool_use"]
    return _answer([_choice(blocks, calls, limit)], body, stop_reason=body.get("stop_reason"))


def _gemini(body: dict[str, Any], limit: int) -> Answer:
    found = []
    for candidate in body["candidates"]:
        parts = (candidate.get("content") or {}).get("parts") or []
        blocks = [{**part, "type": "thinking"} if part.get("thought") else part for part in parts]
        calls = [
            _call(call, call.get("id")) for part in parts if (call := _first(part, "functionCall", "function_call"))
        ]
        texts = [block for block in blocks if not _first(block, "functionCall", "function_call")]
        found.append(_choice(texts, calls, limit))
    first = body["candidates"][0] if body["candidates"] else {}
    named = {
        "usage": _first(body, "usageMetadata", "usage_metadata"), "id": _first(body, "responseId", "response_id"),
        "model": _first(body, "modelVersion", "model_version"),
    }  # fmt: skip
    return _answer(found, named, finish_reason=_first(first, "finishReason", "finish_reason"))


def _bedrock(body: dict[str, Any], limit: int) -> Answer:
    blocks = (body["output"].get("message") or {}).get("content") or []
    calls = [_call(block["toolUse"], block["toolUse"].get("toolUseId")) for block in blocks if block.get("toolUse")]
    texts = [
        {"type": "reasoning_content", "reasoning_content": part.get("reasoningText")}
        if (part := block.get("reasoningContent"))
        else block
        for block in blocks
        if not block.get("toolUse")
    ]
    return _answer([_choice(texts, calls, limit)], body, stop_reason=body.get("stopReason"))


_READERS: Final = (
    ("choices", list, _openai),
    ("candidates", list, _gemini),
    ("output", list, _responses),
    ("output", dict, _bedrock),
    ("content", list, _anthropic),
)


def _choice(content: Any, calls: list[dict[str, Any]], limit: int, extra: dict[str, Any] | None = None) -> Choice:
    content = content if isinstance(content, (str, list)) else ""
    return choice_of({"content": content, "tool_calls": calls, "additional_kwargs": extra or {}}, limit)


def _call(call: Mapping[str, Any], call_id: Any) -> dict[str, Any]:
    return {"name": call.get("name"), "args": _first(call, "arguments", "input", "args"), "id": call_id}


def _answer(choices: list[Choice], body: Mapping[str, Any], **finish: Any) -> Answer:
    meta = {name: body.get(name) for name in ("id", "model", "usage", "service_tier", "headers") if body.get(name)}
    finish = {name: value for name, value in finish.items() if value is not None}
    return answer_of_choices(tuple(choices), {"response_metadata": {**meta, **finish}}, None, None)


def _first(body: Mapping[str, Any], *names: str) -> Any:
    return next((body[name] for name in names if body.get(name) is not None), None)
