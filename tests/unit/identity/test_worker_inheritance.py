"""A request's own work is told from a worker's, whenever a job's thread begins before the job is awaited."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from tests.kit.support import Talker, wait_for

THREAD = {"configurable": {"thread_id": "t"}, "metadata": {"thread_id": "t"}}


class Held(Talker):
    """Says when it has been asked, and answers when it may."""

    def _reply(self, messages: list[Any], streamed: bool = False) -> Any:
        asked.set()
        assert may_answer.wait(60)
        return super()._reply(messages, streamed)


asked, may_answer = threading.Event(), threading.Event()


async def _bob_uses_the_thread() -> None:
    with bind(user_id="bob", session_id="b", thread_id="t"):
        await Talker().ainvoke("bob's", THREAD)


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("begins_first", [False, True])
@pytest.mark.parametrize(("is_awaited", "user_id"), [(True, "ann"), (False, None)])
async def test_a_job_on_a_thread_that_another_user_has_used(
    carry: bool, begins_first: bool, is_awaited: bool, user_id: str | None
) -> None:
    """What ann's request awaits is ann's; what it only starts may be ann's, or a worker for bob."""
    asked.clear()
    may_answer.clear()
    sink, loop = MemorySink(), asyncio.get_running_loop()
    with CallLog(sink=sink, linger_ms=1, carry=carry) as call_log:
        with bind(user_id="ann", session_id="a"):
            await asyncio.create_task(_bob_uses_the_thread(), context=contextvars.Context())
            job = loop.run_in_executor(None, contextvars.copy_context().run, lambda: Held().invoke("ann's", THREAD))
            if begins_first:
                assert asked.wait(60)  # the loop stands still: the call has begun, and nothing awaits its job
            loop.call_soon(may_answer.set)
            if is_awaited:
                await job
            else:
                await wait_for(lambda: len(sink.records) == 2, "both calls", 60)
        assert call_log.flush(60) == 0
    assert [row.user_id for row in sorted(sink.records, key=lambda row: row.created_at)] == ["bob", user_id]
