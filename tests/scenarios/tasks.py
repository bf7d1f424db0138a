"""Tasks: those that their request waits for, and those that outlive it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from langchain_core.runnables import RunnableConfig

from llmctx import bind
from tests.kit.support import Completer, Known, ProviderDown, User, wait_for
from tests.scenarios import Shape, enter, shape
from tests.scenarios.offcontext import (
    USUAL,
    Job,
    Leave,
    Stuck,
    bare_thread,
    default_executor,
    parallel,
    pool_carried_by_hand,
    small,
    thread_pool,
    to_thread,
    with_config,
    work,
)
from tests.scenarios.world import World, chain, in_thread, model, on


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
