"""One row: `CallRecord`, the words that stand in it, and the seam through which it leaves (`Sink`).

A field of `CallRecord` is a column of `biz_agent_llm_call_logs`, in its order. A record is made once, when the
call has ended, and never changed afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, Protocol
from uuid import UUID

DEFAULT_TABLE: Final = "biz_agent_llm_call_logs"
CACHE_WRITTEN: Final = "llmctx_cache_written"
"""The key of `attributes` for prompt tokens that went into the provider's cache: they cost more, and have no column."""
CACHE_WRITTEN_1H: Final = "llmctx_cache_written_1h"
"""Those of them that are kept for an hour, and cost more still."""
SNAPSHOTS: Final = ("prompt_snapshot", "response_snapshot", "reasoning_snapshot")


class Status(StrEnum):
    """How a call ended."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"  # its task was cancelled, it timed out, or a sibling failed
    ABANDONED = "abandoned"  # nobody ever read it to the end
    LOST = "lost"  # the process died


class Source(StrEnum):
    """Which source was believed. Their order is that of `identity.sources`."""

    EXPLICIT = "explicit"
    CONTEXT = "context"
    CARRIED = "carried"
    TASK = "task"
    THREAD = "thread"
    LATE = "late"
    NONE = "none"


class Reason(StrEnum):
    """Why an id is missing, or what is odd."""

    NO_SCOPE = "no_scope"  # no scope, no thread_id, nothing carried: nobody could know
    ANONYMOUS_REQUEST = "anonymous_request"  # a request without an authenticated user
    IDENTIFY_FAILED = "identify_failed"  # the team's `identify` raised
    INVALID_HANDOVER = "invalid_handover"  # the job's token was forged or had expired
    UNKNOWN_THREAD = "unknown_thread"  # a thread_id that the registry has never seen, or has forgotten
    SHARED_THREAD = "shared_thread"  # several users have used this thread: it testifies to none of them
    REGISTRY_AWAY = "registry_away"  # only other processes could know, and the shared registry did not answer
    SHARED_JOB = "shared_job"  # a worker has taken several users' items at once, and works for all of them
    EXPIRED_SCOPE = "expired_scope"  # the scope closed too long ago
    INTERNAL_ERROR = "internal_error"  # llmctx failed where it was to find out, or to note, whose the call is
    PARTIAL = "partial"  # the witness knows the user or the session, not both
    CONFLICT = "conflict"  # witnesses name different users; the strongest was believed
    ERASED = "erased"  # somebody was forgotten: ids and texts were taken out, the figures left


@dataclass(slots=True, kw_only=True)
class CallRecord:
    """One LLM call, as it is stored. Times are aware UTC, `*_ms` are milliseconds, None is unknown."""

    call_id: UUID
    created_at: datetime
    model: str
    trace_id: str | None = None
    session_id: str | None = None
    conversation_id: str | None = None
    user_id: str | None = None
    agent_key: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    latency_ms: int | None = None
    success: bool | None = None
    error_code: str | None = None
    error_message: str | None = None
    prompt_snapshot: str | None = None
    response_snapshot: str | None = None
    finished_at: datetime | None = None
    thread_id: str | None = None
    node: str | None = None
    provider: str | None = None
    run_id: UUID | None = None
    parent_run_id: UUID | None = None
    status: str | None = None
    identity_source: str | None = None
    identity_reason: str | None = None
    usage_source: str | None = None
    finish_reason: str | None = None
    reasoning_snapshot: str | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    ttft_ms: int | None = None
    tool_calls: int | None = None
    cost_usd: Decimal | None = None
    streamed: bool | None = None
    cached: bool | None = None
    attributes: dict[str, Any] | None = None


COLUMNS: Final = tuple(f.name for f in fields(CallRecord))


def without_snapshots(record: CallRecord, why: str) -> None:
    """Keep the row of a call whose texts there is no room for."""
    for name in SNAPSHOTS:
        setattr(record, name, None)
    record.attributes = {**(record.attributes or {}), "llmctx_snapshots": f"dropped: {why}"}


class Sink(Protocol):
    """Where records go."""

    def submit(self, record: CallRecord) -> bool:
        """Take `record` without waiting. False means refused: the caller counts it as dropped."""
        ...
