"""Work that a request began keeps its user for hours; what may be a worker for all does not."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from llmctx import CallContext, bind
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity.binding import amend
from llmctx.identity.scope import Inside, Scope
from tests.kit.support import Talker

model = Talker()
HOUR = 3600.0

Ask = Callable[[str], Awaitable[None]]


class Request:
    """A request of ann's whose end lies as long ago as the test wants."""

    def __init__(self) -> None:
        self.scope = Scope(CallContext(user_id="ann", session_id="s"), "request")

    @contextmanager
    def open(self) -> Iterator[None]:
        with Inside(self.scope):
            yield

    def pass_by(self, seconds: float = HOUR) -> None:
        assert self.scope.closed_at is not None
        self.scope.closed_at -= seconds


async def alone(text: str) -> None:
    await model.ainvoke(text)


async def gathered(text: str) -> None:
    await asyncio.gather(model.ainvoke(text))


async def as_completed(text: str) -> None:
    for one in asyncio.as_completed([model.ainvoke(text)]):
        await one


async def in_a_group(text: str) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.wait_for(model.ainvoke(text), 20))


class Waiting(Talker):
    """Answers once its thread's job is awaited: when it is asked, that may not be so yet."""

    def _reply(self, messages: list[Any], streamed: bool = False) -> Any:
        assert is_awaited.wait(60)
        return super()._reply(messages, streamed)


is_awaited = threading.Event()


async def in_a_thread(text: str) -> None:
    is_awaited.clear()
    asyncio.get_running_loop().call_soon(is_awaited.set)
    await asyncio.to_thread(Waiting().invoke, text)


async def awaited_late(text: str) -> None:
    """The call has begun before its job is awaited, as it may whenever threads take turns."""
    is_awaited.clear()
    has_begun = threading.Event()

    class Beginning(Waiting):
        def _reply(self, messages: list[Any], streamed: bool = False) -> Any:
            has_begun.set()
            return super()._reply(messages, streamed)

    loop = asyncio.get_running_loop()
    job = loop.run_in_executor(None, contextvars.copy_context().run, Beginning().invoke, text)
    assert has_begun.wait(60)
    loop.call_soon(is_awaited.set)
    await job


async def streamed(text: str) -> None:
    assert [chunk async for chunk in model.astream(text)]


async def bound(text: str) -> None:
    with bind(conversation_id="c"):
        await model.ainvoke(text)


async def in_anothers_task(text: str) -> None:
    await asyncio.shield(asyncio.create_task(gathered(text)))


WAYS = [alone, gathered, as_completed, in_a_group, in_a_thread, awaited_late, streamed, bound, in_anothers_task]


@pytest.fixture
def rows() -> Iterator[list[Any]]:
    sink = MemorySink()
    with CallLog(sink=sink, linger_ms=1) as call_log:

        class Rows(list[Any]):
            def __call__(self) -> list[str | None]:
                assert call_log.flush(60) == 0
                return [row.user_id for row in sorted(sink.records, key=lambda row: row.created_at)]

        yield Rows()


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("then", WAYS)
async def test_a_job_keeps_its_user_for_hours(rows: Any, first: Ask, then: Ask) -> None:
    """It made a call while its request was open, in whatever way, and none since until now."""
    request, over = Request(), asyncio.Event()

    async def job() -> None:
        await first("1")
        began.set()
        await over.wait()
        for _ in range(2):
            request.pass_by()
            await then("2")

    began = asyncio.Event()
    with request.open():
        task = asyncio.create_task(job())
        await began.wait()
    over.set()
    await task
    assert rows() == ["ann"] * 3


@pytest.mark.parametrize("first", [alone, gathered, in_a_thread])
async def test_a_job_seen_at_work_soon_after_its_request_keeps_its_user(rows: Any, first: Ask) -> None:
    request, over = Request(), asyncio.Event()

    async def job() -> None:
        await over.wait()
        await first("1")
        request.pass_by()
        await alone("2")

    with request.open():
        task = asyncio.create_task(job())
    over.set()
    await task
    assert rows() == ["ann", "ann"]


def test_a_thread_keeps_its_user_for_hours(rows: Any) -> None:
    """With a copy of its request's context."""
    request, over, began = Request(), threading.Event(), threading.Event()

    def job() -> None:
        model.invoke("1")
        began.set()
        over.wait()
        request.pass_by()
        model.invoke("2")

    with request.open():
        thread = threading.Thread(target=contextvars.copy_context().run, args=(job,))
        thread.start()
        began.wait()
    over.set()
    thread.join()
    assert rows() == ["ann", "ann"]


async def test_what_is_first_seen_hours_later_is_nobodys(rows: Any) -> None:
    """It may be what a worker started for another user."""
    request, over = Request(), asyncio.Event()

    async def job() -> None:
        await over.wait()
        await alone("1")

    with request.open():
        task = asyncio.create_task(job())
    request.pass_by()
    over.set()
    await task
    assert rows() == [None]


async def _from_a_queue(request: Request, jobs: asyncio.Queue[str | None]) -> None:
    while (text := await jobs.get()) is not None:
        await model.ainvoke(text)


async def _spawning(request: Request, inbox: asyncio.Queue[str | None]) -> None:
    while (text := await inbox.get()) is not None:
        await asyncio.gather(model.ainvoke(text))


@pytest.mark.parametrize("work", [_from_a_queue, _spawning])
async def test_a_worker_that_takes_from_a_queue_is_nobodys_hours_later(rows: Any, work: Any) -> None:
    """It served its starter first; those whom it serves now are others."""
    request, jobs = Request(), asyncio.Queue[str | None]()
    with request.open():
        task = asyncio.create_task(work(request, jobs))
        jobs.put_nowait("1")
        while len(rows()) < 1:
            await asyncio.sleep(0)
    request.pass_by()
    jobs.put_nowait("2")
    jobs.put_nowait(None)
    await task
    assert rows() == ["ann", None]


def test_a_worker_thread_that_takes_from_a_queue_is_nobodys_hours_later(rows: Any) -> None:
    request = Request()
    jobs: queue.Queue[str | None] = queue.Queue()

    class Crew:
        def __init__(self) -> None:
            self.waiting = jobs

        def work(self) -> None:
            while (text := self.waiting.get()) is not None:
                model.invoke(text)
                self.waiting.task_done()

    with request.open():
        thread = threading.Thread(target=contextvars.copy_context().run, args=(Crew().work,))
        thread.start()
        jobs.put("1")
        jobs.join()
    request.pass_by()
    for text in ("2", None):
        jobs.put(text)
    thread.join()
    assert rows() == ["ann", None]


async def test_a_worker_that_was_seen_at_work_for_others_is_nobodys_hours_later(rows: Any) -> None:
    """It was given the thread of another user, which that user had used since."""
    request, started, jobs = Request(), asyncio.Event(), asyncio.Queue[str]()

    async def work() -> None:
        await model.ainvoke("1")
        started.set()
        await model.ainvoke("2", {"configurable": {"thread_id": await jobs.get()}})
        request.pass_by()
        await model.ainvoke("3")

    with request.open():
        task = asyncio.create_task(work())
        await started.wait()
    with bind(user_id="bob", session_id="s-bob"):
        amend(thread_id="t-bob")
    jobs.put_nowait("t-bob")
    await task
    assert rows() == ["ann", "bob", None]


async def test_a_worker_whose_job_in_a_thread_is_not_awaited_yet_works_for_the_threads_user(rows: Any) -> None:
    """Started in a request that is open still."""
    request, jobs = Request(), asyncio.Queue[str]()

    async def work() -> None:
        thread_id = await jobs.get()
        is_awaited.clear()
        asyncio.get_running_loop().call_soon(is_awaited.set)
        await asyncio.to_thread(Waiting().invoke, "1", {"configurable": {"thread_id": thread_id}})
        done.set()

    done = asyncio.Event()
    with request.open():
        task = asyncio.create_task(work())
        context = contextvars.Context()
        context.run(named, "bob", "t-bob")
        jobs.put_nowait("t-bob")
        await done.wait()
    await task
    assert rows() == ["bob"]


def named(user_id: str, thread_id: str) -> None:
    with bind(user_id=user_id, session_id=f"s-{user_id}"):
        amend(thread_id=thread_id)


async def test_what_a_worker_starts_for_others_is_nobodys(rows: Any) -> None:
    """A pool's thread, as well, works for whoever waits for it."""
    request, over = Request(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def work() -> None:
        await model.ainvoke("1")
        over.set()
        await turn.wait()
        request.pass_by()
        await asyncio.wait([asyncio.ensure_future(loop.run_in_executor(pool, context.run, model.invoke, "2"))])

    turn, context = asyncio.Event(), contextvars.copy_context()
    with ThreadPoolExecutor(1) as pool:
        with request.open():
            own = contextvars.copy_context()
            task = asyncio.create_task(work())
            await over.wait()
        turn.set()
        await task
        await loop.run_in_executor(pool, own.run, model.invoke, "3")
    assert rows() == ["ann", None, None]


async def test_what_a_worker_starts_in_a_group_of_the_applications_is_nobodys(rows: Any) -> None:
    """The group's host waits for all of them, and works for no request."""
    request, turn = Request(), asyncio.Event()

    async def work(group: asyncio.TaskGroup) -> None:
        await group.create_task(alone("1"))
        turn.set()
        await over.wait()
        group.create_task(alone("2"))

    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        with request.open():
            group.create_task(work(group))
            group.create_task(alone("1"))
            await turn.wait()
        request.pass_by()
        over.set()
    assert rows() == ["ann", "ann", None]


async def test_it_is_bounded_and_weak(rows: Any) -> None:
    request = Request()
    with request.open():
        for _ in range(200):
            await asyncio.create_task(alone("1"))
        tasks = [asyncio.create_task(model.ainvoke("1")) for _ in range(200)]
        await asyncio.wait(tasks)
        seen = request.scope.early_work.seen
        assert len(seen) <= 64
    del tasks
    gc.collect()
    assert not any(one() for one in seen)
    rows()
