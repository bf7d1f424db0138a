"""Exceptions of failed calls: the provider's code, type, status and own words.

Clients of one family build their exceptions alike, so they are read by what they carry, not by their names: a body
as JSON (openai, anthropic, groq, cohere), `response["Error"]` (botocore), `details` (google), `error` (ollama), or
the HTTP response alone (mistral, httpx). Exceptions that wrap others are followed to the first that says something.

The exception itself is never kept: its traceback holds the frames of the application.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final, NamedTuple

from llmctx.capture.payload.raw_answers import chain_of, is_answer
from llmctx.capture.payload.snapshot import Cut, cut
from llmctx.core.diagnostics import diagnostics

BODY_LIMIT: Final = 64 * 1024  # bytes of a response that is still to be read
CODE_LIMIT: Final = 200
MESSAGE_LIMIT: Final = 8 * 1024

_SHOWN: Final = re.compile(r"ResponseError\(code='([\w.-]{1,64})', message=(['\"])(.*?)\2[,)]", re.DOTALL)
"""OpenAI's error as LangChain writes it into a `ValueError` when a stream of the Responses API fails."""
_MESSAGES: Final = ("message", "Message", "detail", "msg", "error_description", "error")


class CallFailure(NamedTuple):
    """A failed call. `message` is the provider's, `text` what the exception says of itself."""

    name: str
    code: str | None = None
    kind: str | None = None
    status: int | None = None
    message: str | Cut | None = None
    text: str | Cut | None = None
    body: bytes | None = None  # unread, for the pipeline


def failure_of(error: BaseException, limit: int = MESSAGE_LIMIT) -> CallFailure:
    """Read `error`, bounded, on the caller's thread. Never raises."""
    name = type(error).__name__
    try:
        found = _of_chain(error, limit)
        if found is None:
            text = _text_of(error, limit)
            shown = _SHOWN.match(text) if isinstance(text, str) else None
            return CallFailure(name, text=text) if shown is None else CallFailure(name, shown[1], message=shown[3])
        text = None if found.message else _text_of(error, limit)
        return found._replace(name=name, text=text)
    except Exception as problem:  # noqa: BLE001  an exception that cannot be read still has its class
        diagnostics.count(
            "failure_unreadable", "an error could not be read; the row has only its class and text", exc=problem
        )
        return CallFailure(name, text=_text_of(error, limit))


_CONTROL_FLOW: Final = frozenset({"GraphBubbleUp", "GraphInterrupt", "ParentCommand"})


def is_cancelled(error: BaseException) -> bool:
    """Return whether the caller went away, rather than the call failed: cancelled, stream left, graph interrupted."""
    if isinstance(error, (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)):
        return True
    return any(cls.__name__ in _CONTROL_FLOW for cls in type(error).__mro__)


def _of_chain(error: BaseException, limit: int) -> CallFailure | None:
    """Return the first of `error` and what it wraps that carries a provider's words."""
    status_only: CallFailure | None = None
    for one in chain_of(error):
        found = _of_one(one, limit)
        if found is not None and (found.code or found.kind or found.message or found.body):
            return found
        status_only = status_only or found
    return status_only


def _of_one(error: Exception, limit: int) -> CallFailure | None:
    response = getattr(error, "response", None)
    status = _status(error, response)
    own_code, own_kind = getattr(error, "code", None), getattr(error, "type", None)
    for body in (
        getattr(error, "body", None),
        getattr(error, "details", None),
        response,
        getattr(error, "error", None),
        # langchain-openai's, for a body with an error and the status of a success
        error.args[0] if error.args and isinstance(error.args[0], dict) else None,
    ):
        found = read_body(body, limit)
        if found is not None:
            return found._replace(code=found.code or _word(own_code), kind=found.kind or _word(own_kind), status=status)
    # httpx and requests alike; asking for `.content` might read from the network
    raw = getattr(response, "_content", None)
    raw = raw[:BODY_LIMIT] if isinstance(raw, bytes) and raw else None
    if status is None and raw is None:
        return None
    return CallFailure("", _word(own_code) if raw is None else None, _word(own_kind), status, body=raw)


def read_body(body: Any, limit: int) -> CallFailure | None:
    """Read an error as the common APIs spell it; None for anything else."""
    if isinstance(body, (list, tuple)) and body:
        body = body[0]
    if isinstance(body, str) and body:
        return CallFailure("", message=cut(body, limit))
    if not isinstance(body, dict) or is_answer(body):
        return None
    inner = body.get("error") or body.get("Error") or body
    if not isinstance(inner, dict):
        inner = body
    code = _word(inner.get("code")) or _word(inner.get("Code"))
    kind = _word(inner.get("type")) or _word(inner.get("status"))
    message = next((found for key in _MESSAGES if (found := _sentence(inner.get(key)))), None)
    if not (code or kind or message):
        return None
    return CallFailure("", code, kind, message=cut(message, limit) if message else None)


def _sentence(value: Any) -> str | None:
    """Return a message, also out of the list of complaints that FastAPI's servers send."""
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    if isinstance(value, dict):
        value = value.get("msg") or value.get("message")
    return value if isinstance(value, str) and value else None


def _word(value: Any) -> str | None:
    if isinstance(value, str):
        return value[:CODE_LIMIT] or None
    return str(int(value)) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9 else None


def _status(error: Exception, response: Any) -> int | None:
    if isinstance(response, dict):  # botocore
        meta = response.get("ResponseMetadata")
        found = meta.get("HTTPStatusCode") if isinstance(meta, dict) else None
    else:
        found = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    return found if isinstance(found, int) and 100 <= found < 1000 else None


def _text_of(error: BaseException, limit: int) -> str | Cut | None:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  a `__str__` of the host's
        return None
    return cut(text, limit) if text else None
