"""Which tasks are started eagerly, on a loop that does not start all of them so."""

from __future__ import annotations

import asyncio

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langgraph.func import entrypoint, task

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.graph import wrap_graph
from llmctx.identity.eager_start import starter_of, will_be_awaited


async def test_a_task_that_is_scheduled_is_not_started_eagerly() -> None:
    async def looked() -> tuple[object, object]:
        current = asyncio.current_task()
        assert current is not None
        return will_be_awaited(current), starter_of(current)

    assert await asyncio.create_task(looked()) == (None, None)
    assert await looked() == (None, None)


async def test_nodes_on_one_thread() -> None:
    """LangGraph starts tasks of the functional API eagerly; four users at once on one thread keep their names."""
    model = FakeListChatModel(responses=["x"])

    @task
    async def step(question: str) -> object:
        return (await model.ainvoke(question)).content

    @entrypoint()
    async def run(question: str) -> str:
        await asyncio.gather(step(question), step(question), model.ainvoke(question))
        return "done"

    wrap_graph(run)
    sink = MemorySink()

    async def ask(user: str) -> None:
        with bind(user_id=user):
            await run.ainvoke(user, {"configurable": {"thread_id": "group"}})

    async with CallLog(sink=sink) as log:
        await asyncio.gather(*(ask(f"u{number}") for number in range(4)))
        await log.aflush()
    assert sorted(str(row.user_id) for row in sink.records) == sorted(
        f"u{number}" for number in range(4) for _ in "abc"
    )
