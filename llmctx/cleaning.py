"""What a database refuses, taken out before it meets one. A cleaned record says so in its attributes.

PostgreSQL refuses NUL and lone surrogates in text, NaN in JSON, numbers out of range; one such value would cost the
whole batch. Cleaning costs microseconds, finding the culprit afterwards milliseconds.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import orjson

from llmctx.record import CallRecord

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_INT4: Final = 2**31 - 1
_TEXT: Final = (
    "model", "trace_id", "session_id", "conversation_id", "user_id", "agent_key", "error_code", "error_message",
    "prompt_snapshot", "response_snapshot", "thread_id", "node", "provider", "finish_reason", "reasoning_snapshot",
    "status", "identity_source", "identity_reason", "usage_source",
)  # fmt: skip
_INTEGERS: Final = (
    "max_tokens", "prompt_tokens", "completion_tokens", "total_tokens", "latency_ms", "cached_tokens",
    "reasoning_tokens", "ttft_ms", "tool_calls",
)  # fmt: skip
_FLOATS: Final = ("temperature", "top_p")
UNKNOWN_MODEL: Final = "unknown"
ATTRIBUTES_LIMIT: Final = 65_536
_DEAREST: Final = Decimal(10**9)  # numeric(18, 9) ends there
_NAMES_LIMIT: Final = {
    **dict.fromkeys(("model", "error_code", "node", "provider", "finish_reason", "thread_id"), 1024),
    "error_message": 65_536,
}


def clean(record: CallRecord) -> CallRecord:
    """Make every value of `record` storable, in place. What was changed is listed under `llmctx_cleaned`."""
    changed: list[str] = []
    for name in _TEXT:
        value = getattr(record, name)
        if value is None:
            continue
        text = storable_text(value)
        limit = _NAMES_LIMIT.get(name)
        if limit is not None and len(text) > limit:
            text = f"{text[: limit - 24]}…[{len(text) - limit + 24} cut]"
        if text is not value:
            setattr(record, name, text)
            changed.append(name)
    for name in _INTEGERS:
        number = getattr(record, name)
        if number is not None and not (type(number) is int and -_INT4 <= number <= _INT4):
            setattr(record, name, _as_int4(number))
            changed.append(name)
    for name in _FLOATS:
        value = getattr(record, name)
        if value is not None and not (type(value) is float and math.isfinite(value)):
            setattr(record, name, _as_float(value))
            if type(value) is not int:
                changed.append(name)
    for name in ("created_at", "finished_at"):
        at = getattr(record, name)
        if isinstance(at, datetime) and at.tzinfo is None:
            setattr(record, name, at.replace(tzinfo=UTC))
            changed.append(name)
    for name in ("streamed", "cached"):
        flag = getattr(record, name)
        if flag is not None and type(flag) is not bool:
            setattr(record, name, bool(flag))
    if record.cost_usd is not None and not _is_price(record.cost_usd):
        record.cost_usd = _as_price(record.cost_usd)
        changed.append("cost_usd")
    if not record.model:
        record.model = UNKNOWN_MODEL
    if record.attributes and len(text := storable_json(record.attributes) or "") > ATTRIBUTES_LIMIT:
        record.attributes = {"llmctx_cut": f"{len(text)} characters of attributes, too many to keep"}
        changed.append("attributes")
    if changed:
        record.attributes = {**(record.attributes or {}), "llmctx_cleaned": changed}
    return record


def storable_text(value: object) -> str:
    """`value` as text that PostgreSQL takes: the same object if nothing had to be changed."""
    text = value if isinstance(value, str) else str(value)
    if _UNSTORABLE.search(text) is None:
        return text
    return _UNSTORABLE.sub("\ufffd", text)


def storable_json(value: Any) -> str | None:
    """`value` as JSON text that PostgreSQL's jsonb takes; None for nothing. Never raises."""
    if not value:
        return None
    try:
        text = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError, RecursionError):
        text = orjson.dumps({"llmctx_unserialisable": storable_text(_shown(value))}).decode()
    return text.replace("\\u0000", "\\ufffd") if "\\u0000" in text else text


def _shown(value: Any) -> str:
    try:
        return repr(value)[:2000]
    except Exception:  # noqa: BLE001  an object of the host's
        return type(value).__name__


def _is_price(value: Any) -> bool:
    return type(value) is Decimal and value.is_finite() and 0 <= value < _DEAREST


def _as_price(value: Any) -> Decimal | None:
    try:
        price = Decimal(str(value))
        return price if _is_price(price) else None
    except ArithmeticError:
        return None


def _as_int4(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if -_INT4 <= number <= _INT4 else None


def _as_float(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
