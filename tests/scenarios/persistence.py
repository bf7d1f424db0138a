"""Graphs that stop and go on: interrupts, time travel, forks, and the functional API with its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy, Command, RetryPolicy, interrupt

from llmctx.graph import wrap_graph
from tests.kit.support import ProviderDown, User
from tests.scenarios import enter, shape
from tests.scenarios.graphs import Kit, Turn, turn, wrapped_and_bare
from tests.scenarios.owners import Known, ids
from tests.scenarios.world import USERS, World, in_thread, model, on, other_loop


def pausing(kit: Kit, **kwargs: Any) -> Any:
    """A call, a question to a human who says for whom to go on, and another call in the same node and the next."""

    def stop_sync(state: Turn) -> Any:
        who = interrupt("for whom?")
        return kit.ask({"who": who})({"who": who})

    async def stop(state: Turn) -> Any:
        who = interrupt("for whom?")
        return await kit.ask({"who": who})({"who": who})

    return kit.line(kit.ask(), stop_sync if kit.sync else stop, kit.ask(), **kwargs)


def _later_loop(run: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
    """In a bare thread, with a loop of its own."""

    async def go() -> None:
        await run()

    return in_thread(lambda: asyncio.run(go()))


Resume = Callable[[World, Any, User], Awaitable[None]]


async def in_a_later_request(world: World, compiled: Any, sync: bool) -> None:
    async def endpoint(user: User) -> None:
        await _go_on(compiled, sync, world.users.index(user), user)

    await world.through(endpoint, rounds=1)


async def by_another_user(world: World, compiled: Any, sync: bool) -> None:
    """What is done from here on is done in the request of whoever resumes it, and for him."""

    async def endpoint(user: User) -> None:
        other = world.users[world.users.index(user) - 1]
        await _go_on(compiled, sync, world.users.index(user), other)

    await world.through(endpoint, rounds=1)


async def in_a_bare_thread(world: World, compiled: Any, sync: bool) -> None:
    """The thread_id alone tells whose it is."""

    async def go(user: User) -> None:
        await _later_loop(lambda: _go_on(compiled, sync, world.users.index(user), user))

    await world.each(go)


async def in_a_task_without_a_request(world: World, compiled: Any, sync: bool) -> None:
    await world.each(lambda user: _go_on(compiled, sync, world.users.index(user), user))


async def in_one_worker_loop(world: World, compiled: Any, sync: bool) -> None:
    async with other_loop() as loop:

        async def go(user: User) -> None:
            there = asyncio.run_coroutine_threadsafe(_go_on(compiled, sync, world.users.index(user), user), loop)
            await asyncio.wrap_future(there)

        await world.each(go)


async def _go_on(compiled: Any, sync: bool, who: int, thread: User) -> None:
    """Resume the run that waits on `thread`, for the user of number `who`."""
    command: Any = Command(resume=who)
    if sync:
        await asyncio.to_thread(compiled.invoke, command, on(thread))
    else:
        await compiled.ainvoke(command, on(thread))


RESUMED = (in_a_later_request, by_another_user, in_a_bare_thread, in_a_task_without_a_request, in_one_worker_loop)


async def _resumed(world: World, *, resume: Any, wrapped: bool, sync: bool) -> None:
    kit = Kit(world, wrapped, sync)
    compiled = kit.compile(pausing(kit), checkpointer=InMemorySaver())
    run = partial(asyncio.to_thread, compiled.invoke) if sync else compiled.ainvoke
    await world.through(lambda user: run(turn(world, user), on(user)), rounds=1)
    await resume(world, compiled, sync)


for _resume in RESUMED:
    for _wrapped in (True, False):
        for _sync in (True, False) if _wrapped else (False,):
            _kind = f"{'sync' if _sync else 'async'}_{'wrapped' if _wrapped else 'bare'}"
            enter(
                f"resumed_{_resume.__name__}_{_kind}",
                partial(_resumed, resume=_resume, wrapped=_wrapped, sync=_sync),
                family=__name__,
            )


@shape
async def interrupted_and_resumed_by_the_state_alone(world: World) -> None:
    """No request, and a registry that has forgotten (another process): the persisted state has the ids."""
    kit = Kit(world)
    compiled = kit.compile(pausing(kit, schema=Known), checkpointer=InMemorySaver())
    await world.each(lambda user: compiled.ainvoke({**turn(world, user), **ids(user)}, on(user)))
    for user in world.users:
        world.log.registry.forget(user_id=user.user_id)
    await in_a_bare_thread(world, compiled, False)


@shape
async def a_state_of_old_resumed_by_another_user(world: World) -> None:
    """The state names whoever began; it is older than the request that goes on, and yields to it."""
    kit = Kit(world)
    compiled = kit.compile(pausing(kit, schema=Known), checkpointer=InMemorySaver())
    await world.through(lambda user: compiled.ainvoke({**turn(world, user), **ids(user)}, on(user)), rounds=1)
    await by_another_user(world, compiled, False)


@wrapped_and_bare
async def resumed_where_nobody_could_know(world: World, *, wrapped: bool) -> None:
    """Another process, no request, no ids in the state: nobody's."""

    async def stop(state: Turn) -> Any:
        interrupt("go on?")
        await model.ainvoke(world.prompt(None))
        return {}

    kit = Kit(world, wrapped)
    compiled = kit.compile(kit.line(kit.ask(), stop), checkpointer=InMemorySaver())
    await world.through(lambda user: compiled.ainvoke(turn(world, user), on(user)), rounds=1)
    for user in world.users:
        world.log.registry.forget(user_id=user.user_id)
    await in_a_bare_thread(world, compiled, False)


@wrapped_and_bare
async def static_interrupts(world: World, *, wrapped: bool) -> None:
    """interrupt_before and _after: resumed with no input at all, by stream."""
    kit = Kit(world, wrapped)
    builder = kit.line(kit.ask(), kit.ask(), kit.ask())
    compiled = kit.compile(builder, checkpointer=InMemorySaver(), interrupt_before=["step1"], interrupt_after=["step1"])

    async def endpoint(user: User) -> None:
        waiting = (await compiled.aget_state(on(user))).next
        async for _ in compiled.astream(None if waiting else turn(world, user), on(user), stream_mode="updates"):
            pass

    await world.through(endpoint, rounds=3)


@wrapped_and_bare
async def parallel_interrupts_in_subgraphs(world: World, *, wrapped: bool) -> None:
    """Two subgraphs wait at once, a third branch does not; both are answered by one command."""
    kit = Kit(world, wrapped)
    builder: Any = StateGraph(Turn).add_node("free", kit.ask()).add_edge(START, "free")
    for name in ("left", "right"):
        builder.add_node(name, pausing(kit).compile()).add_edge(START, name)
    compiled = kit.compile(builder, checkpointer=InMemorySaver())

    async def endpoint(user: User) -> None:
        state = await compiled.aget_state(on(user))
        if state.next:
            answers = {found.id: world.users.index(user) for found in state.interrupts}
            assert len(answers) == 2
            await compiled.ainvoke(Command(resume=answers), on(user))
        else:
            await compiled.ainvoke(turn(world, user), on(user))

    await world.through(endpoint, rounds=2)


@wrapped_and_bare
async def a_thread_that_was_taken_over(world: World, *, wrapped: bool) -> None:
    """Afterwards it testifies to neither of its users; in their requests, each goes on as himself."""
    kit = Kit(world, wrapped)
    compiled = kit.compile(pausing(kit), checkpointer=InMemorySaver())
    await world.through(lambda user: compiled.ainvoke(turn(world, user), on(user)), rounds=1)
    await by_another_user(world, compiled, False)

    async def nobodys(user: User) -> None:
        prompt = world.prompt(None)
        await in_thread(partial(model.invoke, prompt, on(user)))

    await world.each(nobodys)
    await world.through(lambda user: compiled.ainvoke(turn(world, user), on(user)), rounds=1)


async def _from_the_middle(compiled: Any, config: RunnableConfig) -> RunnableConfig:
    """The checkpoint after the first of three nodes."""
    found: list[RunnableConfig] = [
        state.config async for state in compiled.aget_state_history(config) if state.next == ("step1",)
    ]
    return found[-1]


async def _travel(world: World, compiled: Any, user: User) -> None:
    checkpoint = await _from_the_middle(compiled, on(user))
    await compiled.ainvoke(None, checkpoint)
    fork = await compiled.aupdate_state(checkpoint, turn(world, user), as_node="step0")
    await compiled.ainvoke(None, fork)


@wrapped_and_bare
async def replayed_and_forked_in_a_later_request(world: World, *, wrapped: bool) -> None:
    kit = Kit(world, wrapped)
    compiled = kit.compile(kit.line(kit.ask(), kit.ask(), kit.ask()), checkpointer=InMemorySaver())
    await world.through(lambda user: compiled.ainvoke(turn(world, user), on(user)), rounds=1)
    await world.through(lambda user: _travel(world, compiled, user), rounds=1)


@wrapped_and_bare
async def replayed_and_forked_without_a_request(world: World, *, wrapped: bool) -> None:
    kit = Kit(world, wrapped)
    compiled = kit.compile(kit.line(kit.ask(), kit.ask(), kit.ask()), checkpointer=InMemorySaver())
    await world.through(lambda user: compiled.ainvoke(turn(world, user), on(user)), rounds=1)
    await world.each(lambda user: _later_loop(lambda: _travel(world, compiled, user)))


@wrapped_and_bare
async def somebody_elses_run_replayed(world: World, *, wrapped: bool) -> None:
    """Support looks at what a user's run would do: in support's own request, it is support's."""

    async def ask(state: Turn, config: RunnableConfig) -> Turn:
        await model.ainvoke(world.prompt(world.users[config["configurable"]["by"]]))
        return {}

    kit = Kit(world, wrapped)
    compiled = kit.compile(kit.line(ask, ask, ask), checkpointer=InMemorySaver())

    def config(thread: User, by: User) -> RunnableConfig:
        return {"configurable": {"thread_id": thread.thread_id, "by": world.users.index(by)}}

    async def replay(user: User) -> None:
        other = world.users[world.users.index(user) - 1]
        checkpoint = await _from_the_middle(compiled, on(other))
        await compiled.ainvoke(
            None, {"configurable": {**config(other, user)["configurable"], **checkpoint["configurable"]}}
        )

    await world.through(lambda user: compiled.ainvoke(turn(world, user), config(user, user)), rounds=1)
    await world.through(replay, rounds=1)


@wrapped_and_bare
async def several_turns_of_a_conversation(world: World, *, wrapped: bool) -> None:
    """Each turn a request of its own, on the same thread; in between, a worker that knows the thread only."""
    kit = Kit(world, wrapped)
    compiled = kit.compile(kit.line(kit.ask(), kit.ask(status="error")), checkpointer=InMemorySaver())
    for _ in range(3):
        await world.through(lambda user: compiled.ainvoke(turn(world, user), on(user)), rounds=1)
        await world.each(lambda user: compiled.ainvoke(turn(world, user), on(user)))


def flow(kit: Kit, **kwargs: Any) -> Any:
    """A workflow with parallel tasks, one that is awaited late, one within a task, and one that is tried again."""
    tries: dict[int, int] = {}

    def fail_at_first(state: Turn) -> None:
        tries[state["who"]] = tries.get(state["who"], 0) + 1
        if tries[state["who"]] % 2:
            raise ProviderDown

    again = RetryPolicy(max_attempts=2, initial_interval=0.001, jitter=False, retry_on=ProviderDown)
    ask, fail = kit.ask(), kit.ask(fail_at_first)
    if kit.sync:

        @task
        def step(state: Turn) -> None:
            ask(state)

        @task
        def outer(state: Turn) -> None:
            step(state).result()

        @task(retry_policy=again)
        def failing(state: Turn) -> None:
            fail(state)

        @entrypoint(checkpointer=InMemorySaver(), **kwargs)
        def run(state: Turn) -> str:
            late = step(state)
            ask(state)
            for future in [step(state), outer(state), failing(state)]:
                future.result()
            late.result()
            return "done"

    else:

        @task
        async def step(state: Turn) -> None:
            await ask(state)

        @task
        async def outer(state: Turn) -> None:
            await step(state)

        @task(retry_policy=again)
        async def failing(state: Turn) -> None:
            await fail(state)

        @entrypoint(checkpointer=InMemorySaver(), **kwargs)
        async def run(state: Turn) -> str:
            late = step(state)
            await ask(state)
            await asyncio.gather(step(state), outer(state), failing(state))
            await late
            return "done"

    return wrap_graph(run) if kit.wrapped else run


@wrapped_and_bare
async def tasks_of_an_async_entrypoint(world: World, *, wrapped: bool) -> None:
    run = flow(Kit(world, wrapped))

    async def endpoint(user: User) -> None:
        await run.ainvoke(turn(world, user), on(user))
        async for _ in run.astream(turn(world, user), on(user), stream_mode=["updates", "messages"]):
            pass

    await world.through(endpoint, rounds=1)


@wrapped_and_bare
async def tasks_of_a_sync_entrypoint(world: World, *, wrapped: bool) -> None:
    run = flow(Kit(world, wrapped, sync=True))

    async def endpoint(user: User) -> None:
        await asyncio.to_thread(run.invoke, turn(world, user), on(user))
        await asyncio.to_thread(lambda: list(run.stream(turn(world, user), on(user), stream_mode="updates")))

    await world.through(endpoint, rounds=1)


@shape
async def tasks_whose_input_has_the_ids(world: World) -> None:
    """No request: the input of the entrypoint tells, and its tasks are handed other things."""
    run, run_sync = flow(Kit(world)), flow(Kit(world, sync=True))

    async def go(user: User) -> None:
        told = {**turn(world, user), **ids(user)}
        await run.ainvoke(told, on(user))
        await in_thread(partial(run_sync.invoke, told, on(user)))

    await world.each(go)


@wrapped_and_bare
async def tasks_of_a_known_thread(world: World, *, wrapped: bool) -> None:
    """First in a request; later, without one, the thread tells."""
    run = flow(Kit(world, wrapped))
    await world.through(lambda user: run.ainvoke(turn(world, user), on(user)), rounds=1)
    await world.each(lambda user: _later_loop(lambda: run.ainvoke(turn(world, user), on(user))))


@wrapped_and_bare
async def an_entrypoint_that_is_interrupted(world: World, *, wrapped: bool) -> None:
    """On the way back the workflow runs again from its start; what its tasks have done is remembered."""
    ask = Kit(world).ask({"done": True})
    step = task(ask)

    @entrypoint(checkpointer=InMemorySaver())
    async def run(state: Turn) -> str:
        await step(state)
        interrupt("go on?")
        await asyncio.gather(step(state), step(state))
        return "done"

    if wrapped:
        wrap_graph(run)

    async def endpoint(user: User) -> None:
        waiting = (await run.aget_state(on(user))).next
        await run.ainvoke(Command(resume=True) if waiting else turn(world, user), on(user))

    await world.through(endpoint, rounds=2)
    assert len(world.book.truths) == 3 * USERS


@wrapped_and_bare
async def tasks_called_in_a_node(world: World, *, wrapped: bool) -> None:
    """Beside calls of its own; a cached one makes no call the second time."""
    kit = Kit(world, wrapped)
    step = task(kit.ask(), cache_policy=CachePolicy(key_func=lambda state: str(state["who"])))

    async def node(state: Turn) -> Turn:
        await asyncio.gather(step(state), kit.ask()(state))
        await step(state)
        return {}

    compiled = kit.compile(kit.line(node, kit.ask()), checkpointer=InMemorySaver())
    await world.through(lambda user: compiled.ainvoke(turn(world, user), on(user)), rounds=1)


@wrapped_and_bare
async def a_task_that_fails_while_others_run(world: World, *, wrapped: bool) -> None:
    """Its sibling has answered; the workflow goes on without it."""
    kit = Kit(world, wrapped)

    @task
    async def failing(state: Turn) -> None:
        await model.ainvoke(world.prompt(world.users[state["who"]], "error"))

    step = task(kit.ask())

    @entrypoint()
    async def run(state: Turn) -> str:
        good, bad = step(state), failing(state)
        with suppress(ProviderDown):
            await bad
        await good
        await kit.ask()(state)
        return "done"

    if wrapped:
        wrap_graph(run)
    await world.through(lambda user: run.ainvoke(turn(world, user)), rounds=1)
