"""The codes of a row in words: why this user, and why an id is missing. For people, never for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmctx.record import Reason, Source, Status

SOURCES: Final[Mapping[str, str]] = {
    Source.EXPLICIT: "The call itself was given its identity, on its handler or in its config's metadata.",
    Source.CONTEXT: "The scope that was open around the call (request, bind() or node) named them.",
    Source.CARRIED: "The scope in which the run began rode along with the callbacks, into another thread or process.",
    Source.TASK: "The registry knows whom the LangGraph task of this call works for.",
    Source.THREAD: "The registry knows the one user of the call's thread_id.",
    Source.LATE: "The scope had closed a short time before; the call is of a task that outlived its request.",
    Source.NONE: "No witness testified, so nobody was guessed.",
}

REASONS: Final[Mapping[str, str]] = {
    Reason.NO_SCOPE: "There was no scope, no thread_id, nothing carried along. Wrap the work in bind(), or carry() it "
    "into its thread.",
    Reason.ANONYMOUS_REQUEST: "The request had no authenticated user. Check `identify` and the order of the "
    "middlewares, or amend() once the user is known.",
    Reason.IDENTIFY_FAILED: "The application's `identify` raised an exception: see the log of that time.",
    Reason.INVALID_HANDOVER: "The identity that was handed over with the job was forged, or had expired: see the log "
    "of that time.",
    Reason.UNKNOWN_THREAD: "The thread_id is not in the registry: never seen in this process, or forgotten. Use "
    "wrap_graph, and a shared registry for several processes.",
    Reason.SHARED_THREAD: "Several users have used this thread, so it testifies to none of them. Use wrap_graph: "
    "tasks testify, each for its own user.",
    Reason.EXPIRED_SCOPE: "The scope had closed too long ago to be believed (LLMCTX_LATE_S). Open one in the task "
    "itself, with bind().",
    Reason.PARTIAL: "The witness knew only one of user and session. Give both where the scope is opened.",
    Reason.CONFLICT: "Witnesses named different users; the strongest was believed.",
    "executor_without_context": "A thread or executor was started without the scope. Hand it carry(fn).",
}

STATUSES: Final[Mapping[str, str]] = {
    Status.OK: "It ended well.",
    Status.ERROR: "It failed.",
    Status.CANCELLED: "Its task was cancelled, it timed out, or a sibling failed.",
    Status.ABANDONED: "Nobody ever read it to the end.",
    Status.LOST: "The process died while it was open.",
}


def why(row: Mapping[str, Any]) -> list[str]:
    """Why this row belongs to whom it belongs to, or to nobody: one sentence or two."""
    source, reason = row.get("identity_source"), row.get("identity_reason")
    if source is None and reason is None:
        return ["The row does not say: it was not written by llmctx."]
    said = [SOURCES.get(source, f"By {source}.")] if source else []
    if reason:
        said.append(REASONS.get(reason, f"Reason: {reason}."))
    return said
