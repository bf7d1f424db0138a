"""From the snapshots of a row, which are redacted, to messages as OpenTelemetry's conventions spell them."""

from __future__ import annotations

from typing import Any

import orjson

from llmctx.core.record import CallRecord
from llmctx.telemetry import names


def message_attributes(record: CallRecord) -> dict[str, str]:
    """Return the attributes that hold what was said, each a JSON text; a snapshot that is no JSON is one text."""
    prompt = _loaded(record.prompt_snapshot)
    asked = [_message(one) for one in (prompt if isinstance(prompt, list) else [prompt]) if one is not None]
    system = [part for one in asked if one["role"] == "system" for part in one["parts"]]
    asked = [one for one in asked if one["role"] != "system"]
    answered = _answers(record)
    found = {names.SYSTEM_INSTRUCTIONS: system, names.INPUT_MESSAGES: asked, names.OUTPUT_MESSAGES: answered}
    return {name: orjson.dumps(value, default=str).decode() for name, value in found.items() if value}


def _answers(record: CallRecord) -> list[dict[str, Any]]:
    response = _loaded(record.response_snapshot)
    choices = response if isinstance(response, list) else [response]
    messages = [_message(one, "assistant") for one in choices if one is not None]
    if not messages:
        return []
    if record.reasoning_snapshot:
        reasoning = _loaded(record.reasoning_snapshot)
        messages[0]["parts"].insert(0, {"type": "reasoning", "content": _text(reasoning)})
    for message in messages:
        message["finish_reason"] = record.finish_reason or ""
    return messages


def _loaded(snapshot: str | None) -> Any:
    if snapshot is None:
        return None
    try:
        return orjson.loads(snapshot)
    except orjson.JSONDecodeError:
        return snapshot


def _message(one: Any, role: str = "user") -> dict[str, Any]:
    if not isinstance(one, dict):
        return {"role": role, "parts": [{"type": "text", "content": _text(one)}]}
    content = one.get("content")
    if one.get("role") == "tool":
        parts = [{"type": "tool_call_response", "id": one.get("tool_call_id"), "response": content}]
    else:
        blocks = content if isinstance(content, list) else [content]
        parts = [_part(block) for block in blocks if block not in (None, "")]
    calls = one.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        if isinstance(call, dict):
            parts.append(
                {"type": "tool_call", "id": call.get("id"), "name": call.get("name"), "arguments": call.get("args")}
            )
    return {"role": str(one.get("role") or role), "parts": parts}


def _part(block: Any) -> dict[str, Any]:
    if isinstance(block, dict) and block.get("type") not in (None, "text"):
        return block  # the conventions let parts of other types be what they are
    return {"type": "text", "content": _text(block.get("text") if isinstance(block, dict) else block)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
