"""Lookups in the shared registry, of what other processes know: for many calls at once, in the pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from llmctx.capture.open_calls import OpenCall
from llmctx.core.diagnostics import diagnostics
from llmctx.core.record import Source
from llmctx.identity.candidates import Candidates
from llmctx.identity.registry.base import SharedRegistry
from llmctx.identity.resolution import Attribution


async def lookup_remote(registry: SharedRegistry, calls: Sequence[OpenCall]) -> None:
    """Let `registry` learn from other processes what these calls lack, in one round trip."""
    unknown = [call.candidates for call in calls if _others_may_tell(call.attribution, call.candidates)]
    if not unknown:
        return
    threads = {candidates.thread_id for candidates in unknown if candidates.thread_id is not None}
    tasks = {candidates.task for candidates in unknown if candidates.task is not None}
    since = max((candidates.started for candidates in unknown if candidates.is_own_work is not True), default=0.0)
    try:
        answered = await registry.exchange(threads=threads, tasks=tasks, since=since)
    except Exception as problem:  # noqa: BLE001  a registry may be the team's own
        diagnostics.count("registry_failed", "the shared registry failed: rows are resolved without it", exc=problem)
        answered = False
    for candidates in unknown:
        candidates.registry_answered = answered


def _others_may_tell(attribution: Attribution, candidates: Candidates) -> bool:
    """Return whether other processes may know what is missing, or object to what only this one says of the thread."""
    if candidates.thread_id is None and candidates.task is None:
        return False
    who = attribution.identity
    return who.user_id is None or who.session_id is None or attribution.source is Source.THREAD
