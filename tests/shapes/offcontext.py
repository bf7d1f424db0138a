"""Calls that leave the task of their request: tasks, threads, executors, other loops, kept contexts, late callbacks.

What is handed on out there is the run's config, or only the thread_id, or nothing. Nothing is enough where Python
itself copies the context (tasks, `to_thread`, callbacks of the loop); elsewhere only `carry=True` knows.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.pool import ThreadPool
from operator import itemgetter
from typing import Any, NamedTuple

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from langchain_core.callbacks import CallbackManager
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnableParallel
from langgraph.graph import START, StateGraph
from starlette.concurrency import run_in_threadpool

from llmctx import CallContext, bind, carry
from llmctx.graph import wrap_graph
from tests.shapes import Shape, enter, shape
from tests.shapes.world import State, World, chain, in_thread, leaving, model, on, other_loop, talk_sync
from tests.support import Completer, Known, PlainTalker, ProviderDown, User, wait_for

parallel: Runnable[Any, Any] = RunnableParallel(one=itemgetter(0) | model, two=itemgetter(1) | model)


def _small(wrapped: bool) -> Any:
    builder = StateGraph(State)
    builder.add_node("talk_sync", talk_sync)
    builder.add_edge(START, "talk_sync")
    return (wrap_graph(builder) if wrapped else builder).compile()


small = {"wrapped": _small(True), "plain": _small(False)}


class Stuck(PlainTalker):
    """Never answers; says when it has begun."""

    begun: Any = None

    async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
        self.begun.set()
        await asyncio.Event().wait()

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        yield ChatGenerationChunk(message=AIMessageChunk(content="one "))
        await self._agenerate()


# -- what is done out there -------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """`run(prompts, config)` calls a model once for each of `count` prompts, and each call ends as `status`."""

    run: Callable[[list[str], RunnableConfig | None], Any]
    status: str = "ok"
    count: int = 1


def _fails(prompts: list[str], config: RunnableConfig | None) -> None:
    with pytest.raises(ProviderDown):
        model.invoke(prompts[0], config)


def _stream_fails(prompts: list[str], config: RunnableConfig | None) -> None:
    with pytest.raises(ProviderDown):
        list(model.stream(prompts[0], config))


def _leaves_stream(prompts: list[str], config: RunnableConfig | None) -> None:
    stream = model.stream(prompts[0], config)
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # LangChain types a generator as an iterator


JOBS = {
    "invoke": Job(lambda prompts, config: model.invoke(prompts[0], config)),
    "stream": Job(lambda prompts, config: list(model.stream(prompts[0], config))),
    "failing": Job(_fails, "error"),
    "failing_stream": Job(_stream_fails, "error"),
    "stream_left_early": Job(_leaves_stream, "cancelled"),
    "chain": Job(lambda prompts, config: chain.invoke({"prompt": prompts[0]}, config)),
    "chain_batch": Job(
        lambda prompts, config: chain.batch([{"prompt": prompt} for prompt in prompts], config), count=3
    ),
    "model_batch": Job(lambda prompts, config: model.batch(prompts, config), count=3),
    "runnable_parallel": Job(lambda prompts, config: parallel.invoke(prompts, config), count=2),
    "completion_model": Job(lambda prompts, config: Completer().invoke(prompts[0], config)),
    "asyncio_run": Job(lambda prompts, config: asyncio.run(model.ainvoke(prompts[0], config))),
    "asyncio_run_abatch": Job(lambda prompts, config: asyncio.run(model.abatch(prompts, config)), count=3),
    "graph_invoke": Job(lambda prompts, config: small["wrapped"].invoke({"prompts": prompts}, config), count=2),
    "graph_stream": Job(lambda prompts, config: list(small["wrapped"].stream({"prompts": prompts}, config))),
    "plain_graph_invoke": Job(lambda prompts, config: small["plain"].invoke({"prompts": prompts}, config), count=2),
    "plain_graph_stream": Job(lambda prompts, config: list(small["plain"].stream({"prompts": prompts}, config))),
}
USUAL = tuple(JOBS[name] for name in ("invoke", "stream", "failing"))


def work(
    world: World, user: User, config: RunnableConfig | None, jobs: tuple[Job, ...], known: Known = "always"
) -> Any:
    """A function that does all `jobs`, for `user`."""
    planned = [(job.run, [world.prompt(user, job.status, known=known) for _ in range(job.count)]) for job in jobs]

    def run() -> None:
        for do, prompts in planned:
            do(prompts, config)

    return run


# -- what is handed on ------------------------------------------------------------------------------------------------

Leave = Callable[[World, Callable[[], Any]], Awaitable[Any]]


Out = Callable[[RunnableConfig], Awaitable[Any]]


async def of_a_wrapped_graph(world: World, user: User, out: Out) -> None:
    config: RunnableConfig = {"configurable": {"thread_id": f"{user.thread_id}-wrapped"}}
    await world.graphs[True].ainvoke({"leave": leaving(out)}, config)


async def of_a_plain_graph(world: World, user: User, out: Out) -> None:
    config: RunnableConfig = {"configurable": {"thread_id": f"{user.thread_id}-plain"}}
    await world.graphs[False].ainvoke({"leave": leaving(out)}, config)


async def of_a_chain(world: World, user: User, out: Out) -> None:
    async def step(said: str, config: RunnableConfig) -> None:
        await out(config)

    await RunnableLambda(step).ainvoke("go")


CONFIG_SOURCES = (of_a_wrapped_graph, of_a_plain_graph, of_a_chain)


async def with_config(world: World, user: User, out: Out) -> None:
    """Call `out` with the config of a wrapped graph's node, of a plain graph's, and of a chain's step."""
    for source in CONFIG_SOURCES:
        await source(world, user, out)


async def with_thread_id(world: World, user: User, out: Out) -> None:
    """Call `out` with nothing but a thread_id, on which this request has run a graph."""
    await world.graphs[True].ainvoke({"prompt": world.prompt(user)}, on(user))
    await out(on(user))


def leaving_by(leave_by: Leave, jobs: tuple[Job, ...], handed: str, known: Known = "carried") -> Shape:
    """The shape in which each request does `jobs` out there. `known`: who can know it if nothing is handed on."""

    async def drive(world: World) -> None:
        async def endpoint(user: User) -> None:
            async def out(config: RunnableConfig | None, known: Known = "always") -> None:
                await leave_by(world, work(world, user, config, jobs, known))

            if handed in ("config", "all"):
                await with_config(world, user, out)
            if handed in ("thread_id", "all"):
                await with_thread_id(world, user, out)
            if handed in ("nothing", "all"):
                await out(None, known)

        await world.through(endpoint, rounds=1)

    return drive


# -- ways out into a thread -------------------------------------------------------------------------------------------


class Worker(threading.Thread):
    """A thread the old way: its work is its `run`."""

    def __init__(self, job: Callable[[], Any], done: Future[None]) -> None:
        super().__init__()
        self.job, self.done = job, done

    def run(self) -> None:
        _settle(self.job, self.done)


def _settle(job: Callable[[], Any], done: Future[None]) -> None:
    try:
        job()
        done.set_result(None)
    except BaseException as problem:
        done.set_exception(problem)


async def bare_thread(world: World, job: Callable[[], Any]) -> None:
    await in_thread(job)


async def thread_subclass(world: World, job: Callable[[], Any]) -> None:
    done: Future[None] = Future()
    Worker(job, done).start()
    await asyncio.wrap_future(done)


async def timer(world: World, job: Callable[[], Any]) -> None:
    done: Future[None] = Future()
    threading.Timer(0.001, _settle, (job, done)).start()
    await asyncio.wrap_future(done)


async def thread_in_a_thread(world: World, job: Callable[[], Any]) -> None:
    def outer() -> None:
        done: Future[None] = Future()
        thread = Worker(job, done)
        thread.start()
        done.result()

    await in_thread(outer)


async def thread_pool(world: World, job: Callable[[], Any]) -> None:
    await asyncio.wrap_future(world.executor.submit(job))


async def thread_pool_map(world: World, job: Callable[[], Any]) -> None:
    results = world.executor.map(lambda do: do(), [job])
    await asyncio.to_thread(list, results)


async def pool_from_a_pooled_thread(world: World, job: Callable[[], Any]) -> None:
    with ThreadPoolExecutor(1) as inner:
        await asyncio.wrap_future(world.executor.submit(lambda: inner.submit(job).result()))


async def default_executor(world: World, job: Callable[[], Any]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, job)


async def own_executor(world: World, job: Callable[[], Any]) -> None:
    await asyncio.get_running_loop().run_in_executor(world.executor, job)


async def executor_of_a_loop_in_a_thread(world: World, job: Callable[[], Any]) -> None:
    async def run() -> None:
        await asyncio.get_running_loop().run_in_executor(None, job)

    await in_thread(lambda: asyncio.run(run()))


for _leave in (
    bare_thread,
    thread_subclass,
    timer,
    thread_in_a_thread,
    thread_pool,
    thread_pool_map,
    pool_from_a_pooled_thread,
    default_executor,
    own_executor,
    executor_of_a_loop_in_a_thread,
):
    enter(f"{_leave.__name__}_with_nothing", leaving_by(_leave, USUAL, "nothing"), family=__name__)
for _leave in (bare_thread, thread_pool, default_executor, executor_of_a_loop_in_a_thread):
    for _handed in ("config", "thread_id"):
        enter(f"{_leave.__name__}_with_{_handed}", leaving_by(_leave, USUAL, _handed), family=__name__)

for _name, _job in JOBS.items():
    if _job not in USUAL:
        enter(f"{_name}_in_a_pooled_thread", leaving_by(thread_pool, (_job,), "all"), family=__name__)


async def to_thread(world: World, job: Callable[[], Any]) -> None:
    await asyncio.to_thread(job)


async def anyio_to_thread(world: World, job: Callable[[], Any]) -> None:
    await anyio.to_thread.run_sync(job)


async def starlette_threadpool(world: World, job: Callable[[], Any]) -> None:
    await run_in_threadpool(job)


async def context_run_in_a_thread(world: World, job: Callable[[], Any]) -> None:
    await in_thread(lambda context=contextvars.copy_context(): context.run(job))


async def thread_carried_by_hand(world: World, job: Callable[[], Any]) -> None:
    await in_thread(carry(job))


async def pool_carried_by_hand(world: World, job: Callable[[], Any]) -> None:
    await asyncio.wrap_future(world.executor.submit(carry(job)))


async def executor_carried_by_hand(world: World, job: Callable[[], Any]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, carry(job))


async def thread_that_a_worker_thread_asks_back(world: World, job: Callable[[], Any]) -> None:
    """Out to a thread, back into the loop, and out again."""
    await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(asyncio.to_thread, job))


for _leave in (
    to_thread,
    anyio_to_thread,
    starlette_threadpool,
    context_run_in_a_thread,
    thread_carried_by_hand,
    pool_carried_by_hand,
    executor_carried_by_hand,
    thread_that_a_worker_thread_asks_back,
):
    enter(f"{_leave.__name__}_with_nothing", leaving_by(_leave, USUAL, "nothing", "always"), family=__name__)
for _name in ("model_batch", "stream_left_early", "graph_stream"):
    enter(f"{_name}_in_to_thread", leaving_by(to_thread, (JOBS[_name],), "all", "always"), family=__name__)


# -- multiprocessing's ThreadPool: threads of its own, fed by a queue written in C ------------------------------------


def _mp_thread_pool(handed: str, lazily: bool) -> Shape:
    async def drive(world: World) -> None:
        pools: list[ThreadPool] = [] if lazily else [ThreadPool(4)]

        async def leave_by(world: World, job: Callable[[], Any]) -> None:
            if not pools:
                pools.append(ThreadPool(4))
            done: Future[None] = Future()
            pools[0].apply_async(_settle, (job, done))
            await asyncio.wrap_future(done)

        await leaving_by(leave_by, USUAL, handed)(world)
        pools[0].terminate()

    return drive


for _handed in ("config", "thread_id", "nothing"):
    for _lazily in (False, True):
        _started = "_started_in_a_request" if _lazily else ""
        enter(f"mp_thread_pool{_started}_with_{_handed}", _mp_thread_pool(_handed, _lazily), family=__name__)


# -- tasks that their request waits for -------------------------------------------------------------------------------


async def _ainvoke(prompts: list[str], config: RunnableConfig | None) -> None:
    await model.ainvoke(prompts[0], config)


async def _astream(prompts: list[str], config: RunnableConfig | None) -> None:
    async for _ in model.astream(prompts[0], config):
        pass


async def _afails(prompts: list[str], config: RunnableConfig | None) -> None:
    with pytest.raises(ProviderDown):
        await model.ainvoke(prompts[0], config)


async def _astream_fails(prompts: list[str], config: RunnableConfig | None) -> None:
    with pytest.raises(ProviderDown):
        await _astream(prompts, config)


async def _leaves_astream(prompts: list[str], config: RunnableConfig | None) -> None:
    stream = model.astream(prompts[0], config)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]  # LangChain types a generator as an iterator


async def _graph_astream(prompts: list[str], config: RunnableConfig | None) -> None:
    for mode in ("updates", "messages"):
        half, prompts = prompts[:1], prompts[1:]
        async for _ in small["wrapped"].astream({"prompts": half}, config, stream_mode=mode):
            pass


AJOBS = {
    "ainvoke": Job(_ainvoke),
    "astream": Job(_astream),
    "failing": Job(_afails, "error"),
    "failing_astream": Job(_astream_fails, "error"),
    "astream_left_early": Job(_leaves_astream, "cancelled"),
    "chain": Job(lambda prompts, config: chain.ainvoke({"prompt": prompts[0]}, config)),
    "abatch": Job(lambda prompts, config: model.abatch(prompts, config), count=3),
    "runnable_parallel": Job(lambda prompts, config: parallel.ainvoke(prompts, config), count=2),
    "completion_model": Job(lambda prompts, config: Completer().ainvoke(prompts[0], config)),
    "graph_ainvoke": Job(lambda prompts, config: small["wrapped"].ainvoke({"prompts": prompts}, config), count=2),
    "graph_astream": Job(_graph_astream, count=2),
    "plain_graph_ainvoke": Job(lambda prompts, config: small["plain"].ainvoke({"prompts": prompts}, config), count=2),
}

Join = Callable[[list[Coroutine[Any, Any, Any]]], Awaitable[Any]]


async def gather(work: list[Coroutine[Any, Any, Any]]) -> None:
    await asyncio.gather(*work)


async def task_group(work: list[Coroutine[Any, Any, Any]]) -> None:
    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(each)


async def anyio_task_group(work: list[Coroutine[Any, Any, Any]]) -> None:
    async def run(each: Coroutine[Any, Any, Any]) -> None:
        await each

    async with anyio.create_task_group() as group:
        for each in work:
            group.start_soon(run, each)


async def created_and_awaited(work: list[Coroutine[Any, Any, Any]]) -> None:
    for task in [asyncio.create_task(each) for each in work]:
        await task


async def asyncio_wait(work: list[Coroutine[Any, Any, Any]]) -> None:
    pending = {asyncio.ensure_future(each) for each in work}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


async def as_completed(work: list[Coroutine[Any, Any, Any]]) -> None:
    for each in asyncio.as_completed(work):
        await each


async def shield(work: list[Coroutine[Any, Any, Any]]) -> None:
    await asyncio.gather(*(asyncio.shield(each) for each in work))


async def wait_for_each(work: list[Coroutine[Any, Any, Any]]) -> None:
    for each in work:
        await asyncio.wait_for(each, 30)


async def nested(work: list[Coroutine[Any, Any, Any]]) -> None:
    """A shielded task group within a `wait_for` within a `gather`."""
    await asyncio.gather(asyncio.create_task(asyncio.wait_for(asyncio.shield(task_group(work)), 30)))


def _joined(join: Join) -> Shape:
    async def drive(world: World) -> None:
        async def endpoint(user: User) -> None:
            jobs = [AJOBS[name] for name in ("ainvoke", "astream", "failing", "abatch")]
            await join([job.run([world.prompt(user, job.status) for _ in range(job.count)], None) for job in jobs])
            await model.ainvoke(world.prompt(user))

        await world.through(endpoint, rounds=1)

    return drive


for _join in (
    gather,
    task_group,
    anyio_task_group,
    created_and_awaited,
    asyncio_wait,
    as_completed,
    shield,
    wait_for_each,
    nested,
):
    enter(_join.__name__, _joined(_join), family=__name__)


async def cancelled_task(stuck: Coroutine[Any, Any, Any], begun: asyncio.Event) -> None:
    task = asyncio.create_task(stuck)
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])


async def cancelled_gather(stuck: Coroutine[Any, Any, Any], begun: asyncio.Event) -> None:
    both = asyncio.gather(stuck, asyncio.Event().wait())
    await begun.wait()
    both.cancel()
    with suppress(asyncio.CancelledError):
        await both


async def timed_out(stuck: Coroutine[Any, Any, Any], begun: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(None) as limit:
            asyncio.create_task(begun.wait()).add_done_callback(lambda _: limit.reschedule(0))
            await stuck


async def failing_sibling(stuck: Coroutine[Any, Any, Any], begun: asyncio.Event) -> None:
    async def sibling() -> None:
        await begun.wait()
        raise ProviderDown

    with suppress(ExceptionGroup):
        await task_group([stuck, sibling()])


async def anyio_cancel_scope(stuck: Coroutine[Any, Any, Any], begun: asyncio.Event) -> None:
    async def run() -> None:
        await stuck

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await begun.wait()
        group.cancel_scope.cancel()


def _cut_off(cut: Callable[[Coroutine[Any, Any, Any], asyncio.Event], Awaitable[None]]) -> Shape:
    async def drive(world: World) -> None:
        async def endpoint(user: User) -> None:
            for run in (_ainvoke_stuck, _astream_stuck):
                begun = asyncio.Event()
                await cut(run(Stuck(begun=begun), world.prompt(user, "cancelled")), begun)
            await model.ainvoke(world.prompt(user))

        await world.through(endpoint, rounds=1)

    return drive


async def _ainvoke_stuck(stuck: Stuck, prompt: str) -> None:
    await stuck.ainvoke(prompt)


async def _astream_stuck(stuck: Stuck, prompt: str) -> None:
    async for _ in stuck.astream(prompt):
        pass


for _cut in (cancelled_task, cancelled_gather, timed_out, failing_sibling, anyio_cancel_scope):
    enter(_cut.__name__, _cut_off(_cut), family=__name__)


# -- tasks that outlive their request ---------------------------------------------------------------------------------


def _late(do: Callable[[World, User], Coroutine[Any, Any, Any]]) -> Shape:
    """`do` runs in a task that a request has started, after all requests have ended."""

    async def drive(world: World) -> None:
        gate = asyncio.Event()

        async def afterwards(user: User) -> None:
            await gate.wait()
            await do(world, user)

        async def endpoint(user: User) -> None:
            world.detach(afterwards(user))

        await world.through(endpoint, rounds=1)
        gate.set()

    return drive


def _late_job(job: Job, *, on_thread: bool) -> Callable[[World, User], Coroutine[Any, Any, Any]]:
    async def do(world: World, user: User) -> None:
        prompts = [world.prompt(user, job.status) for _ in range(job.count)]
        await job.run(prompts, on(user) if on_thread else None)

    return do


for _name, _job in AJOBS.items():
    enter(f"late_{_name}", _late(_late_job(_job, on_thread=False)), family=__name__)
for _name in ("ainvoke", "graph_ainvoke", "graph_astream", "plain_graph_ainvoke"):
    enter(f"late_{_name}_with_thread_id", _late(_late_job(AJOBS[_name], on_thread=True)), family=__name__)


def _late_leave(leave_by: Leave, known: Known) -> Callable[[World, User], Coroutine[Any, Any, Any]]:
    async def do(world: World, user: User) -> None:
        await leave_by(world, work(world, user, None, USUAL, known))

    return do


for _leave in (to_thread, pool_carried_by_hand):
    enter(f"late_{_leave.__name__}", _late(_late_leave(_leave, "always")), family=__name__)
for _leave in (bare_thread, thread_pool, default_executor):
    enter(f"late_{_leave.__name__}", _late(_late_leave(_leave, "carried")), family=__name__)


async def _late_fan_out(world: World, user: User) -> None:
    await nested([model.ainvoke(world.prompt(user)) for _ in range(3)])
    await asyncio.create_task(asyncio.to_thread(model.batch, [world.prompt(user), world.prompt(user)]))


async def _late_bind(world: World, user: User) -> None:
    twin = User(user.user_id, f"{user.session_id}-later", user.thread_id)
    with bind(user_id=twin.user_id, session_id=twin.session_id):
        await model.ainvoke(world.prompt(twin))
    await model.ainvoke(world.prompt(user))


async def _late_cancelled(world: World, user: User) -> None:
    begun = asyncio.Event()
    await cancelled_task(_ainvoke_stuck(Stuck(begun=begun), world.prompt(user, "cancelled")), begun)


@shape
async def late_from_a_node(world: World) -> None:
    """The task is started in a node, of a wrapped graph and of a plain one, and outlives the graph and the request."""
    gate = asyncio.Event()

    async def afterwards(user: User) -> None:
        await gate.wait()
        for job in (AJOBS["ainvoke"], AJOBS["astream"], AJOBS["failing"], AJOBS["graph_ainvoke"]):
            await job.run([world.prompt(user, job.status) for _ in range(job.count)], None)

    async def endpoint(user: User) -> None:
        async def out(config: RunnableConfig) -> None:
            world.detach(afterwards(user))

        await with_config(world, user, out)

    await world.through(endpoint, rounds=1)
    gate.set()


enter("late_fan_out", _late(_late_fan_out), family=__name__)
enter("late_bind", _late(_late_bind), family=__name__)
enter("late_cancelled", _late(_late_cancelled), family=__name__)


@shape
async def calls_that_the_end_of_the_request_overtakes(world: World) -> None:
    """They begin inside of the request, and end when it is over."""
    gate = asyncio.Event()

    async def stream(prompt: str) -> None:
        async for _ in model.astream(prompt):
            await gate.wait()

    async def endpoint(user: User) -> None:
        before = world.log.stats().started
        world.detach(stream(world.prompt(user)))
        world.detach(model.ainvoke(world.prompt(user)))
        world.detach(asyncio.to_thread(model.invoke, world.prompt(user)))
        await wait_for(lambda: world.log.stats().started > before, "a call")

    await world.through(endpoint)
    gate.set()


@shape
async def streams_that_are_kept_and_never_read(world: World) -> None:
    """Begun in the request and in a task that outlives it. They end with the call log."""
    kept: list[Any] = []

    async def keep(stream: AsyncIterator[Any]) -> None:
        kept.append(stream)
        await anext(stream)

    async def endpoint(user: User) -> None:
        await keep(model.astream(world.prompt(user, "abandoned")))
        world.detach(keep(model.astream(world.prompt(user, "abandoned"))))

    await world.through(endpoint)
    await asyncio.gather(*world.later)
    await world.log.aclose(10)
    for stream in kept:
        await stream.aclose()


# -- callbacks of the loop --------------------------------------------------------------------------------------------


def _called_back(arrange: Callable[[Callable[[], Any]], Awaitable[Any]], known: Known = "always") -> Shape:
    """`arrange` lets the loop call a function, which starts a task."""

    async def drive(world: World) -> None:
        async def endpoint(user: User) -> None:
            prompt = world.prompt(user, known=known)
            await arrange(lambda: world.detach(model.ainvoke(prompt)))

        await world.through(endpoint)
        await wait_for(lambda: len(world.later) == len(world.book.truths), "every callback")

    return drive


async def call_soon(do: Callable[[], Any]) -> None:
    asyncio.get_running_loop().call_soon(do)


async def call_later(do: Callable[[], Any]) -> None:
    asyncio.get_running_loop().call_later(0.005, do)


async def done_callback_of_a_task(do: Callable[[], Any]) -> None:
    asyncio.create_task(asyncio.sleep(0)).add_done_callback(lambda _: do())


async def done_callback_of_an_executor_job(do: Callable[[], Any]) -> None:
    asyncio.get_running_loop().run_in_executor(None, int).add_done_callback(lambda _: do())


async def call_soon_threadsafe_from_to_thread(do: Callable[[], Any]) -> None:
    await asyncio.to_thread(asyncio.get_running_loop().call_soon_threadsafe, do)


async def call_soon_threadsafe_from_a_bare_thread(do: Callable[[], Any]) -> None:
    loop = asyncio.get_running_loop()
    await in_thread(lambda: loop.call_soon_threadsafe(do))


for _arrange in (
    call_soon,
    call_later,
    done_callback_of_a_task,
    done_callback_of_an_executor_job,
    call_soon_threadsafe_from_to_thread,
):
    enter(_arrange.__name__, _called_back(_arrange), family=__name__)
enter(
    "call_soon_threadsafe_from_a_bare_thread",
    _called_back(call_soon_threadsafe_from_a_bare_thread, "carried"),
    family=__name__,
)


# -- other loops ------------------------------------------------------------------------------------------------------


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


# -- contexts that are kept -------------------------------------------------------------------------------------------


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


# -- callbacks and streams that end elsewhere -------------------------------------------------------------------------


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


# -- threads that go on with somebody else's work, or with nobody's ---------------------------------------------------


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
