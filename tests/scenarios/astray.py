"""Graph runs that are not simply a request's own: read on elsewhere, shared, mixed, or fed by lazy workers."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.channels import EphemeralValue
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.pregel import NodeBuilder, Pregel
from langgraph.types import Command, Send, interrupt

from llmctx import bind
from llmctx.graph import wrap_graph
from tests.kit.newer import KEEPS_BOUND_CALLBACKS
from tests.kit.support import User, wait_for
from tests.scenarios import enter, shape
from tests.scenarios.graphs import Kit, Turn, drained, everything, turn, wrapped_and_bare
from tests.scenarios.models import another_log
from tests.scenarios.owners import Known, ids
from tests.scenarios.world import USERS, World, in_thread, model, on


async def _begun_in_a_request(world: World, wrapped: bool, thread: bool) -> dict[str | None, tuple[Any, Any]]:
    """An async and a sync stream of each user's run, whose first node has answered; the request is over."""
    kits = Kit(world, wrapped), Kit(world, wrapped, sync=True)
    saver = InMemorySaver() if thread else None
    runs = [kit.compile(kit.line(kit.ask(), kit.ask(), everything(kit).compile()), checkpointer=saver) for kit in kits]
    streams: dict[str | None, tuple[Any, Any]] = {}

    async def endpoint(user: User) -> None:
        twin: RunnableConfig = {"configurable": {"thread_id": f"{user.thread_id}-sync"}}
        stream = runs[0].astream(turn(world, user), on(user), stream_mode="updates")
        sync = runs[1].stream(turn(world, user), twin, stream_mode="updates")
        await anext(stream)
        await asyncio.to_thread(next, sync)
        streams[user.user_id] = stream, sync

    await world.through(endpoint, rounds=1)
    return streams


async def _read_on(world: World, *, wrapped: bool, thread: bool) -> None:
    """By whoever has no scope at all: the run carries its own."""
    streams = await _begun_in_a_request(world, wrapped, thread)

    async def read(user: User) -> None:
        stream, sync = streams[user.user_id]
        await drained(stream)
        await in_thread(partial(list, sync))

    await world.each(read)


for _wrapped in (True, False):
    for _thread in (True, False):
        _kind = f"{'with' if _thread else 'without'}_a_thread_{'wrapped' if _wrapped else 'bare'}"
        enter(f"read_on_{_kind}", partial(_read_on, wrapped=_wrapped, thread=_thread), family=__name__)


@wrapped_and_bare
async def an_interrupt_in_the_middle_of_a_stream(world: World, *, wrapped: bool) -> None:
    """The node leaves a model's stream half read; resumed, it begins a new one."""

    async def node(state: Turn) -> Turn:
        who = state["who"]
        stream: Any = model.astream(world.prompt(world.users[who], "ok" if who in seen else "cancelled"))
        seen.add(who)
        async with aclosing(stream):
            await anext(stream)
            interrupt("go on?")
            await drained(stream)
        return {}

    seen: set[int] = set()
    kit = Kit(world, wrapped)
    compiled = kit.compile(kit.line(node), checkpointer=InMemorySaver())
    await world.through(lambda user: compiled.ainvoke(turn(world, user), on(user)), rounds=1)
    await world.through(lambda user: compiled.ainvoke(Command(resume=True), on(user)), rounds=1)


@wrapped_and_bare
async def a_stream_begun_in_a_node_and_read_by_the_endpoint(world: World, *, wrapped: bool) -> None:
    kit = Kit(world, wrapped)
    streams: dict[int, Any] = {}

    async def node(state: Turn) -> Turn:
        streams[state["who"]] = model.astream(world.prompt(world.users[state["who"]]))
        await anext(streams[state["who"]])
        return {}

    compiled = kit.compile(kit.line(node))

    async def endpoint(user: User) -> None:
        await compiled.ainvoke(turn(world, user))
        await drained(streams.pop(world.users.index(user)))

    await world.through(endpoint)


async def _left_behind(world: World, *, wrapped: bool, in_request: bool) -> None:
    """Tasks that a node begins and does not wait for: some end with the request, some long after it."""
    over = asyncio.Event()

    async def afterwards(user: User) -> None:
        await model.ainvoke(world.prompt(user))
        await over.wait()
        await model.ainvoke(world.prompt(user))

    async def node(state: Turn) -> Turn:
        world.detach(afterwards(world.users[state["who"]]))
        return {}

    kit = Kit(world, wrapped)
    compiled = kit.compile(kit.line(node, kit.ask(), schema=Known))
    if in_request:
        await world.through(lambda user: compiled.ainvoke(turn(world, user)), rounds=1)
    else:
        await world.each(lambda user: compiled.ainvoke({**turn(world, user), **ids(user)}))
    over.set()


@wrapped_and_bare
async def tasks_that_outlive_their_node_and_request(world: World, *, wrapped: bool) -> None:
    await _left_behind(world, wrapped=wrapped, in_request=True)


@shape
async def tasks_that_outlive_a_node_whose_state_has_the_ids(world: World) -> None:
    await _left_behind(world, wrapped=True, in_request=False)


async def _lazy_worker(world: World, *, wrapped: bool, handed: str) -> None:
    """The first user's node starts a worker for all, and stays open until everybody's job is done."""
    jobs: asyncio.Queue[tuple[str, RunnableConfig] | None] = asyncio.Queue()
    started: list[int] = []
    done = asyncio.Event()

    async def work() -> None:
        while (job := await jobs.get()) is not None:
            await model.ainvoke(*job)
            jobs.task_done()

    async def hand_over(state: Turn, config: RunnableConfig) -> Turn:
        user = world.users[state["who"]]
        if not started:
            started.append(state["who"])
            world.detach(work())
        jobs.put_nowait((world.prompt(user), config if handed == "config" else on(user)))
        if started == [state["who"]]:
            await done.wait()
        return {}

    kit = Kit(world, wrapped)
    saver = InMemorySaver() if handed == "thread_id" else None
    compiled = kit.compile(kit.line(kit.ask(), hand_over), checkpointer=saver)

    async def release() -> None:
        await wait_for(lambda: len(world.book.truths) == 2 * USERS, "everybody's job")
        await jobs.join()
        done.set()

    releasing = asyncio.create_task(release())
    await world.through(lambda user: compiled.ainvoke(turn(world, user), on(user) if saver else None), rounds=1)
    await releasing
    jobs.put_nowait(None)


for _wrapped in (True, False):
    for _handed in ("config", "thread_id"):
        enter(
            f"a_worker_started_in_a_node_is_given_the_{_handed}_{'wrapped' if _wrapped else 'bare'}",
            partial(_lazy_worker, wrapped=_wrapped, handed=_handed),
            family=__name__,
        )


@wrapped_and_bare
async def a_loop_within_a_sync_node(world: World, *, wrapped: bool) -> None:
    kit = Kit(world, wrapped)
    inner = kit.compile(everything(kit))

    def node(state: Turn) -> Turn:
        asyncio.run(inner.ainvoke(state))
        return {}

    compiled = kit.compile(kit.line(node))
    await world.through(lambda user: compiled.ainvoke(turn(world, user)), rounds=1)


@shape
async def one_run_whose_sends_name_their_users(world: World) -> None:
    """A nightly graph: each Send says for whom it is."""
    for sync in (False, True):
        kit = Kit(world, sync=sync)
        builder: Any = StateGraph(Known).add_node("leaf", kit.ask()).add_node("plan", lambda state: {})
        builder.add_conditional_edges(
            "plan",
            lambda state: [Send("leaf", {**turn(world, user), **ids(user)}) for user in world.users],
            ["leaf"],
        )
        compiled = kit.compile(builder.add_edge(START, "plan"), checkpointer=InMemorySaver())
        await compiled.ainvoke({"who": 0}, {"configurable": {"thread_id": f"nightly-{sync}"}})


@wrapped_and_bare
async def one_run_whose_nodes_bind_their_users(world: World, *, wrapped: bool) -> None:
    kit = Kit(world, wrapped)

    async def leaf(state: Turn) -> Turn:
        user = world.users[state["who"]]
        with bind(user_id=user.user_id, session_id=user.session_id):
            await model.ainvoke(world.prompt(user))
            await asyncio.to_thread(model.invoke, world.prompt(user))
        return {}

    builder: Any = StateGraph(Turn).add_node("leaf", leaf)
    builder.add_conditional_edges(START, lambda _: [Send("leaf", turn(world, user)) for user in world.users], ["leaf"])
    await kit.compile(builder).ainvoke({"who": 0})


@shape
async def one_abatch_for_many_users(world: World) -> None:
    """Each config says in its configurable whose it is."""
    kit, sync_kit = Kit(world), Kit(world, sync=True)
    compiled, synchronous = kit.compile(everything(kit)), sync_kit.compile(everything(sync_kit))
    states = [turn(world, user) for user in world.users]
    configs: list[Any] = [{"configurable": ids(user)} for user in world.users]
    await compiled.abatch(states, configs)
    await asyncio.to_thread(synchronous.batch, states, configs)


@shape
async def a_group_chat_whose_state_names_the_speaker(world: World) -> None:
    """All on one thread, at once and in turns, without any request; what leaves for a bare thread is the speaker's."""

    async def leave(state: Turn, config: RunnableConfig) -> Turn:
        prompt = world.prompt(world.users[state["who"]])
        await in_thread(partial(model.invoke, prompt, config))
        return {}

    kit = Kit(world)
    compiled = kit.compile(kit.line(kit.ask(), leave, schema=Known), checkpointer=InMemorySaver())
    group: RunnableConfig = {"configurable": {"thread_id": "group"}}

    async def speak(user: User) -> None:
        await compiled.ainvoke({**turn(world, user), **ids(user)}, group)

    await world.each(speak)
    for user in world.users[:5]:
        await speak(user)


@wrapped_and_bare
async def a_group_chat_in_requests(world: World, *, wrapped: bool) -> None:
    kit = Kit(world, wrapped)
    compiled = kit.compile(everything(kit), checkpointer=InMemorySaver())
    group: RunnableConfig = {"configurable": {"thread_id": "group"}}
    await world.through(lambda user: compiled.ainvoke(turn(world, user), group), rounds=2)


@wrapped_and_bare
async def a_group_chat_with_tasks(world: World, *, wrapped: bool) -> None:
    """The functional API, on one thread for all."""
    kit = Kit(world, wrapped)
    step = task(kit.ask())

    @entrypoint(checkpointer=InMemorySaver())
    async def run(state: Turn) -> str:
        await asyncio.gather(step(state), step(state), kit.ask()(state))
        return "done"

    if wrapped:
        wrap_graph(run)
    group: RunnableConfig = {"configurable": {"thread_id": "group"}}
    await world.through(lambda user: run.ainvoke(turn(world, user), group), rounds=2)


@wrapped_and_bare
async def a_pregel_made_by_hand(world: World, *, wrapped: bool) -> None:
    kit = Kit(world, wrapped)
    first = NodeBuilder().subscribe_only("a").do(kit.ask({"who": 0})).write_to("b").build()
    made: Any = Pregel(
        nodes={"first": first},
        channels={"a": EphemeralValue(dict), "b": EphemeralValue(dict)},
        input_channels="a",
        output_channels="b",
    )
    if wrapped:
        wrap_graph(made)
    await world.through(lambda user: made.ainvoke(turn(world, user)))


@wrapped_and_bare
async def methods_partials_and_callable_objects(world: World, *, wrapped: bool) -> None:
    kit = Kit(world, wrapped)
    ask = kit.ask()

    class Team:
        async def method(self, state: Turn) -> Turn:
            found: Turn = await ask(state)
            return found

        async def __call__(self, state: Turn) -> Turn:
            return await self.method(state)

        @staticmethod
        async def static(state: Turn) -> Turn:
            found: Turn = await ask(state)
            return found

    async def with_more(extra: int, state: Turn) -> Turn:
        found: Turn = await ask(state)
        return found

    compiled = kit.compile(kit.line(Team().method, Team(), Team.static, partial(with_more, 1)))
    await world.through(lambda user: compiled.ainvoke(turn(world, user)), rounds=1)


@wrapped_and_bare
async def only_where_the_handler_is_given_to_the_graph(world: World, *, wrapped: bool) -> None:
    """capture="explicit": in the run's config, or once for all with `with_config`, within another runnable too."""
    async with another_log(world, capture="explicit") as log:
        kit = Kit(world, wrapped)
        compiled = kit.compile(everything(kit))
        bound = compiled.with_config(callbacks=[log.handler])
        outer = kit.compile(kit.line(bound))

        async def endpoint(user: User) -> None:
            await compiled.ainvoke(turn(world, user), {"callbacks": [log.handler]})
            await bound.ainvoke(turn(world, user))
            if KEEPS_BOUND_CALLBACKS:
                await outer.ainvoke(turn(world, user))
            with suppress(StopAsyncIteration):
                await drained(bound.astream(turn(world, user), stream_mode="messages"))

        await world.through(endpoint, rounds=1)
