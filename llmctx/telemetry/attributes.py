"""From a row to the attributes of its span, by the conventions of `names.py`."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from llmctx.core.record import CallRecord, Status
from llmctx.core.tracing import Span
from llmctx.settings import Settings
from llmctx.telemetry import names

Value = str | int | float | bool | list[str]
Attributes = dict[str, Value]


class EndedCall(Protocol):
    """The part of the call (`capture.call.OpenCall`) that a row was made of which is asked."""

    span: Span | None
    serialized: Any
    is_completion: bool
    is_observed: bool


def user_shown(settings: Settings) -> Callable[[str | None], str | None]:
    """Return how a user's id is spelled outside of the database, by `LLMCTX_OTEL_USER`."""
    if settings.otel_user == "id":
        return lambda user_id: user_id
    if settings.otel_user == "off":
        return lambda user_id: None
    key = _key(settings)

    def hashed(user_id: str | None) -> str | None:
        if user_id is None:
            return None
        return hmac.new(key, user_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]

    return hashed


def _key(settings: Settings) -> bytes:
    """Return what all processes of the application share, and keep when they are started anew, or their database's
    password is rotated."""
    own = settings.otel_key or (settings.handover_key or "").partition(",")[0].strip()
    return hashlib.sha256(f"llmctx.otel.user\n{own or settings.database_key}".encode()).digest()


def people_attributes(ids: Any, user: str | None, *, agent: str | None = None) -> Attributes:
    """Return what says whose a span is, of ids that stand in a row or in a `CallContext`; `user` as it is shown."""
    agent = agent or ids.agent_key
    conversation = ids.conversation_id or ids.session_id
    return _known(
        {
            names.USER: user,
            names.SESSION: ids.session_id,
            names.CONVERSATION: conversation,
            names.AGENT: agent,
        }
    )


def provider_name(record: CallRecord) -> str | None:
    """Return the conventions' name of a row's provider."""
    return names.PROVIDERS.get(record.provider or "", record.provider)


def operation_of(call: EndedCall) -> str:
    """Return the conventions' word for what was asked of the model."""
    return names.TEXT_COMPLETION if call.is_completion else names.CHAT


def error_type(record: CallRecord) -> str | None:
    """Return why a call has no answer, in a word; None where that is no error."""
    if record.status in (Status.ERROR, Status.CANCELLED):
        return record.error_code or record.status
    return None


def span_attributes(record: CallRecord, call: EndedCall, user: str | None) -> Attributes:
    """Return the attributes of the span of a call; what is unknown is left out."""
    server = _server(call.serialized)
    found: dict[str, Value | None] = {
        names.OPERATION: operation_of(call),
        names.PROVIDER: provider_name(record),
        names.REQUEST_MODEL: record.model,
        names.REQUEST_TEMPERATURE: record.temperature,
        names.REQUEST_TOP_P: record.top_p,
        names.REQUEST_MAX_TOKENS: record.max_tokens,
        names.REQUEST_STREAM: True if record.streamed else None,
        names.TIME_TO_FIRST_CHUNK: record.ttft_ms / 1000 if record.streamed and record.ttft_ms is not None else None,
        names.RESPONSE_MODEL: record.response_model,
        names.RESPONSE_ID: record.response_id,
        names.FINISH_REASONS: [record.finish_reason] if record.finish_reason else None,
        names.INPUT_TOKENS: record.prompt_tokens,
        names.OUTPUT_TOKENS: record.completion_tokens,
        names.CACHE_READ_TOKENS: record.cached_tokens,
        names.CACHE_WRITE_TOKENS: record.cache_write_tokens,
        names.REASONING_TOKENS: record.reasoning_tokens,
        names.ERROR_TYPE: error_type(record),
        names.SERVER_ADDRESS: server[0],
        names.SERVER_PORT: server[1],
        names.THREAD: record.thread_id,
        names.NODE: record.node,
        names.STATUS: record.status,
        names.TOOL_CALLS: record.tool_calls,
        names.COST: None if record.cost_usd is None else float(record.cost_usd),
        names.IDENTITY_SOURCE: record.identity_source,
        names.IDENTITY_REASON: record.identity_reason,
        names.CALL_ID: str(record.call_id),
    }
    known = _known(found) | people_attributes(record, user)
    if names.adds_former_names():
        known |= {former: known[name] for name, former in names.FORMER.items() if name in known}
    return known


def _known(values: Mapping[str, Value | None]) -> Attributes:
    return {name: value for name, value in values.items() if value is not None}


_URLS: Final = ("base_url", "openai_api_base", "azure_endpoint", "anthropic_api_url", "endpoint_url", "endpoint")
"""The arguments of LangChain's models that say where the provider is."""
_PORTS: Final = {"https": 443, "http": 80}


def _server(serialized: Any) -> tuple[str | None, int | None]:
    """Return host and port of the provider, where the model's own arguments name them."""
    arguments = serialized.get("kwargs") if isinstance(serialized, dict) else None
    if not isinstance(arguments, dict):
        return None, None
    for name in _URLS:
        if isinstance(url := arguments.get(name), str) and "://" in url:
            try:
                parts = urlsplit(url)
                return parts.hostname, parts.port or _PORTS.get(parts.scheme)
            except ValueError:  # no port
                break
    return None, None
