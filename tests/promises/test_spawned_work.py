"""A request that names another user's thread stays its own user's, also in tasks that it does not wait for; what a
worker that it has started spawns for others does not become its user's.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import queue
import threading
from collections import deque
from functools import partial
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.from_thread
import pytest

from llmctx import amend, bind
from tests.kit.requests import (
    MODES,
    THREAD,
    graph,
    model,
    on,
    request,
    started_by_alice,
    the_victim_uses_the_thread,
    wrapped_graph,
)
from tests.kit.trust import recorded

# -- the request's own work -------------------------------------------------------------------------------------------


async def bare(config: Any) -> None:
    await model.ainvoke("alice", config)


async def in_a_node(config: Any) -> None:
    await wrapped_graph.ainvoke({"text": "alice"}, config)


async def in_a_stream(config: Any) -> None:
    async for _ in wrapped_graph.astream({"text": "alice"}, config, stream_mode="messages"):
        pass


async def in_events(config: Any) -> None:
    """LangChain runs it in a task that it does not await."""
    async for _ in graph.astream_events({"text": "alice"}, config, version="v2"):
        pass


async def as_completed(config: Any) -> None:
    async for _ in model.abatch_as_completed(["alice"], config):
        pass


async def in_a_pool(config: Any) -> None:
    await asyncio.to_thread(model.batch, ["alice", "alice"], config)


async def in_a_nested_loop(config: Any) -> None:
    await asyncio.to_thread(lambda: asyncio.run(bare(config)))


async def in_a_portal(config: Any) -> None:
    def run() -> None:
        with anyio.from_thread.start_blocking_portal() as portal:
            portal.call(bare, config)

    await asyncio.to_thread(run)


async def in_a_callback(config: Any) -> None:
    done = asyncio.Event()
    asyncio.get_running_loop().call_soon(lambda: done.set() if model.invoke("alice", config) else None)
    await done.wait()


WAYS = [bare, in_a_node, in_a_stream, in_events, as_completed, in_a_pool, in_a_nested_loop, in_a_portal]


async def awaited(way: Any) -> None:
    async def endpoint() -> None:
        await the_victim_uses_the_thread()
        await way(on(THREAD))

    await request("alice", endpoint)


async def a_task_for_each_message(way: Any) -> None:
    async def endpoint() -> None:
        await the_victim_uses_the_thread()
        done = asyncio.Event()

        async def handle(message: dict[str, str]) -> None:
            await way(on(message["thread_id"]))
            done.set()

        kept.append(asyncio.create_task(handle({"thread_id": THREAD})))
        await done.wait()

    kept: list[Any] = []
    await request("alice", endpoint)


async def a_task_of_an_object(way: Any) -> None:
    """That has its thread as a field."""

    class Session:
        def __init__(self, thread_id: str) -> None:
            self.thread_id = thread_id

        async def run(self) -> None:
            await way(on(self.thread_id))
            done.set()

    async def endpoint() -> None:
        await the_victim_uses_the_thread()
        kept.append(asyncio.create_task(Session(THREAD).run()))
        await done.wait()

    done = asyncio.Event()
    kept: list[Any] = []
    await request("alice", endpoint)


async def after_the_response(way: Any) -> None:
    async def later(thread_id: str) -> None:
        await turn.wait()
        await way(on(thread_id))

    async def endpoint() -> None:
        kept.append(asyncio.create_task(later(THREAD)))

    turn = asyncio.Event()
    kept: list[Any] = []
    await request("alice", endpoint)
    await the_victim_uses_the_thread()
    turn.set()
    await kept[0]


@MODES
@pytest.mark.parametrize("shape", [awaited, a_task_for_each_message, a_task_of_an_object, after_the_response])
def test_a_request_on_the_thread_of_a_victim_who_has_used_it_since_it_began(shape: Any, carry: bool) -> None:
    users: dict[str, set[str | None]] = {}
    for way in (*WAYS, *([in_a_callback] if shape is not awaited else [])):
        with recorded(carry=carry) as sink:
            asyncio.run(shape(way))
        users[way.__name__] = {row.user_id for row in sink.records if "alice" in str(row.prompt_snapshot)}
    assert {way: found for way, found in users.items() if found != {"alice"}} == {}


class Detail:
    def __init__(self, thread_id: str) -> None:
        self.thread_id = thread_id


async def of_an_object(job: Any) -> None:
    await bare(on(job.thread_id))


async def of_an_object_in_another(outer: Any) -> None:
    await bare(on(outer.job.thread_id))


async def on_a_global() -> None:
    await bare(on(THREAD))


async def in_a_loop_on_a_global() -> None:
    while True:
        return await bare(on(THREAD))


async def on_the_thread_of(user: str) -> None:
    await bare(on(f"t-{user}"))


async def of_a_body(body: bytes) -> None:
    thread_id = json.loads(body)["thread_id"]
    await bare(on(thread_id))


OWN = {
    "object": lambda: of_an_object(Detail(THREAD)),
    "object in another": lambda: of_an_object_in_another(SimpleNamespace(job=Detail(THREAD))),
    "global": on_a_global,
}
UNTOLD = {
    "loop": in_a_loop_on_a_global,
    "text made of others": lambda: on_the_thread_of("victim"),
    "body": lambda: of_a_body(json.dumps({"thread_id": THREAD}).encode()),
}


@MODES
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("is_used_since", [False, True], ids=["before", "since"])
def test_a_task_that_nothing_awaits_is_never_the_victims(is_used_since: bool, is_open: bool, carry: bool) -> None:
    """However its thread has come to it: where nothing shows who has created it a row may have no user."""
    users: dict[str, set[str | None]] = {}
    for name, work in (OWN | UNTOLD).items():

        async def shape(work: Any = work) -> None:
            async def start() -> asyncio.Task[Any]:
                if is_used_since:
                    await the_victim_uses_the_thread()
                return asyncio.create_task(work())

            if not is_used_since:
                await the_victim_uses_the_thread()
            async with started_by_alice(start, is_open=is_open) as task:
                while not task.done():
                    await asyncio.sleep(0)

        with recorded(carry=carry) as sink:
            asyncio.run(shape())
        users[name] = {row.user_id for row in sink.records if "alice" in str(row.prompt_snapshot)}
    right = {"alice"} if not is_used_since else {"alice", None}
    assert {name: found for name, found in users.items() if found - (right if name in OWN else {"alice", None})} == {}


# -- what is no work of the request ------------------------------------------------------------------------------------

Job = tuple[str, asyncio.Event]  # a thread's id, which is its user's name as well; and what tells that it is done


async def serve(thread_id: str, done: asyncio.Event) -> None:
    await model.ainvoke(thread_id, on(thread_id))
    done.set()


class Worker:
    """Takes thread ids from a queue, and works on each in the loop that it was started in."""

    def __init__(self) -> None:
        self.jobs: Any = asyncio.Queue()
        self.tasks: list[asyncio.Task[Any]] = []

    def start(self) -> None:
        self.tasks.append(asyncio.create_task(self.work()))

    def put(self, job: Job | None) -> None:
        self.jobs.put_nowait(job)

    async def work(self) -> None:
        while (job := await self.jobs.get()) is not None:
            await serve(*job)

    async def stop(self) -> None:
        self.put(None)
        await self.tasks[0]


class Spawning(Worker):
    async def work(self) -> None:
        while (job := await self.jobs.get()) is not None:
            self.tasks.append(asyncio.create_task(serve(*job)))


class Dispatching(Worker):
    """What creates the tasks stands in another function."""

    async def work(self) -> None:
        while (job := await self.jobs.get()) is not None:
            self.dispatch(job)

    def dispatch(self, job: Job) -> None:
        self.tasks.append(asyncio.create_task(serve(*job)))


class Streaming(Worker):
    async def work(self) -> None:
        while (job := await self.jobs.get()) is not None:
            async for _ in model.astream_events(job[0], on(job[0]), version="v2"):
                pass
            job[1].set()


class Grouping(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.inlet, self.outlet = anyio.create_memory_object_stream[Any](10)

    def put(self, job: Job | None) -> None:
        self.inlet.send_nowait(job)

    async def work(self) -> None:
        async with self.inlet, self.outlet, anyio.create_task_group() as group:
            async for job in self.outlet:
                if job is None:
                    return
                group.start_soon(serve, *job)


class Forwarding(Worker):
    """Takes each item in a task of its own, and hands it on through a second queue."""

    async def work(self) -> None:
        prefetched: asyncio.Queue[Job | None] = asyncio.Queue()

        async def take() -> Job | None:
            job: Job | None = await self.jobs.get()
            return job

        async def forward() -> None:
            while (job := await asyncio.create_task(take())) is not None:
                prefetched.put_nowait(job)
            prefetched.put_nowait(None)

        self.tasks.append(asyncio.create_task(forward()))
        while (job := await prefetched.get()) is not None:
            self.tasks.append(asyncio.create_task(serve(*job)))


class Polling(Worker):
    """Built of a deque and an event."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: deque[Job | None] = deque()
        self.has_some = asyncio.Event()

    def put(self, job: Job | None) -> None:
        self.waiting.append(job)
        self.has_some.set()

    async def work(self) -> None:
        while True:
            await self.has_some.wait()
            self.has_some.clear()
            while self.waiting:
                if (job := self.waiting.popleft()) is None:
                    return
                self.tasks.append(asyncio.create_task(serve(*job)))


class Thread(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.jobs = queue.Queue()
        self.loop = asyncio.get_running_loop()
        self.thread = threading.Thread(target=contextvars.copy_context().run, args=(self.run,))

    def start(self) -> None:
        self.thread.start()

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            self.do(job)

    def do(self, job: Job) -> None:
        model.invoke(job[0], on(job[0]))
        self.loop.call_soon_threadsafe(job[1].set)

    async def stop(self) -> None:
        self.put(None)
        await asyncio.to_thread(self.thread.join)


class ThreadOfLoops(Thread):
    def do(self, job: Job) -> None:
        asyncio.run(model.ainvoke(job[0], on(job[0])))
        self.loop.call_soon_threadsafe(job[1].set)


class ThreadThatSpawns(Thread):
    def do(self, job: Job) -> None:
        asyncio.run_coroutine_threadsafe(serve(*job), self.loop)


KINDS = [
    Worker,
    Spawning,
    Dispatching,
    Streaming,
    Grouping,
    Forwarding,
    Polling,
    Thread,
    ThreadOfLoops,
    ThreadThatSpawns,
]
CANNOT_BE_TOLD = {"Dispatching", "Streaming", "Forwarding", "Polling", "ThreadOfLoops", "ThreadThatSpawns"}
"""From a request's own work; there the row may have no user."""


async def employ(kind: type[Worker], is_open: bool) -> None:
    async def start() -> Worker:
        worker = kind()
        worker.start()
        return worker

    async def give(user: str, worker: Worker) -> None:
        amend(thread_id=user)
        done = asyncio.Event()
        worker.put((user, done))
        await done.wait()

    async with started_by_alice(start, is_open=is_open) as worker:
        for user in ("bob", "carol", "bob"):
            await request(user, partial(give, user, worker))
        await worker.stop()
    await asyncio.gather(*worker.tasks)


@MODES
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
def test_a_worker_that_a_request_has_started_works_for_the_threads_user(is_open: bool, carry: bool) -> None:
    wrong = []
    for kind in KINDS:
        with recorded(carry=carry) as sink:
            asyncio.run(employ(kind, is_open))
        for row in sink.records:
            right = {row.thread_id, None} if kind.__name__ in CANNOT_BE_TOLD else {row.thread_id}
            if row.user_id not in right:
                wrong.append((kind.__name__, row.thread_id, row.user_id))
    assert not wrong


class Coalescing:
    """The first of the requests that come together creates one task for all of them, and each waits for that."""

    def __init__(self) -> None:
        self.inputs: list[tuple[str, Any]] = []
        self.together: asyncio.Task[None] | None = None

    async def load(self, user: str, way: Any) -> None:
        amend(thread_id=user)
        self.inputs.append((user, way))
        self.together = self.together or asyncio.create_task(self.work())
        await asyncio.shield(self.together)

    async def work(self) -> None:
        await asyncio.sleep(0)  # until all are there
        for user, way in self.inputs:
            await way(user)


async def bare_on(user: str) -> None:
    await model.ainvoke(user, on(user))


async def graph_on(user: str) -> None:
    await graph.ainvoke({"text": user}, on(user))


async def wrapped_graph_on(user: str) -> None:
    await wrapped_graph.ainvoke({"text": user}, on(user))


async def in_a_pool_on(user: str) -> None:
    await asyncio.to_thread(model.invoke, user, on(user))


@MODES
@pytest.mark.parametrize("way", [bare_on, graph_on, wrapped_graph_on, in_a_pool_on], ids=lambda way: str(way.__name__))
def test_a_task_that_several_requests_await_works_for_the_threads_user(way: Any, carry: bool) -> None:
    async def come_together() -> None:
        loader = Coalescing()
        await asyncio.gather(*(request(user, partial(loader.load, user, way)) for user in ("alice", "bob", "carol")))

    with recorded(carry=carry) as sink:
        asyncio.run(come_together())
    assert {row.thread_id: row.user_id for row in sink.records} == {user: user for user in ("alice", "bob", "carol")}


async def bound_to_bob(way: Any) -> None:
    with bind(user_id="bob"):
        await way("eve")


async def in_a_task_of_bobs(way: Any) -> None:
    """Eve waits for it herself, and bob's scope is inside of hers."""

    async def start() -> asyncio.Task[Any]:
        with bind(user_id="bob"):
            return asyncio.create_task(way("eve"))

    await (await asyncio.create_task(start()))


async def in_a_pools_scope_of_bobs(way: Any) -> None:
    def work() -> None:
        with bind(user_id="bob"):
            asyncio.run(way("eve"))

    await asyncio.to_thread(work)


@MODES
@pytest.mark.parametrize("way", [bare_on, in_a_pool_on], ids=lambda way: str(way.__name__))
@pytest.mark.parametrize(
    "bound", [bound_to_bob, in_a_task_of_bobs, in_a_pools_scope_of_bobs], ids=lambda bound: str(bound.__name__)
)
def test_what_is_bound_to_another_is_his_whoever_awaits_it(bound: Any, way: Any, carry: bool) -> None:
    async def come() -> None:
        await wrapped_graph.ainvoke({"text": "eve"}, on("eve"))
        await bound(way)

    with recorded(carry=carry) as sink:
        asyncio.run(request("eve", come))
    assert [row.user_id for row in sink.records] == ["eve", "bob"]


class Scheduler:
    """One timer, which is armed anew whenever a job is added, and starts those that are due."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.timer = self.loop.call_later(0, self.wake)
        self.jobs: list[Job] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.is_due = False

    async def add(self, *job: Any) -> None:
        amend(thread_id=job[0])
        self.jobs.append(job)
        self.wake()

    def wake(self) -> None:
        while self.is_due and self.jobs:
            self.tasks.append(self.loop.create_task(serve(*self.jobs.pop())))
        self.timer.cancel()
        self.timer = self.loop.call_later(0.001, self.wake)


@MODES
def test_a_timer_that_a_request_has_armed_starts_the_jobs_of_others(carry: bool) -> None:
    """The other has used the thread before that request only: the row may have no user."""

    async def shape() -> None:
        done = asyncio.Event()
        scheduler = Scheduler()
        await request("carol", partial(scheduler.add, "t-carol", done))
        await request("bob", partial(scheduler.add, "t-bob", asyncio.Event()))
        scheduler.is_due = True
        await done.wait()
        await asyncio.gather(*scheduler.tasks)
        scheduler.timer.cancel()

    with recorded(carry=carry) as sink:
        asyncio.run(shape())
    assert {
        row.thread_id for row in sink.records if row.user_id not in (row.thread_id.removeprefix("t-"), None)
    } == set()
