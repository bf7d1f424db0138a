"""Calls that leave the task of their request: tasks, threads, executors, other loops, kept contexts, late callbacks.

What is handed on out there is the run's config, or only the thread_id, or nothing. Nothing is enough where Python
itself copies the context (tasks, `to_thread`, callbacks of the loop); elsewhere only `carry=True` knows.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from operator import itemgetter
from typing import Any, NamedTuple

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnableParallel
from langgraph.graph import START, StateGraph
from starlette.concurrency import run_in_threadpool

from llmctx import carry
from llmctx.graph import wrap_graph
from tests.kit.support import Completer, Known, PlainTalker, ProviderDown, User
from tests.scenarios import Shape, enter
from tests.scenarios.world import State, World, chain, in_thread, leaving, model, on, talk_sync

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
