"""Workers that hand their jobs on, take several at once, or do nobody's work in between."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread
from langchain_core.runnables import RunnableConfig

from llmctx import bind
from tests.kit.support import User, wait_for
from tests.scenarios import Shape, enter, shape
from tests.scenarios.offcontext import with_config, with_thread_id
from tests.scenarios.workers import (
    STARTS,
    Asynchronous,
    Crew,
    Item,
    Tasks,
    Threads,
    _known,
    _worker,
    aserve,
    bare,
    employ,
    prompts,
    read,
    serve,
    with_ids,
    with_thread_ids,
)
from tests.scenarios.world import USERS, World, in_thread, model, on


class Spawning(Tasks):
    """A task for each job; the worker takes the next one meanwhile."""

    async def work(self) -> None:
        async with asyncio.TaskGroup() as group:
            while (item := await self.jobs.get()) is not None:
                group.create_task(self.one(item))

    async def one(self, item: Item) -> None:
        await aserve(item)
        self.done.append(item)


class Submitting(Threads):
    """A pooled thread for each job."""

    def work(self) -> None:
        with ThreadPoolExecutor(4) as pool:
            while (item := self.jobs.get()) is not None:
                pool.submit(self.one, item)

    def one(self, item: Item) -> None:
        serve(item)
        self.done.append(item)


class FanningOut(Tasks):
    """Several calls for each job: in a thread, and gathered."""

    async def work(self) -> None:
        while (item := await self.jobs.get()) is not None:
            await asyncio.gather(asyncio.create_task(aserve(item)))
            self.done.append(item)
            if (again := await self.jobs.get()) is None:
                return
            await asyncio.to_thread(serve, again)
            self.done.append(again)


class Restarted(Tasks):
    """The worker dies of a failing job, and its done-callback starts the next one."""

    def start(self) -> None:
        self.task = asyncio.create_task(self.work())
        self.task.add_done_callback(self.again)

    def again(self, task: asyncio.Task[Any]) -> None:
        if task.exception() is not None:
            self.start()

    async def work(self) -> None:
        while (item := await self.jobs.get()) is not None:
            prompt, config = read(item)
            try:
                await model.ainvoke(prompt, config)
            finally:
                self.done.append(item)

    async def dismiss(self) -> None:
        await super().dismiss()
        await wait_for(lambda: self.task.done() and self.task.exception() is None, "the last worker")


for _kind in (Spawning, Submitting, FanningOut, Restarted):
    _jobs = queue.Queue if _kind is Submitting else Asynchronous
    for _start in STARTS[::2]:
        _word = f"{_kind.__name__.lower()}_worker_started_{_start}"
        enter(f"{_word}_bare", _worker(_kind, _jobs, _start, bare(_known(_kind, _start))), family=__name__)
        if _start != "before":
            enter(f"{_word}_with_thread_ids", _worker(_kind, _jobs, _start, with_thread_ids), family=__name__)


class Batching(Tasks):
    """Takes whatever is there, and asks the model once for all."""

    async def work(self) -> None:
        ending = False
        while not ending:
            items = [await self.jobs.get()]
            with suppress(asyncio.QueueEmpty):
                while True:
                    items.append(self.jobs.items.get_nowait())  # type: ignore[attr-defined]
            ending = None in items
            asked = [read(item) for item in items if item is not None]
            if asked:
                configs = [config or {} for _, config in asked]
                await model.abatch([prompt for prompt, _ in asked], configs, return_exceptions=True)
            self.done.extend(item for item in items if item is not None)


@shape
async def batching_worker_bare(world: World) -> None:
    """The items of several users in one batch: nobody can know which is whose, and it is not the last one's."""

    async def give(crew: Crew, user: User) -> None:
        if user in world.users[::10]:
            crew.put(*(world.prompt(None) for _ in range(2)))
        else:
            crew.put(world.prompt(None))

    await employ(Batching(world, Asynchronous()), "before", give)


@shape
async def batching_worker_with_ids(world: World) -> None:
    await employ(Batching(world, Asynchronous()), "in_an_open_request", with_ids)


class Beating(Threads):
    """A heartbeat after each job, as soon as there is nothing to do."""

    def work(self) -> None:
        beating = False
        while True:
            try:
                item = self.jobs.get(timeout=0.001)  # type: ignore[call-arg]
            except queue.Empty:
                if beating:
                    model.invoke(self.world.prompt(None))
                beating = False
                continue
            if item is None:
                return
            serve(item)
            self.done.append(item)
            beating = True


class Accounting(Threads):
    """Says that its job is done, and makes a call for itself."""

    def work(self) -> None:
        while (item := self.jobs.get()) is not None:
            serve(item)
            self.jobs.task_done()  # type: ignore[attr-defined]
            model.invoke(self.world.prompt(None))
            self.done.append(item)


class BeatingTask(Tasks):
    """A heartbeat after each job, as soon as there is nothing to do."""

    async def work(self) -> None:
        beating = False
        while True:
            try:
                item = self.jobs.items.get_nowait()  # type: ignore[attr-defined]
            except asyncio.QueueEmpty:
                if beating:
                    await model.ainvoke(self.world.prompt(None, known="never"))
                beating = False
                await asyncio.sleep(0)
                continue
            if item is None:
                return
            await aserve(item)
            self.done.append(item)
            beating = True


class AccountingTask(Tasks):
    """Says that its job is done, and makes a call for itself."""

    async def work(self) -> None:
        while (item := await self.jobs.get()) is not None:
            await aserve(item)
            self.jobs.items.task_done()  # type: ignore[attr-defined]
            await model.ainvoke(self.world.prompt(None, known="never"))
            self.done.append(item)


for _kind in (Beating, Accounting, BeatingTask, AccountingTask):
    _jobs = Asynchronous if _kind.inherits else queue.Queue
    for _start in STARTS[::2]:
        _word = f"{_kind.__name__.lower()}_worker_started_{_start}"
        enter(_word, _worker(_kind, _jobs, _start, bare(_known(_kind, _start))), family=__name__)


@shape
async def nobodys_jobs_between_those_of_users(world: World) -> None:
    """A thread and a task that a request has started; what nobody has put is nobody's."""
    crews = [Threads(world, queue.Queue()), Tasks(world, Asynchronous())]

    async def give(crew: Crew, user: User) -> None:
        crew.put(*prompts(world, user, _known(type(crew), "in_an_open_request")))

    async def nobody(crew: Crew) -> None:
        for _ in world.users:
            crew.put(world.prompt(None, known="never" if crew.inherits else "always"))
            await asyncio.sleep(0)

    await asyncio.gather(*(employ(crew, "in_an_open_request", give) for crew in crews), *map(nobody, crews))


@shape
async def a_periodic_task_that_a_request_has_started(world: World) -> None:
    """It works through the users by thread_id, by config, and by `bind`: each call is its user's."""
    configs: dict[User, RunnableConfig] = {}
    ready, ticked = asyncio.Event(), asyncio.Event()

    async def tick() -> None:
        while not ticked.is_set():
            await ready.wait()
            for user, config in configs.items():
                await model.ainvoke(world.prompt(user), on(user))
                await model.ainvoke(world.prompt(user), config)
                with bind(user_id=user.user_id, session_id=user.session_id):
                    await model.ainvoke(world.prompt(user))
            ticked.set()

    async def endpoint(user: User) -> None:
        async def out(config: RunnableConfig) -> None:
            configs[user] = config

        if user is world.users[0]:
            world.detach(tick())
        await with_thread_id(world, user, out)
        await with_config(world, user, out)
        if len(configs) == USERS:
            ready.set()
        await ticked.wait()

    await world.through(endpoint, rounds=1)


@shape
async def a_request_that_waits_for_what_others_say(world: World) -> None:
    """Everybody listens to his neighbour, by a task and in a thread; what he does with it is his own."""
    boxes = {user: asyncio.Queue[str]() for user in world.users}
    thread_boxes = {user: queue.Queue[str]() for user in world.users}

    async def endpoint(user: User) -> None:
        neighbour = world.users[world.users.index(user) - 1]
        boxes[neighbour].put_nowait("hello")
        thread_boxes[neighbour].put("hello")
        await boxes[user].get()
        await model.ainvoke(world.prompt(user))
        await asyncio.to_thread(thread_boxes[user].get)
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint)


def _listening_in(run: Callable[[Callable[[], Any]], Awaitable[Any]]) -> Shape:
    async def drive(world: World) -> None:
        boxes = {user: queue.Queue[str]() for user in world.users}

        async def endpoint(user: User) -> None:
            prompt = world.prompt(user)

            def listen() -> None:
                boxes[user].get()
                model.invoke(prompt)

            boxes[world.users[world.users.index(user) - 1]].put("hello")
            await run(listen)

        await world.through(endpoint)

    return drive


enter("a_request_that_listens_in_to_thread", _listening_in(asyncio.to_thread), family=__name__)
enter("a_request_that_listens_in_anyios_to_thread", _listening_in(anyio.to_thread.run_sync), family=__name__)


@shape
async def a_request_that_waits_for_its_workers_answer(world: World) -> None:
    """The answer comes back through a queue, and by a future; what the request does with it is its own."""
    crew = Tasks(world, Asynchronous())

    async def endpoint(crew: Crew, user: User) -> None:
        answers: asyncio.Queue[str] = asyncio.Queue()
        item = world.prompt(user, known="never")
        crew.put(item)
        await wait_for(lambda: item in crew.done, "the answer")
        answers.put_nowait("so")
        await answers.get()
        await model.ainvoke(world.prompt(user))

    await employ(crew, "in_an_open_request", endpoint)


@shape
async def workers_of_ones_own_request(world: World) -> None:
    """A request that shares its work among four tasks, or threads, of its own."""

    async def endpoint(user: User) -> None:
        jobs: asyncio.Queue[str] = asyncio.Queue()
        thread_jobs: queue.Queue[str] = queue.Queue()
        for _ in range(4):
            jobs.put_nowait(world.prompt(user))
            thread_jobs.put(world.prompt(user, known="carried"))

        async def work() -> None:
            while not jobs.empty():
                await model.ainvoke(await jobs.get())

        def work_in_thread() -> None:
            with suppress(queue.Empty):
                while True:
                    model.invoke(thread_jobs.get_nowait())

        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(work())
        await asyncio.gather(*(in_thread(work_in_thread) for _ in range(2)))

    await world.through(endpoint)
