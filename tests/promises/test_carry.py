"""`carry=True`: the ways out that hand on nothing, and the workers that work for whoever gave them the job."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel

from llmctx import CallContext, bind, current
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity.propagation import threads as carrying

A = CallContext(user_id="a", session_id="s-a")
B = CallContext(user_id="b", session_id="s-b")


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def call_log(sink: MemorySink) -> Iterator[CallLog]:
    with CallLog(sink=sink, carry=True) as started:
        yield started


def call(user: str) -> None:
    FakeListChatModel(responses=["so"]).invoke(user)


def owners(call_log: CallLog, sink: MemorySink) -> list[tuple[str, str | None]]:
    """(whose prompt it was, whose row it became), sorted."""
    assert call_log.flush(10) == 0
    found = []
    for record in sink.records:
        assert record.prompt_snapshot is not None
        found.append((record.prompt_snapshot.split('"content":"')[1].split('"')[0], record.user_id))
    return sorted(found)


def run_in_thread(user: str) -> None:
    thread = threading.Thread(target=call, args=(user,))
    thread.start()
    thread.join()


def test_a_bare_thread_carries_the_scope(call_log: CallLog, sink: MemorySink) -> None:
    """Nothing is handed on, and still the call is its request's; a thread of nobody's is nobody's."""
    for who in (A, B):
        with bind(who):
            run_in_thread(str(who.user_id))
    run_in_thread("nobody")
    assert owners(call_log, sink) == [("a", "a"), ("b", "b"), ("nobody", None)]


def test_a_pooled_thread_works_for_whoever_submits(call_log: CallLog, sink: MemorySink) -> None:
    """The thread was started by A's first job; it keeps nothing of it."""
    with ThreadPoolExecutor(1) as pool:
        for who in (A, B, CallContext()):
            with bind(who):
                pool.submit(call, who.user_id or "nobody").result()
        pool.submit(call, "later").result()
    assert owners(call_log, sink) == [("a", "a"), ("b", "b"), ("later", None), ("nobody", None)]


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
    assert await call_log.aflush(10) == 0
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


def test_it_is_undone_when_the_last_call_log_closes(sink: MemorySink) -> None:
    """The standard library is as it was; installing twice is installing once."""
    before = (threading.Thread.start, ThreadPoolExecutor.submit, queue.Queue._put, asyncio.Queue._get)  # type: ignore[attr-defined]
    one, two = CallLog(sink=sink, carry=True), CallLog(sink=sink, carry=True)
    with one:
        with two, one:
            assert carrying.installed()
        assert carrying.installed()
    assert not carrying.installed()
    after = (threading.Thread.start, ThreadPoolExecutor.submit, queue.Queue._put, asyncio.Queue._get)  # type: ignore[attr-defined]
    assert after == before


def test_without_it_nothing_is_touched(sink: MemorySink) -> None:
    """Off by default: a bare thread is nobody's, never somebody else's."""
    with CallLog(sink=sink) as call_log:
        with bind(A):
            run_in_thread("a")
        assert owners(call_log, sink) == [("a", None)]
