"""The two protocols of the demo's provider: OpenAI's chat completions and Anthropic's messages.

Pure functions between JSON and two small values, `ChatRequest` and `Reply`. The texts are in `answers.py`;
serving, waiting and the log in `provider.py`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

TRUTH: Final = re.compile(r"\[patient (p-\d+), visit (v-\d+-\d+)\]")
TASK: Final = re.compile(r"Task: ([a-z]+(?: [a-z]+)?)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A request of either protocol."""

    model: str
    system: str
    texts: tuple[str, ...]
    """The text of every message but the system's, oldest first."""
    tool: Mapping[str, Any] | None
    """The first tool offered, `name` and JSON schema; None once its result is there."""
    stream: bool
    usage_in_stream: bool

    @property
    def task(self) -> str | None:
        found = TASK.search(self.system)
        return found[1] if found else None

    @property
    def question(self) -> str:
        return self.texts[0] if self.texts else ""

    @property
    def truth(self) -> tuple[str, str] | None:
        """Return patient and visit, from the last message that names them."""
        for text in reversed(self.texts):
            if found := TRUTH.findall(text):
                patient, visit = found[-1]
                return patient, visit
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, independent of the protocol."""

    id: str
    model: str
    text: str
    tool: tuple[str, dict[str, Any]] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


def _text(content: Any) -> str:
    """Return the text of a message's content: a string, or blocks of which some hold text."""
    if isinstance(content, list):
        return "\n".join(
            _text(block.get("text") or block.get("content")) for block in content if isinstance(block, dict)
        )
    return content if isinstance(content, str) else ""


def read_openai(body: Mapping[str, Any]) -> ChatRequest:
    """Read a chat completions request."""
    messages = body["messages"]
    system = [m for m in messages if m["role"] in ("system", "developer")]
    others = [m for m in messages if m["role"] not in ("system", "developer")]
    tools = body.get("tools") or []
    answered = bool(others) and others[-1]["role"] == "tool"
    offer = tools[0]["function"] if tools and not answered else None
    return ChatRequest(
        model=body["model"],
        system="\n".join(_text(m.get("content")) for m in system),
        texts=tuple(_text(m.get("content")) for m in others),
        tool={"name": offer["name"], "schema": offer.get("parameters") or {}} if offer else None,
        stream=bool(body.get("stream")),
        usage_in_stream=bool((body.get("stream_options") or {}).get("include_usage")),
    )


def read_anthropic(body: Mapping[str, Any]) -> ChatRequest:
    """Read a messages request."""
    messages = body["messages"]
    last = messages[-1]["content"] if messages else ""
    answered = isinstance(last, list) and any(block.get("type") == "tool_result" for block in last)
    tools = body.get("tools") or []
    offer = tools[0] if tools and not answered else None
    return ChatRequest(
        model=body["model"],
        system=_text(body.get("system")),
        texts=tuple(_text(m["content"]) for m in messages),
        tool={"name": offer["name"], "schema": offer.get("input_schema") or {}} if offer else None,
        stream=bool(body.get("stream")),
        usage_in_stream=True,
    )


def pieces(text: str) -> list[str]:
    """Split `text` as a stream does: word by word, Chinese three characters at a time."""
    return re.findall(r"[\u3000-\uffef]{1,3}|[^\s\u3000-\uffef]+\s*|\s+", text)


def _openai_usage(reply: Reply) -> dict[str, Any]:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _openai_tool_calls(reply: Reply) -> list[dict[str, Any]]:
    assert reply.tool is not None
    name, arguments = reply.tool
    return [
        {
            "id": f"call_{reply.id}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
        }
    ]


def openai_body(reply: Reply) -> dict[str, Any]:
    """Return the body of a plain chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None, "refusal": None}
    if reply.tool:
        message["tool_calls"] = _openai_tool_calls(reply)
    return {
        "id": f"chatcmpl-{reply.id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": reply.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if reply.tool else "stop"}],
        "usage": _openai_usage(reply),
    }


def openai_events(reply: Reply, usage: bool) -> Iterator[str]:
    """Return the same as server-sent events; the closing usage chunk only if requested, like the real service."""

    def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
        head = {"id": f"chatcmpl-{reply.id}", "object": "chat.completion.chunk", "created": int(time.time())}
        return _sse({**head, "model": reply.model, "choices": choices, **more})

    def delta(content: dict[str, Any], finish: str | None = None) -> str:
        return chunk([{"index": 0, "delta": content, "finish_reason": finish}])

    yield delta({"role": "assistant", "content": ""})
    if reply.tool:
        yield delta({"tool_calls": [{"index": 0, **_openai_tool_calls(reply)[0]}]})
    for piece in pieces(reply.text):
        yield delta({"content": piece})
    yield delta({}, "tool_calls" if reply.tool else "stop")
    if usage:
        yield chunk([], usage=_openai_usage(reply))
    yield "data: [DONE]\n\n"


def _anthropic_usage(reply: Reply) -> dict[str, int]:
    # Anthropic counts what came from its cache apart from the input; OpenAI counts it inside.
    return {
        "input_tokens": reply.prompt_tokens - reply.cached_tokens,
        "cache_read_input_tokens": reply.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": reply.completion_tokens,
    }


def _anthropic_blocks(reply: Reply) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if reply.text:
        blocks.append({"type": "text", "text": reply.text})
    if reply.tool:
        name, arguments = reply.tool
        blocks.append({"type": "tool_use", "id": f"toolu_{reply.id}", "name": name, "input": arguments})
    return blocks


def anthropic_body(reply: Reply) -> dict[str, Any]:
    """Return the body of a plain message."""
    return {
        "id": f"msg_{reply.id}",
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": _anthropic_blocks(reply),
        "stop_reason": "tool_use" if reply.tool else "end_turn",
        "stop_sequence": None,
        "usage": _anthropic_usage(reply),
    }


def anthropic_events(reply: Reply) -> Iterator[str]:
    """Return the same as server-sent events."""
    usage = _anthropic_usage(reply)
    start = {**anthropic_body(reply), "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield _sse({"type": "message_start", "message": start})
    for index, block in enumerate(_anthropic_blocks(reply)):
        if block["type"] == "text":
            empty: dict[str, Any] = {**block, "text": ""}
            deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
        else:
            empty = {**block, "input": {}}
            arguments = json.dumps(block["input"], ensure_ascii=False)
            deltas = [{"type": "input_json_delta", "partial_json": arguments}]
        yield _sse({"type": "content_block_start", "index": index, "content_block": empty})
        for delta in deltas:
            yield _sse({"type": "content_block_delta", "index": index, "delta": delta})
        yield _sse({"type": "content_block_stop", "index": index})
    end = {"stop_reason": "tool_use" if reply.tool else "end_turn", "stop_sequence": None}
    yield _sse({"type": "message_delta", "delta": end, "usage": usage})
    yield _sse({"type": "message_stop"})


def _sse(event: Mapping[str, Any]) -> str:
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event, ensure_ascii=False)}\n\n"


_OPENAI_ERRORS: Final[Mapping[int, tuple[str, str, str]]] = {
    400: ("invalid_request_error", "context_length_exceeded", "This model's maximum context length is 128000 tokens."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for requests per minute. Please try again in 1s."),
    500: ("server_error", "server_error", "The server had an error while processing your request."),
}
_ANTHROPIC_ERRORS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("invalid_request_error", "prompt is too long: 205000 tokens > 200000 maximum"),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit."),
    500: ("api_error", "Internal server error"),
    529: ("overloaded_error", "Overloaded"),
}


def openai_error(status: int) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    kind, code, message = _OPENAI_ERRORS.get(status, _OPENAI_ERRORS[500])
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def anthropic_error(status: int) -> dict[str, Any]:
    """Return an error in Anthropic's form."""
    kind, message = _ANTHROPIC_ERRORS.get(status, _ANTHROPIC_ERRORS[500])
    return {"type": "error", "error": {"type": kind, "message": message}}
