"""Whose run of a graph it is: told by the request, the state, the config, the runtime, or the thread alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any
from uuid import NAMESPACE_URL, uuid5

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from pydantic import BaseModel

from llmctx import CallContext, bind
from llmctx.graph import wrap_graph, wrap_node
from tests.kit.support import User
from tests.scenarios import enter, shape
from tests.scenarios.graphs import Kit, Turn, everything, turn, wrapped_and_bare
from tests.scenarios.world import World, in_thread, model, on, other_loop


@shape
async def two_graphs_and_two_threads_in_one_request(world: World) -> None:
    """At once; afterwards, either thread alone tells whose it is."""
    kits = Kit(world, True), Kit(world, False)
    graphs = [kit.compile(everything(kit), checkpointer=InMemorySaver()) for kit in kits]

    async def endpoint(user: User) -> None:
        configs: list[RunnableConfig] = [{"configurable": {"thread_id": f"{user.thread_id}-{n}"}} for n in range(2)]
        runs = zip(graphs, configs, strict=True)
        await asyncio.gather(*(compiled.ainvoke(turn(world, user), config) for compiled, config in runs))
        for config in configs:
            prompt = world.prompt(user)
            await in_thread(partial(model.invoke, prompt, config))

    await world.through(endpoint)


@wrapped_and_bare
async def thread_ids_that_are_numbers_or_uuids(world: World, *, wrapped: bool) -> None:
    """They become text on their way; a worker thread may know them in either form."""
    kit = Kit(world, wrapped)
    compiled = kit.compile(everything(kit), checkpointer=InMemorySaver())

    async def endpoint(user: User) -> None:
        number = world.users.index(user)
        for thread_id in (number, uuid5(NAMESPACE_URL, user.thread_id)):
            await compiled.ainvoke(turn(world, user), {"configurable": {"thread_id": thread_id}})
            for known in (thread_id, str(thread_id)):
                prompt = world.prompt(user)
                await in_thread(partial(model.invoke, prompt, {"configurable": {"thread_id": known}}))

    await world.through(endpoint, rounds=1)


@wrapped_and_bare
async def a_graph_that_outlives_its_request(world: World, *, wrapped: bool) -> None:
    """Begun in a task, it makes its later calls when the request is long over."""
    kit = Kit(world, wrapped)
    over = asyncio.Event()

    async def wait(state: Turn) -> Turn:
        await over.wait()
        return {}

    builder = kit.line(kit.ask(), wait, kit.ask(), everything(kit).compile())
    compiled = kit.compile(builder, checkpointer=InMemorySaver())

    async def endpoint(user: User) -> None:
        world.detach(compiled.ainvoke(turn(world, user), on(user)))

    await world.through(endpoint, rounds=1)
    over.set()


@wrapped_and_bare
async def several_runs_of_a_user_at_once_on_one_thread(world: World, *, wrapped: bool) -> None:
    kit = Kit(world, wrapped)
    compiled = kit.compile(everything(kit), checkpointer=InMemorySaver())

    async def endpoint(user: User) -> None:
        await asyncio.gather(*(compiled.ainvoke(turn(world, user), on(user)) for _ in range(3)))

    await world.through(endpoint, rounds=1)


@wrapped_and_bare
async def a_nightly_run_that_binds_each_user(world: World, *, wrapped: bool) -> None:
    """No request: one job goes through all users, one after the other and at once."""
    kit = Kit(world, wrapped)
    compiled = kit.compile(everything(kit), checkpointer=InMemorySaver())

    async def run(user: User) -> None:
        with bind(user_id=user.user_id, session_id=user.session_id):
            await compiled.ainvoke(turn(world, user), on(user))

    with bind(agent_key="nightly"):
        await world.each(run)
        for user in world.users[:3]:
            await run(user)


@wrapped_and_bare
async def sessions_of_one_user_at_once(world: World, *, wrapped: bool) -> None:
    kit = Kit(world, wrapped)

    def twin(user: User, number: int) -> User:
        return User(user.user_id, f"{user.session_id}-{number}", f"{user.thread_id}-{number}")

    async def ask(state: Turn, config: RunnableConfig) -> Turn:
        await model.ainvoke(world.prompt(twin(world.users[state["who"]], config["configurable"]["number"])))
        return {}

    compiled = kit.compile(kit.line(ask, ask), checkpointer=InMemorySaver())

    async def endpoint(user: User) -> None:
        async def in_session(number: int) -> None:
            mine = twin(user, number)
            with bind(session_id=mine.session_id):
                await compiled.ainvoke(
                    turn(world, user), {"configurable": {"thread_id": mine.thread_id, "number": number}}
                )

        await asyncio.gather(*(in_session(number) for number in range(3)))

    await world.through(endpoint, rounds=1)


@wrapped_and_bare
async def config_handed_to_a_bare_thread(world: World, *, wrapped: bool) -> None:
    """With the config, the callbacks of the request (or what `wrap_graph` sends along) cross over; without, nothing."""
    kit = Kit(world, wrapped)

    async def leave(state: Turn, config: RunnableConfig) -> Turn:
        user = world.users[state["who"]]
        handed, left = world.prompt(user), world.prompt(user, known="carried")
        await in_thread(partial(model.invoke, handed, config))
        await in_thread(partial(model.invoke, left))
        return {}

    compiled = kit.compile(kit.line(leave))
    await world.through(lambda user: compiled.ainvoke(turn(world, user)))


@shape
async def one_wrapped_node_in_a_bare_graph(world: World) -> None:
    kit = Kit(world)
    compiled = kit.line(wrap_node(kit.ask(), agent_key="mine"), kit.ask()).compile(checkpointer=InMemorySaver())
    await world.through(lambda user: compiled.ainvoke(turn(world, user), on(user)))


class Known(Turn):
    user_id: str | None
    session_id: str | None


class Patient(Turn):
    patient: str | None
    visit: str | None


@dataclass
class KnownObject:
    who: int = 0
    user_id: str | None = None
    session_id: str | None = None


class KnownModel(BaseModel):
    who: Annotated[int, lambda _, new: new] = 0
    user_id: str | None = None
    session_id: str | None = None


@dataclass
class Visit:
    user_id: str | None
    session_id: str | None


def ids(user: User) -> dict[str, Any]:
    return {"user_id": user.user_id, "session_id": user.session_id}


def of_the_state(state: Any, config: RunnableConfig) -> CallContext:
    return CallContext(user_id=f"u{state['who']}", session_id=f"s{state['who']}")


TOLD: dict[str, tuple[Any, dict[str, Any], Callable[[User], dict[str, Any]]]] = {
    "state": (Known, {}, lambda user: {"input": ids(user)}),
    "state_that_is_an_object": (KnownObject, {}, lambda user: {"input": ids(user)}),
    "state_that_is_a_model": (KnownModel, {}, lambda user: {"input": ids(user)}),
    "state_by_other_names": (
        Patient,
        {"fields": {"user_id": "patient", "session_id": "visit"}},
        lambda user: {"input": {"patient": user.user_id, "visit": user.session_id}},
    ),
    "configurable": (Turn, {}, lambda user: {"config": {"configurable": ids(user)}}),
    "runtime_context": (Turn, {}, lambda user: {"context": Visit(user.user_id, user.session_id)}),
    "identify": (Turn, {"identify": of_the_state}, lambda user: {}),
    "metadata": (Turn, {}, lambda user: {"config": {"metadata": {f"llmctx_{k}": v for k, v in ids(user).items()}}}),
}
"""Where the ids stand -> the schema, the arguments of `wrap_graph`, and those of `invoke`."""


async def _told(world: World, *, by: str, in_request: bool) -> None:
    """Through branches, Sends that hand on no ids, subgraphs; sync in a bare thread, async here and in another loop."""
    schema, wrapping, given = TOLD[by]
    context = Visit if by == "runtime_context" else None

    def made(kit: Kit) -> Any:
        builder: Any = StateGraph(schema, context_schema=context).add_node("leaf", kit.ask(lambda _: {"who": who(_)}))
        builder.add_node("inner", kit.line(kit.ask(), schema=schema, context_schema=context).compile())
        builder.add_conditional_edges(
            START, kit.ask(lambda state: [Send("leaf", state if by == "identify" else {"who": who(state)})]), ["leaf"]
        )
        builder.add_node("by_object", kit.ask()).add_edge(START, "by_object").add_edge("leaf", "inner")
        return wrap_graph(builder, **wrapping).compile()

    def who(state: Any) -> int:
        number: int = state["who"] if isinstance(state, dict) else state.who
        return number

    asynchronous, synchronous = made(Kit(world)), made(Kit(world, sync=True))

    async def run(user: User) -> None:
        arguments = given(user)
        arguments["input"] = {**turn(world, user), **arguments.get("input", {})}
        await asynchronous.ainvoke(**arguments)
        await synchronous.ainvoke(**arguments)
        await in_thread(lambda: synchronous.invoke(**arguments))
        await in_thread(lambda: asyncio.run(asynchronous.ainvoke(**arguments)))

    if in_request:
        await world.through(run, rounds=1)
    else:
        await world.each(run)


for _by in TOLD:
    enter(f"ids_in_the_{_by}_alone", partial(_told, by=_by, in_request=False), family=__name__)
    if _by in ("state", "configurable"):
        enter(f"ids_in_the_{_by}_and_a_request_too", partial(_told, by=_by, in_request=True), family=__name__)


@shape
async def ids_in_the_state_and_a_thread_that_outlives_it(world: World) -> None:
    """What ran under these ids can be known by its thread alone, later, anywhere."""
    kit = Kit(world)
    compiled = kit.compile(kit.line(kit.ask(), schema=Known), checkpointer=InMemorySaver())

    async with other_loop() as loop:

        async def run(user: User) -> None:
            await compiled.ainvoke({**turn(world, user), **ids(user)}, on(user))
            later = [world.prompt(user) for _ in range(2)]
            await in_thread(partial(model.invoke, later[0], on(user)))
            there = asyncio.run_coroutine_threadsafe(model.ainvoke(later[1], on(user)), loop)
            await asyncio.wrap_future(there)
            await compiled.ainvoke(turn(world, user), on(user))  # the state remembers

        await world.each(run)


@shape
async def ids_in_the_state_and_config_to_a_bare_thread(world: World) -> None:
    async def leave(state: Turn, config: RunnableConfig) -> Turn:
        prompt = world.prompt(world.users[state["who"]])
        await in_thread(partial(model.invoke, prompt, config))
        return {}

    kit = Kit(world)
    compiled = kit.compile(kit.line(leave, schema=Known))
    await world.each(lambda user: compiled.ainvoke({**turn(world, user), **ids(user)}))


@shape
async def nobody_told_anything(world: World) -> None:
    """Wrapped or bare, with and without a thread: no ids, and a reason. Ids in the configurable of a bare graph too."""

    async def ask(state: Turn) -> Turn:
        await model.ainvoke(world.prompt(None))
        return {}

    wrapped, bare = (kit.compile(kit.line(ask, ask)) for kit in (Kit(world), Kit(world, False)))

    async def run(user: User) -> None:
        await wrapped.ainvoke(turn(world, user))
        await wrapped.ainvoke(turn(world, user), on(user))
        await bare.ainvoke(turn(world, user), {"configurable": ids(user)})

    await world.each(run)


@shape
async def anonymous_runs_between_known_ones(world: World) -> None:
    """At once on one compiled graph: those whose state has ids, and those whose has none."""

    async def ask(state: Known) -> Turn:
        user = world.users[state["who"]] if state.get("user_id") else None
        await model.ainvoke(world.prompt(user))
        return {}

    kit = Kit(world)
    compiled = kit.compile(kit.line(ask, ask, schema=Known))

    async def run(user: User) -> None:
        known: Any = {**turn(world, user), **ids(user)}
        await asyncio.gather(compiled.ainvoke(known), compiled.ainvoke(turn(world, user)), compiled.ainvoke(known))

    await world.each(run)


@shape
async def the_state_names_another_user_than_the_request(world: World) -> None:
    """A request of one user runs a graph whose fresh state names another: state may be a client's."""
    kit = Kit(world)
    compiled = kit.compile(kit.line(kit.ask(), kit.ask(), schema=Known))

    async def endpoint(user: User) -> None:
        other = world.users[world.users.index(user) - 1]
        await model.ainvoke(world.prompt(user))
        await compiled.ainvoke({**turn(world, user), **ids(other)})
        await model.ainvoke(world.prompt(user))

    await world.through(endpoint, rounds=1)
