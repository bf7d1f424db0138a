"""A worker that takes an item from a queue works in the scope in which the item was put there."""

from __future__ import annotations

import asyncio
import queue
import threading

from langchain_core.language_models.fake_chat_models import FakeListChatModel

from llmctx import CallContext, bind, current
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from tests.kit.carried import A, B, call, owners


def test_a_worker_thread_started_in_a_request_works_for_whoever_put_the_item(
    call_log: CallLog, sink: MemorySink
) -> None:
    """Bare prompts in a queue: each belongs to whoever put it, in the order of a priority queue too."""
    for kind in (queue.Queue, queue.LifoQueue, queue.PriorityQueue):
        jobs: queue.Queue[str | None] = kind()

        def work(jobs: queue.Queue[str | None] = jobs) -> None:
            for _ in range(3):
                call(jobs.get() or "nobody")

        for who in (A, B):
            with bind(who):
                jobs.put(str(who.user_id))
        jobs.put("nobody")
        with bind(A):
            worker = threading.Thread(target=work)
            worker.start()
        worker.join()
    assert owners(call_log, sink) == sorted(3 * [("a", "a"), ("b", "b"), ("nobody", None)])


async def test_a_worker_task_started_in_a_request_works_for_whoever_put_the_item(
    call_log: CallLog, sink: MemorySink
) -> None:
    """It has inherited A's context, and A's request is open all the while."""
    jobs: asyncio.Queue[str] = asyncio.Queue()
    model = FakeListChatModel(responses=["so"])

    async def work() -> None:
        for _ in range(3):
            await model.ainvoke(await jobs.get())

    async def request(who: CallContext) -> None:
        with bind(who):
            await jobs.put(who.user_id or "nobody")

    with bind(A):
        worker = asyncio.create_task(work())
        await asyncio.sleep(0)
        await asyncio.create_task(request(B))
        await jobs.put("a")
    await jobs.put("nobody")
    await worker
    assert await call_log.aflush(60) == 0
    assert owners(call_log, sink) == [("a", "a"), ("b", "b"), ("nobody", None)]


async def test_a_request_keeps_its_own_scope_whatever_it_reads(call_log: CallLog) -> None:
    """B waits for a message that A sends: what B does with it is B's."""
    messages: asyncio.Queue[str] = asyncio.Queue()

    async def listen() -> CallContext:
        with bind(B):
            await messages.get()
            return current()

    listening = asyncio.create_task(listen())
    with bind(A):
        await messages.put("hello")
    assert await listening == B
