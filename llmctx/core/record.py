"""One row: `CallRecord`, and the words that stand in it.

A field of `CallRecord` is a column of `biz_agent_llm_call_logs`, in its order, and its `ColumnSpec` (`columns.py`) says
what every other module needs to know of it. A record is made once, when the call has ended, and never changed
afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from llmctx.core.columns import ColumnKind, ColumnSpec

DEFAULT_TABLE: Final = "biz_agent_llm_call_logs"
CACHE_WRITTEN: Final = "llmctx_cache_written"
"""The key of `attributes` that held `cache_write_tokens` before revision 0002."""
CACHE_WRITTEN_1H: Final = "llmctx_cache_written_1h"
"""The key of `attributes` for those of `cache_write_tokens` that are kept for an hour, and cost more."""

AUDIO_IN: Final = "llmctx_audio_in"
AUDIO_OUT: Final = "llmctx_audio_out"
"""The keys of `attributes` for those of the prompt's and the completion's tokens that are sound, and cost otherwise."""
CONTRADICTORY: Final = "llmctx_contradictory"
"""The key of `attributes` for figures of the provider that contradict its others, by column: NULL stands there."""
CLEANED: Final = "llmctx_cleaned"
"""The key of `attributes` for the columns in which something was cut or replaced, so that it could be stored."""
SHARED_USAGE: Final = "llmctx_shared_usage"
"""The key of `attributes` for the number of calls of which the tokens that were reported are the sum: they are NULL."""


class Status(StrEnum):
    """The end of a call."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"  # its task was cancelled, it timed out, or a sibling failed
    ABANDONED = "abandoned"  # it was never read to the end
    LOST = "lost"  # the process died


class Source(StrEnum):
    """The source that was believed. Their order is that of `identity.sources`."""

    EXPLICIT = "explicit"
    CONTEXT = "context"
    CARRIED = "carried"
    TASK = "task"
    THREAD = "thread"
    LATE = "late"
    NONE = "none"


class Reason(StrEnum):
    """The reason why an id is missing, or what is odd. `identity/reasons.py` says what each means, and what helps."""

    NO_SCOPE = "no_scope"
    ANONYMOUS_REQUEST = "anonymous_request"
    IDENTIFY_FAILED = "identify_failed"
    INVALID_HANDOVER = "invalid_handover"
    UNKNOWN_THREAD = "unknown_thread"
    SHARED_THREAD = "shared_thread"
    REGISTRY_AWAY = "registry_away"
    SHARED_JOB = "shared_job"
    EXPIRED_SCOPE = "expired_scope"
    INTERNAL_ERROR = "internal_error"
    PARTIAL = "partial"
    CONFLICT = "conflict"
    ERASED = "erased"


class UsageSource(StrEnum):
    """The origin of a call's token figures, or why there are none. `storage/queries/token_gaps.py` says what helps."""

    PROVIDER = "provider"
    NO_STREAM_USAGE = "missing:stream"  # a stream that was read to its end brought none
    UNFINISHED = "missing:unfinished"  # the call failed, or was not read to its end
    UNCERTAIN = "missing:uncertain"  # the figures of a stream's chunks contradict each other, or are of several calls
    NOT_REPORTED = "missing:provider"  # the answer has none


class CostSource(StrEnum):
    """The origin of a call's cost."""

    PROVIDER = "provider"  # the answer itself, or the gateway that passed it on
    PRICE_FILE = "price file"  # the team's own prices
    PRICE_LIST = "genai-prices"
    CACHE = "cache"  # LangChain's cache answered: nothing was paid
    MANUAL = "manual"  # `CallLog.record(cost_usd=…)`


def _spec(kind: ColumnKind, **more: Any) -> dict[str, ColumnSpec]:
    return {"column": ColumnSpec(kind=kind, **more)}


def _column(kind: ColumnKind, **more: Any) -> Any:
    """Return a field of `CallRecord` that is unknown unless set. Type checkers see a default."""
    return field(default=None, metadata=_spec(kind, **more))


_SNAPSHOT_LIMIT: Final = 32 * 1024 * 1024
"""Snapshots have bounds of their own; this keeps a statement far below the gigabyte that looks like an outage."""


_RUN: Final[dict[str, Any]] = {"added": True, "personal": True, "marked": True, "minted": True, "group": "run"}
_WITNESS: Final[dict[str, Any]] = {"added": True, "marked": True, "minted": True, "group": None}


@dataclass(slots=True, kw_only=True)
class CallRecord:
    """One LLM call, as it is stored. Times are aware UTC, `*_ms` are milliseconds, None is unknown.

    A column is declared here and nowhere else: table, cleaning, journal, filters, `erase` and `show` follow. A new one
    stands before `attributes`, which is the last, and needs a revision in `alembic/versions`.
    """

    call_id: UUID = field(metadata=_spec(ColumnKind.UUID, required=True, minted=True, group=None))
    created_at: datetime = field(metadata=_spec(ColumnKind.TIME, required=True, minted=True, group=None))
    model: str = field(metadata=_spec(ColumnKind.TEXT, required=True, marked=True, filter="model"))
    trace_id: str | None = _column(ColumnKind.ID, personal=True, link=True, marked=True, filter="trace")
    session_id: str | None = _column(ColumnKind.ID, personal=True, link=True, marked=True, filter="session")
    conversation_id: str | None = _column(ColumnKind.ID, personal=True, link=True, marked=True)
    user_id: str | None = _column(ColumnKind.ID, personal=True, marked=True, filter="user")
    agent_key: str | None = _column(ColumnKind.ID, marked=True, filter="agent")
    temperature: float | None = _column(ColumnKind.NUMBER)
    top_p: float | None = _column(ColumnKind.NUMBER)
    max_tokens: int | None = _column(ColumnKind.COUNT)
    prompt_tokens: int | None = _column(ColumnKind.COUNT, group="tokens")
    completion_tokens: int | None = _column(ColumnKind.COUNT, group="tokens")
    total_tokens: int | None = _column(ColumnKind.COUNT, group="tokens")
    latency_ms: int | None = _column(ColumnKind.COUNT, minted=True, group=None)
    success: bool | None = _column(ColumnKind.FLAG, minted=True, group=None)
    error_code: str | None = _column(ColumnKind.TEXT, group=None, filter="error")
    error_message: str | None = _column(ColumnKind.TEXT, personal=True, group=None, limit=65_536)
    prompt_snapshot: str | None = _column(ColumnKind.SNAPSHOT, personal=True, limit=_SNAPSHOT_LIMIT)
    response_snapshot: str | None = _column(ColumnKind.SNAPSHOT, personal=True, limit=_SNAPSHOT_LIMIT)
    finished_at: datetime | None = _column(ColumnKind.TIME, minted=True, group=None)
    thread_id: str | None = _column(ColumnKind.ID, added=True, personal=True, link=True, marked=True, filter="thread")
    node: str | None = _column(ColumnKind.TEXT, added=True, marked=True, filter="node", group="who")
    provider: str | None = _column(ColumnKind.TEXT, added=True, filter="provider")
    run_id: UUID | None = _column(ColumnKind.UUID, **_RUN)
    parent_run_id: UUID | None = _column(ColumnKind.UUID, **_RUN)
    status: str | None = _column(ColumnKind.TEXT, added=True, minted=True, filter="status", group=None)
    identity_source: str | None = _column(ColumnKind.TEXT, **_WITNESS, filter="source")
    identity_reason: str | None = _column(ColumnKind.TEXT, **_WITNESS, filter="reason")
    usage_source: str | None = _column(ColumnKind.TEXT, added=True, group="usage")
    finish_reason: str | None = _column(ColumnKind.TEXT, added=True)
    reasoning_snapshot: str | None = _column(ColumnKind.SNAPSHOT, added=True, personal=True, limit=_SNAPSHOT_LIMIT)
    cached_tokens: int | None = _column(ColumnKind.COUNT, added=True, group="tokens")
    reasoning_tokens: int | None = _column(ColumnKind.COUNT, added=True, group="tokens")
    ttft_ms: int | None = _column(ColumnKind.COUNT, added=True, group=None)
    tool_calls: int | None = _column(ColumnKind.COUNT, added=True)
    cost_usd: Decimal | None = _column(ColumnKind.MONEY, added=True, group="usage")
    streamed: bool | None = _column(ColumnKind.FLAG, added=True)
    cached: bool | None = _column(ColumnKind.FLAG, added=True)
    response_model: str | None = _column(ColumnKind.TEXT, added=True)
    response_id: str | None = _column(ColumnKind.TEXT, added=True, personal=True, group="run")
    service_tier: str | None = _column(ColumnKind.TEXT, added=True, group="usage")
    cache_write_tokens: int | None = _column(ColumnKind.COUNT, added=True, group="tokens")
    span_id: str | None = _column(ColumnKind.TEXT, **_RUN)
    cost_source: str | None = _column(ColumnKind.TEXT, added=True, group="usage")
    attributes: dict[str, Any] | None = _column(ColumnKind.JSON, added=True, personal=True, group=None)


SPECS: Final = tuple(replace(f.metadata["column"], name=f.name) for f in fields(CallRecord))
COLUMNS: Final = tuple(spec.name for spec in SPECS)


def of_kind(*kinds: ColumnKind) -> tuple[str, ...]:
    """Return the names of the columns of these kinds, in the order of the table."""
    return tuple([spec.name for spec in SPECS if spec.kind in kinds])


IDS: Final = of_kind(ColumnKind.ID)
SNAPSHOTS: Final = of_kind(ColumnKind.SNAPSHOT)
LINKS: Final = tuple(spec.name for spec in SPECS if spec.link)
"""Columns by which rows belong together."""


def use_thread_as_session(record: CallRecord) -> CallRecord:
    """Let the thread_id be the session of a call whose session is unknown, for `LLMCTX_SESSION=thread`."""
    if record.session_id is None and record.thread_id is not None:
        record.session_id = record.thread_id
        if record.user_id is not None and record.identity_reason == Reason.PARTIAL:
            record.identity_reason = None
        elif record.identity_source == Source.NONE:
            record.identity_source = Source.THREAD.value
    return record


def without_snapshots(record: CallRecord, why: str) -> None:
    """Keep the row of a call whose texts there is no room for."""
    for name in SNAPSHOTS:
        setattr(record, name, None)
    record.attributes = {**(record.attributes or {}), "llmctx_snapshots": f"dropped: {why}"}


def note_changes(attributes: dict[str, Any] | None, changed: list[str]) -> dict[str, Any] | None:
    """Return `attributes` that say which columns were changed, these and before."""
    if not changed:
        return attributes
    before = (attributes or {}).get(CLEANED)
    names = [*(before if isinstance(before, list) else ()), *(changed if isinstance(changed, list) else ())]
    return {**(attributes or {}), CLEANED: list(dict.fromkeys(name for name in names if isinstance(name, str)))}
