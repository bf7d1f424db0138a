"""From an ended call to its row: `record_of`, in the pipeline's thread."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from llmctx.context import CallContext
from llmctx.evidence import KEY as EVIDENCE
from llmctx.evidence import evidence
from llmctx.extract import fields_of
from llmctx.open_calls import OpenCall
from llmctx.record import COLUMNS, CallRecord, Status
from llmctx.snapshot import snapshot

_NANO: Final = 1_000_000


def record_of(call: OpenCall, *, content: str, limit: int) -> CallRecord:
    """The row of `call`. Times come from its start and a monotonic clock, never from now."""
    created = datetime.fromtimestamp(call.created_s, UTC)
    took_ns = max(0, call.ended_ns - call.started_ns)
    fields = _told(call, content, limit)
    if call.fields is not None:
        fields.update(_by_hand(call.fields, content, limit))
    attributes = dict(fields.pop("attributes", None) or {})
    fields.update(_identity(call, fields, attributes))
    status = call.status
    if status is Status.CANCELLED:
        fields["error_code"] = fields.get("error_code") or "cancelled"
    elif status is Status.OK and fields.get("error_code"):
        status = Status.ERROR  # LangChain reports no error, and yet there is no answer
    return CallRecord(
        call_id=UUID(int=call.call_id.int),
        created_at=created,
        finished_at=created + timedelta(microseconds=took_ns // 1000),
        latency_ms=round(took_ns / _NANO),
        ttft_ms=round((call.first_token_ns - call.started_ns) / _NANO) if call.first_token_ns else None,
        status=status.value,
        success=status is Status.OK,
        run_id=call.run_id,
        parent_run_id=call.parent_run_id,
        attributes=attributes or None,
        **{name: value for name, value in fields.items() if name in _TOLD},
    )


def bare_record_of(call: OpenCall) -> CallRecord:
    """The row of a call of which nothing else could be read: whose it was, when, and how it ended."""
    created = datetime.fromtimestamp(call.created_s, UTC)
    took_ns = max(0, call.ended_ns - call.started_ns)
    return CallRecord(
        call_id=UUID(int=call.call_id.int),
        created_at=created,
        finished_at=created + timedelta(microseconds=took_ns // 1000),
        latency_ms=round(took_ns / _NANO),
        status=call.status.value,
        success=call.status is Status.OK,
        model=str((call.metadata or {}).get("ls_model_name") or "unknown"),
        run_id=call.run_id,
        parent_run_id=call.parent_run_id,
        **_identity(call, {}, {}),
    )


_OURS: Final = frozenset(
    {"call_id", "created_at", "finished_at", "latency_ms", "ttft_ms", "status", "success", "run_id"}
)
_TOLD: Final = frozenset(COLUMNS) - _OURS - {"parent_run_id", "attributes"}


def _told(call: OpenCall, content: str, limit: int) -> dict[str, Any]:
    """What LangChain told of the call, as columns."""
    fields = fields_of(
        metadata=call.metadata,
        params=call.params,
        tags=call.tags,
        prompt=call.prompt,
        answer=call.answer,
        failure=call.failure,
        stream=call.stream,
        content=content,
        limit=limit,
    )
    fields["streamed"] = call.is_stream or call.stream is not None
    return fields


def _by_hand(given: dict[str, Any], content: str, limit: int) -> dict[str, Any]:
    """What `CallLog.record` was given, as columns: `response` and `reasoning` become snapshots."""
    fields = dict(given)
    response, reasoning = fields.pop("response", None), fields.pop("reasoning", None)
    if content == "full":
        if response is not None:
            fields["response_snapshot"] = snapshot({"role": "assistant", "content": response}, limit)
        if reasoning is not None:
            fields["reasoning_snapshot"] = snapshot(reasoning, limit)
    if any(fields.get(name) is not None for name in ("prompt_tokens", "completion_tokens", "total_tokens")):
        fields.setdefault("usage_source", "provider")
    return fields


def _identity(call: OpenCall, fields: dict[str, Any], attributes: dict[str, Any]) -> dict[str, Any]:
    verdict = call.verdict
    identity: CallContext = verdict.identity
    if identity.attributes:
        for key, value in identity.attributes.items():
            attributes.setdefault(key, value)
    said = evidence(verdict, call.hearing, call.found)
    if said is not None:
        attributes[EVIDENCE] = said
    return {
        "session_id": identity.session_id,
        "user_id": identity.user_id,
        "trace_id": identity.trace_id,
        "conversation_id": identity.conversation_id,
        "agent_key": identity.agent_key or fields.get("agent_key"),
        "thread_id": call.hearing.thread_id or identity.thread_id,
        "identity_source": verdict.source.value,
        "identity_reason": None if verdict.reason is None else verdict.reason.value,
    }
