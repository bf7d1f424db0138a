"""What other processes know of calls: asked of the shared registry for many at once, in the pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from llmctx.capture.open_calls import OpenCall
from llmctx.core.diagnostics import incidents
from llmctx.core.record import Source
from llmctx.identity.registry.base import SharedRegistry
from llmctx.identity.resolution import Hearing, Verdict


async def ask(registry: SharedRegistry, calls: Sequence[OpenCall]) -> None:
    """Let `registry` learn from other processes what these calls lack, in one round trip."""
    unknown = [call.hearing for call in calls if _others_may_tell(call.verdict, call.hearing)]
    if not unknown:
        return
    threads = {hearing.thread_id for hearing in unknown if hearing.thread_id is not None}
    tasks = {hearing.task for hearing in unknown if hearing.task is not None}
    since = max((hearing.started for hearing in unknown if hearing.own is not True), default=0.0)
    try:
        answered = await registry.exchange(threads=threads, tasks=tasks, since=since)
    except Exception as problem:  # noqa: BLE001  a registry may be the team's own
        incidents.note("registry_failed", "the shared registry failed: rows do without", exc=problem)
        answered = False
    for hearing in unknown:
        hearing.answered = answered


def _others_may_tell(verdict: Verdict, hearing: Hearing) -> bool:
    """Whether other processes may know what is missing, or object to what only this one says of the thread."""
    if hearing.thread_id is None and hearing.task is None:
        return False
    who = verdict.identity
    return who.user_id is None or who.session_id is None or verdict.source is Source.THREAD
