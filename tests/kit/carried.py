"""Calls of a user, and whose rows they became."""

from __future__ import annotations

from langchain_core.language_models import FakeListChatModel

from llmctx import CallContext
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink

B = CallContext(user_id="b", session_id="s-b")


A = CallContext(user_id="a", session_id="s-a")


def owners(call_log: CallLog, sink: MemorySink) -> list[tuple[str, str | None]]:
    """(whose prompt it was, whose row it became), sorted."""
    assert call_log.flush(60) == 0
    found = []
    for record in sink.records:
        assert record.prompt_snapshot is not None
        found.append((record.prompt_snapshot.split('"content":"')[1].split('"')[0], record.user_id))
    return sorted(found)


def call(user: str) -> None:
    FakeListChatModel(responses=["so"]).invoke(user)
