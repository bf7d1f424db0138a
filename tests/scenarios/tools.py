"""Agents' tools that do more than look something up; several agents together; agents that no request surrounds."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from langchain.agents import AgentState, create_agent
from langchain.tools import ToolRuntime
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from tests.kit.support import PlainTalker, ProviderDown, User
from tests.scenarios import shape
from tests.scenarios.agents import Watching, agent, asked, react_agent, scripted
from tests.scenarios.graphs import Kit, all_hanging, wrapped_and_bare
from tests.scenarios.owners import Visit, ids
from tests.scenarios.world import World, in_thread, model, on


@wrapped_and_bare
async def a_graph_in_a_tool(world: World, *, wrapped: bool) -> None:
    """With the tool's config, with none, and with a thread of its own, all asked for at once."""
    kit = Kit(world, wrapped)
    inner = kit.compile(kit.line(kit.ask(), kit.ask()), checkpointer=InMemorySaver())
    free = kit.compile(kit.line(kit.ask()))

    @tool
    async def with_config(who: int, config: RunnableConfig) -> str:
        """Hand the config on."""
        await free.ainvoke({"who": who}, config)
        return "done"

    @tool
    async def with_nothing(who: int) -> str:
        """Hand nothing on."""
        await free.ainvoke({"who": who})
        return "done"

    @tool
    async def with_a_thread(who: int) -> str:
        """Run on a thread of its own."""
        await inner.ainvoke({"who": who}, {"configurable": {"thread_id": f"inner-{who}"}})
        return "done"

    given = [with_config, with_nothing, with_a_thread]
    made = agent(world, wrapped=wrapped, tools=given)
    turns = [[one.name for one in given]]
    await world.through(lambda user: made.ainvoke(asked(world, user, turns), on(user)), rounds=1)


@wrapped_and_bare
async def an_agent_in_a_tool_of_an_agent(world: World, *, wrapped: bool) -> None:
    """Two deep, sync and async, beside each other."""
    helper, sync_helper = (agent(world, wrapped=wrapped, sync=sync, checkpointer=None) for sync in (False, True))

    @tool
    async def ask(who: int) -> str:
        """Ask a helper."""
        return str((await helper.ainvoke(asked(world, world.users[who])))["messages"][-1].content)

    @tool
    def ask_too(who: int) -> str:
        """Ask a helper, in a thread."""
        return str(sync_helper.invoke(asked(world, world.users[who]))["messages"][-1].content)

    made = agent(world, wrapped=wrapped, tools=[ask, ask_too])
    await world.through(lambda user: made.ainvoke(asked(world, user, [["ask", "ask_too"]]), on(user)), rounds=1)


@wrapped_and_bare
async def a_tool_that_leaves_for_a_bare_thread(world: World, *, wrapped: bool) -> None:
    """With the config of its runtime, identity goes along; without, only `carry=True` knows."""

    @tool
    async def look(who: int, runtime: ToolRuntime) -> str:
        """Leave."""
        user = world.users[who]
        handed, left = world.prompt(user), world.prompt(user, known="carried")
        await in_thread(partial(model.invoke, handed, runtime.config))
        await in_thread(partial(model.invoke, left))
        return "done"

    made = agent(world, wrapped=wrapped, tools=[look])
    await world.through(lambda user: made.ainvoke(asked(world, user, [["look"]]), on(user)), rounds=1)


@wrapped_and_bare
async def a_tool_that_starts_work_and_goes_on(world: World, *, wrapped: bool) -> None:
    """Its task outlives the agent and the request."""
    over = asyncio.Event()

    async def afterwards(user: User) -> None:
        await over.wait()
        await model.ainvoke(world.prompt(user))

    @tool
    async def look(who: int) -> str:
        """Begin."""
        world.detach(afterwards(world.users[who]))
        return "begun"

    made = agent(world, wrapped=wrapped, tools=[look])
    await world.through(lambda user: made.ainvoke(asked(world, user, [["look"]]), on(user)), rounds=1)
    over.set()


@wrapped_and_bare
async def tools_of_an_agent_that_has_no_model_left(world: World, *, wrapped: bool) -> None:
    """The second call of its model fails, and so does the request's run."""
    failing = scripted(world, lambda number: "error" if number % 2 else "ok")
    made = agent(world, wrapped=wrapped, middleware=[failing])

    async def endpoint(user: User) -> None:
        try:
            await made.ainvoke(asked(world, user), on(user))
        except ProviderDown:
            await model.ainvoke(world.prompt(user))

    await world.through(endpoint, rounds=1)


@wrapped_and_bare
async def a_tool_that_is_cut_off(world: World, *, wrapped: bool) -> None:
    """Somebody cancels the agent while its tool waits for a model."""
    hang = all_hanging()

    @tool
    async def look(who: int) -> str:
        """Hang."""
        await model.ainvoke(world.prompt(world.users[who], "cancelled", "[hang]"))
        return "never"

    made = agent(world, wrapped=wrapped, tools=[look])

    async def endpoint(user: User) -> None:
        running = asyncio.create_task(made.ainvoke(asked(world, user, [["look"]]), on(user)))
        await hang()
        running.cancel()
        await asyncio.wait([running])

    await world.through(endpoint, rounds=1)


@wrapped_and_bare
async def agents_as_nodes_that_hand_over(world: World, *, wrapped: bool) -> None:
    """A tool of the first goes to the second, over their parent's head."""

    @tool
    async def hand_over(who: int, runtime: ToolRuntime) -> Command[Any]:
        """Hand over."""
        await model.ainvoke(world.prompt(world.users[who]))
        return Command(goto="second", graph=Command.PARENT, update=asked(world, world.users[who]))

    first = agent(world, wrapped=wrapped, tools=[hand_over], checkpointer=None, name="first")
    second = agent(world, wrapped=wrapped, checkpointer=None, name="second")
    builder: Any = StateGraph(MessagesState).add_node("first", first).add_node("second", second)
    compiled = Kit(world, wrapped).compile(builder.add_edge(START, "first"), checkpointer=InMemorySaver())
    await world.through(lambda user: compiled.ainvoke(asked(world, user, [["hand_over"]]), on(user)), rounds=1)


@wrapped_and_bare
async def one_agent_for_all_its_copies(world: World, *, wrapped: bool) -> None:
    """`with_config`, batch, several runs of one user at once."""
    made = agent(world, wrapped=wrapped, checkpointer=None).with_config(tags=["mine"])

    async def endpoint(user: User) -> None:
        await asyncio.gather(
            made.abatch([asked(world, user, [["look"]])] * 2), made.ainvoke(asked(world, user, [["look_too"]]))
        )

    await world.through(endpoint, rounds=1)


class KnownState(AgentState[Any]):
    user_id: str
    session_id: str


@shape
async def an_agent_whose_state_has_the_ids(world: World) -> None:
    """Its tools are sent their calls alone; here, in a bare thread, and in a loop of that thread's."""
    made = agent(world, state_schema=KnownState, checkpointer=None)
    made_sync = agent(world, sync=True, state_schema=KnownState, checkpointer=None)

    async def run(user: User) -> None:
        told = {**asked(world, user), **ids(user)}
        await made.ainvoke(told)
        await in_thread(lambda: made_sync.invoke(told))
        await in_thread(lambda: asyncio.run(made.ainvoke(told)))

    await world.each(run)


@shape
async def an_agent_whose_runtime_context_has_the_ids(world: World) -> None:
    made = agent(world, context_schema=Visit, middleware=[Watching(world), scripted(world)])

    async def run(user: User) -> None:
        await made.ainvoke(asked(world, user), on(user), context=Visit(user.user_id, user.session_id))

    await world.each(run)


@shape
async def an_agent_whose_configurable_has_the_ids(world: World) -> None:
    made = react_agent(world)

    async def run(user: User) -> None:
        await made.ainvoke(asked(world, user), {"configurable": {"thread_id": user.thread_id, **ids(user)}})

    await world.each(run)


@wrapped_and_bare
async def an_agent_known_by_its_thread(world: World, *, wrapped: bool) -> None:
    """A first turn in a request; the next ones in a worker that has the thread_id only."""
    made = agent(world, wrapped=wrapped)
    await world.through(lambda user: made.ainvoke(asked(world, user), on(user)), rounds=1)
    await world.each(lambda user: in_thread(lambda: asyncio.run(made.ainvoke(asked(world, user), on(user)))))


@shape
async def an_agent_nobody_knows(world: World) -> None:
    made = create_agent(PlainTalker(), [])
    await world.each(lambda user: made.ainvoke({"messages": [HumanMessage(world.prompt(None))]}, on(user)))
