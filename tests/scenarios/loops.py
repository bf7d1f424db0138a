"""Other loops, contexts that are kept, and callbacks and streams that end elsewhere."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
from langchain_core.callbacks import CallbackManager
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig

from llmctx import CallContext, bind, carry
from tests.kit.support import Known, ProviderDown, User
from tests.scenarios import Shape, enter, shape
from tests.scenarios.offcontext import (
    USUAL,
    bare_thread,
    leaving_by,
    thread_pool,
    to_thread,
    with_config,
    with_thread_id,
    work,
)
from tests.scenarios.tasks import AJOBS
from tests.scenarios.world import World, in_thread, model, on, other_loop


def _elsewhere(handed: str, name: str) -> Shape:
    """A coroutine in the loop of another thread. Python hands the context on; config and thread_id say the same."""

    async def drive(world: World) -> None:
        job = AJOBS[name]
        async with other_loop() as loop:

            async def endpoint(user: User) -> None:
                async def out(config: RunnableConfig | None) -> None:
                    there = job.run([world.prompt(user, job.status) for _ in range(job.count)], config)
                    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there, loop))

                if handed == "config":
                    await with_config(world, user, out)
                elif handed == "thread_id":
                    await with_thread_id(world, user, out)
                else:
                    await out(None)

            await world.through(endpoint, rounds=1)

    return drive


for _handed in ("config", "thread_id", "nothing"):
    for _name in ("ainvoke", "astream", "plain_graph_ainvoke"):
        enter(f"{_name}_in_another_loop_with_{_handed}", _elsewhere(_handed, _name), family=__name__)


@shape
async def another_loop_from_a_bare_thread(world: World) -> None:
    async with other_loop() as loop:

        async def endpoint(user: User) -> None:
            prompt = world.prompt(user, known="carried")
            await in_thread(lambda: asyncio.run_coroutine_threadsafe(model.ainvoke(prompt), loop).result())

        await world.through(endpoint)


@shape
async def another_loop_whose_thread_a_request_has_started(world: World) -> None:
    """What others, and nobody, run there is not the starter's."""
    loops: list[tuple[asyncio.AbstractEventLoop, threading.Thread]] = []

    def run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    async def endpoint(user: User) -> None:
        if not loops:
            loop = asyncio.new_event_loop()
            loops.append((loop, threading.Thread(target=run, args=(loop,))))
            loops[0][1].start()
        for job in (AJOBS["ainvoke"], AJOBS["astream"]):
            there = job.run([world.prompt(user)], None)
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there, loops[0][0]))

    await world.through(endpoint)
    loop, thread = loops[0]
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(model.ainvoke(world.prompt(None)), loop))
    loop.call_soon_threadsafe(loop.stop)
    await asyncio.to_thread(thread.join)
    loop.close()


@shape
async def blocking_portal(world: World) -> None:
    """anyio's way into the loop of another thread."""
    with anyio.from_thread.start_blocking_portal() as portal:

        async def endpoint(user: User) -> None:
            await asyncio.wrap_future(portal.start_task_soon(model.ainvoke, world.prompt(user)))
            prompt = world.prompt(user)
            await asyncio.to_thread(lambda: portal.call(model.ainvoke, prompt))

        await world.through(endpoint)
        await asyncio.wrap_future(portal.start_task_soon(model.ainvoke, world.prompt(None)))


@contextmanager
def _kept_contexts(world: World) -> Iterator[tuple[Callable[[User], Awaitable[None]], dict[User, contextvars.Context]]]:
    kept: dict[User, contextvars.Context] = {}

    async def endpoint(user: User) -> None:
        await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))
        kept[user] = contextvars.copy_context()

    yield endpoint, kept


@shape
async def a_context_kept_from_an_earlier_request(world: World) -> None:
    """It is run later, by nobody: in this thread, in a bare one, and as a task."""
    with _kept_contexts(world) as (endpoint, kept):
        await world.through(endpoint, rounds=1)

    async def visit(user: User) -> None:
        kept[user].run(model.invoke, world.prompt(user))
        await asyncio.create_task(model.ainvoke(world.prompt(user)), context=kept[user])
        prompt = world.prompt(user)
        await in_thread(lambda: kept[user].run(model.invoke, prompt))

    await world.each(visit)


@shape
async def a_context_kept_and_run_in_somebody_elses_request(world: World) -> None:
    """What runs in it is still its owner's; what the other one does with his own thread_id is his."""
    with _kept_contexts(world) as (endpoint, kept):
        await world.through(endpoint, rounds=1)

    async def second(user: User) -> None:
        other = world.users[world.users.index(user) - 1]
        await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))
        kept[other].run(model.invoke, world.prompt(other))
        kept[other].run(model.invoke, world.prompt(user), on(user))
        await model.ainvoke(world.prompt(user))

    await world.through(second, rounds=1)


@shape
async def ends_that_are_delivered_late_from_another_thread(world: World) -> None:
    """A run begins in the request; a thread of nobody's tells its tokens and its end when the request is over."""
    runs: list[Any] = []

    async def endpoint(user: User) -> None:
        manager = CallbackManager.configure()
        for status in ("ok", "error"):
            prompt = HumanMessage(world.prompt(user, status))
            runs.extend((status, run) for run in manager.on_chat_model_start({"name": "by hand"}, [[prompt]]))

    def deliver() -> None:
        for status, run in runs:
            chunk = ChatGenerationChunk(message=AIMessageChunk(content="one"))
            run.on_llm_new_token("one", chunk=chunk)
            if status == "ok":
                run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=chunk.message)]]))
            else:
                run.on_llm_error(ProviderDown())

    await world.through(endpoint)
    await in_thread(deliver)


@shape
async def a_stream_begun_here_and_read_in_a_thread(world: World) -> None:
    async def endpoint(user: User) -> None:
        stream = model.stream(world.prompt(user))
        next(stream)
        await in_thread(lambda: list(stream))

    await world.through(endpoint)


@shape
async def a_stream_begun_here_and_read_when_the_request_is_over(world: World) -> None:
    streams: list[Any] = []

    async def endpoint(user: User) -> None:
        streams.append(model.stream(world.prompt(user)))
        next(streams[-1])

    await world.through(endpoint)
    await asyncio.gather(*(in_thread(lambda stream=stream: list(stream)) for stream in streams))


@shape
async def a_stream_made_here_and_begun_in_a_thread(world: World) -> None:
    """A call starts where its stream is first read."""

    async def endpoint(user: User) -> None:
        stream = model.stream(world.prompt(user, known="carried"))
        await in_thread(lambda: list(stream))

    await world.through(endpoint)


@shape
async def a_stream_made_in_a_thread_and_read_here(world: World) -> None:
    async def endpoint(user: User) -> None:
        prompt = world.prompt(user)
        list(await in_thread(lambda: model.stream(prompt)))

    await world.through(endpoint)


@shape
async def an_astream_begun_in_one_task_and_read_in_another(world: World) -> None:
    """The other one has been there before, and is nobody's."""
    streams: asyncio.Queue[AsyncIterator[Any] | None] = asyncio.Queue()

    async def read() -> None:
        while (stream := await streams.get()) is not None:
            async for _ in stream:
                pass

    world.detach(read())

    async def endpoint(user: User) -> None:
        stream = model.astream(world.prompt(user))
        await anext(stream)
        streams.put_nowait(stream)

    await world.through(endpoint)
    streams.put_nowait(None)


def _one_thread(named: Callable[[User, Callable[[], Any]], Callable[[], Any]], known: Known = "always") -> Shape:
    """One pooled thread does a job for each user, and nobody's work in between."""

    async def drive(world: World) -> None:
        with ThreadPoolExecutor(1) as pool:

            async def endpoint(user: User) -> None:
                prompt = world.prompt(user, known=known)
                with suppress(KeyError):
                    await asyncio.wrap_future(pool.submit(named(user, lambda: model.invoke(prompt))))

            async def nobody() -> None:
                for _ in range(2 * len(world.users)):
                    await asyncio.wrap_future(pool.submit(model.invoke, world.prompt(None)))

            await asyncio.gather(world.through(endpoint), nobody())

    return drive


def _binding(user: User, job: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> None:
        with bind(user_id=user.user_id, session_id=user.session_id):
            job()

    return run


def _raising(user: User, job: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> None:
        job()
        raise KeyError

    return run


enter("nobodys_work_after_a_plain_job", _one_thread(lambda user, job: job, "carried"), family=__name__)
enter("nobodys_work_after_a_carried_job", _one_thread(lambda user, job: carry(job)), family=__name__)
enter("nobodys_work_after_a_binding_job", _one_thread(_binding), family=__name__)
enter("nobodys_work_after_a_raising_job", _one_thread(_raising, "carried"), family=__name__)
enter(
    "nobodys_work_after_a_raising_carried_job",
    _one_thread(lambda user, job: carry(_raising(user, job))),
    family=__name__,
)
enter(
    "nobodys_work_after_a_job_with_its_context",
    _one_thread(lambda user, job: lambda context=contextvars.copy_context(): context.run(job)),
    family=__name__,
)


@shape
async def pool_threads_that_a_request_has_started(world: World) -> None:
    """Used by others while it is open, and by nobody when all is over; config and thread_id as well."""
    pools: list[ThreadPoolExecutor] = []

    async def leave_by(world: World, job: Callable[[], Any]) -> None:
        if not pools:
            pools.append(ThreadPoolExecutor(3))
        await asyncio.wrap_future(pools[0].submit(job))

    await leaving_by(leave_by, USUAL, "all")(world)
    await asyncio.gather(
        *(asyncio.wrap_future(pools[0].submit(model.invoke, world.prompt(None))) for _ in range(len(world.users)))
    )
    pools[0].shutdown()


@shape
async def done_callbacks_of_a_pool_job(world: World) -> None:
    """They run in the pooled thread when its job is over: it is nobody's then."""

    async def endpoint(user: User) -> None:
        gate, told = threading.Event(), asyncio.Event()
        lost, loop = world.prompt(None), asyncio.get_running_loop()

        def call_back(_: Any) -> None:
            model.invoke(lost)
            loop.call_soon_threadsafe(told.set)

        job = world.executor.submit(gate.wait)
        job.add_done_callback(call_back)
        gate.set()
        await told.wait()

    await world.through(endpoint)


@shape
async def an_anonymous_request_hands_on_nothing(world: World) -> None:
    """Between those of known users: its threads, jobs and tasks have no name either."""

    async def endpoint(user: User) -> None:
        with bind(CallContext()):
            for leave_by in (bare_thread, thread_pool, to_thread):
                await leave_by(world, work(world, User(None, None, ""), None, USUAL))

    async def named(user: User) -> None:
        for leave_by in (bare_thread, thread_pool):
            await leave_by(world, work(world, user, None, USUAL, "carried"))

    await asyncio.gather(world.through(endpoint, middleware=(), rounds=1), world.through(named, rounds=1))
