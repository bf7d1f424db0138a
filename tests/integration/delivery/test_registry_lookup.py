"""A registry that fails costs ids and no rows."""

from __future__ import annotations

from typing import Any

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from tests.kit.support import Talker

model = Talker()


class Broken:
    """A registry that fails, in its own way."""

    def put(self, *_: Any, **__: Any) -> None:
        raise ValueError

    def get(self, *_: Any, **__: Any) -> Any:
        raise ValueError

    def forget(self, *_: Any, **__: Any) -> int:
        raise ValueError


async def test_a_registry_that_fails_costs_ids_and_no_rows() -> None:
    """It may be the team's own, or a Redis that is away."""
    sink = MemorySink()
    async with CallLog(sink=sink, registry=Broken()):
        await model.ainvoke("hello", {"configurable": {"thread_id": "t"}})
        with bind(user_id="u", session_id="s"):
            await model.ainvoke("hello")
    assert [(row.user_id, row.status) for row in sink.records] == [(None, "ok"), ("u", "ok")]
    assert all(row.identity_reason for row in sink.records if row.user_id is None)
