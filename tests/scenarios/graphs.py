"""LangGraph graphs: every way to build one, to run one, and to tell it whose run it is.

One compiled graph serves all users. A state holds only which user it is (`who`), so that a node makes its prompts on
the spot; that key means nothing to `wrap_graph`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnableParallel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_store, get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, RetryPolicy, Send
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from llmctx.graph import wrap_graph
from tests.kit.newer import HAS_NODE_POLICIES, NodeError
from tests.kit.support import Known, ProviderDown, User
from tests.scenarios import enter
from tests.scenarios.world import OURS, USERS, World, begun, client, model, on

Builder = Any


class Turn(TypedDict, total=False):
    who: Annotated[int, lambda _, new: new]  # parallel branches may all say it


@dataclass
class Kit:
    """What a graph is made of: nodes that call a model, sync or async ones, and `wrap_graph`, or not."""

    world: World
    wrapped: bool = True
    sync: bool = False

    def ask(self, answer: Any = None, *, status: str = "ok", text: str = "", known: Known = "always") -> Any:
        """A node, branch or task that calls a model for the user in its state. Returns `answer`, or what that does."""

        def prompt(state: Any) -> str:
            number = state["who"] if isinstance(state, dict) else state.who
            return self.world.prompt(self.world.users[number], status, text, known)

        def ask_sync(state: Any) -> Any:
            with suppress(ProviderDown):
                model.invoke(prompt(state))
            return (answer(state) if callable(answer) else answer) or {}

        async def ask(state: Any) -> Any:
            with suppress(ProviderDown):
                await model.ainvoke(prompt(state))
            found = answer(state) if callable(answer) else answer
            return (await found if inspect.isawaitable(found) else found) or {}

        return ask_sync if self.sync else ask

    def line(self, *nodes: Any, schema: Any = Turn, **kwargs: Any) -> Builder:
        """`nodes`, one after the other."""
        names = [f"step{number}" for number in range(len(nodes))]
        return StateGraph(schema, **kwargs).add_sequence(list(zip(names, nodes, strict=True))).add_edge(START, "step0")

    def compile(self, builder: Builder, **kwargs: Any) -> Any:
        return (wrap_graph(builder) if self.wrapped else builder).compile(**kwargs)


def turn(world: World, user: User) -> Turn:
    return {"who": world.users.index(user)}


def wrapped_and_bare(run: Callable[..., Awaitable[None]]) -> Any:
    """Enter `run(world, wrapped)` twice: where a request is around, its graph need not be wrapped."""
    for wrapped in (True, False):
        name = f"{run.__name__}_{'wrapped' if wrapped else 'bare'}"
        enter(name, partial(run, wrapped=wrapped), family=run.__module__)
    return run


def all_hanging() -> Callable[[], Awaitable[None]]:
    """Gives a way to wait until the calls of all users hang, so that none is cut off before it has begun."""
    together = asyncio.Barrier(USERS)

    async def wait() -> None:
        await begun()
        await together.wait()

    return wait


async def drained(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


def built(make: Callable[[Kit], Builder]) -> Callable[[Kit], Builder]:
    """Enter the graph that `make` builds: async, sync, and sync in an async run; in requests of all users."""

    async def run(world: World, *, wrapped: bool) -> None:
        kits = Kit(world, wrapped), Kit(world, wrapped, sync=True)
        asynchronous, synchronous = (kit.compile(make(kit), checkpointer=InMemorySaver()) for kit in kits)

        async def endpoint(user: User) -> None:
            state, twin = turn(world, user), {"configurable": {"thread_id": f"{user.thread_id}-too"}}
            await asynchronous.ainvoke(state, on(user))
            await synchronous.ainvoke(state, twin)
            await asyncio.to_thread(synchronous.invoke, state, twin)

        await world.through(endpoint, rounds=1)

    run.__name__ = make.__name__
    wrapped_and_bare(run)
    return make


@built
def nodes_in_a_line(kit: Kit) -> Builder:
    return kit.line(kit.ask(), kit.ask(status="error"), kit.ask())


@built
def parallel_branches_and_a_deferred_node(kit: Kit) -> Builder:
    builder: Builder = StateGraph(Turn).add_node("join", kit.ask(), defer=True)
    for name, status in (("left", "ok"), ("middle", "error"), ("right", "ok")):
        builder.add_node(name, kit.ask(status=status)).add_edge(START, name).add_edge(name, "join")
    return builder


@built
def conditional_edges_that_call_a_model(kit: Kit) -> Builder:
    """After START, after a node, and two of them after one node."""
    builder: Builder = StateGraph(Turn)
    for name in ("first", "second", "third"):
        builder.add_node(name, kit.ask())
    builder.add_conditional_edges(START, kit.ask("first"), ["first"])
    builder.add_conditional_edges("first", kit.ask("second"), ["second"])
    another = kit.ask("third")
    another.__name__ = "another"
    builder.add_conditional_edges("first", another, ["third"])
    return builder.add_edge("second", END)


@built
def send_from_a_conditional_edge(kit: Kit) -> Builder:
    builder: Builder = StateGraph(Turn).add_node("leaf", kit.ask()).add_node("join", kit.ask()).add_edge("leaf", "join")
    return builder.add_conditional_edges(START, kit.ask(lambda state: [Send("leaf", state)] * 3), ["leaf"])


@built
def send_from_a_command(kit: Kit) -> Builder:
    fan = kit.ask(lambda state: Command(goto=[Send("leaf", state), Send("leaf", state), "other"]))
    return (
        StateGraph(Turn)
        .add_node("fan", fan)
        .add_node("leaf", kit.ask())
        .add_node("other", kit.ask())
        .add_edge(START, "fan")
    )


@built
def command_goto_back_and_forth(kit: Kit) -> Builder:
    builder: Builder = StateGraph(Turn).add_node("start", kit.ask(Command(goto="far")))
    return builder.add_node("far", kit.ask(Command(goto="end"))).add_node("end", kit.ask()).add_edge(START, "start")


@built
def subgraphs_as_nodes(kit: Kit) -> Builder:
    inmost = kit.line(kit.ask(), kit.ask(status="error")).compile()
    inner = kit.line(kit.ask(), inmost).compile(checkpointer=True)
    return kit.line(kit.ask(), inner, kit.ask())


@built
def a_subgraph_goes_to_its_parent(kit: Kit) -> Builder:
    """Command.PARENT, as agents hand over."""
    inner = kit.line(kit.ask(Command(goto="after", graph=Command.PARENT))).compile()
    return StateGraph(Turn).add_node("inner", inner).add_node("after", kit.ask()).add_edge(START, "inner")


@built
def sends_to_subgraphs(kit: Kit) -> Builder:
    inner = kit.line(kit.ask(), kit.ask()).compile()
    builder: Builder = StateGraph(Turn).add_node("inner", inner)
    return builder.add_conditional_edges(START, lambda state: [Send("inner", state)] * 2, ["inner"])


INNER_CONFIGS: dict[str, Callable[[RunnableConfig], RunnableConfig | None]] = {
    "config": lambda config: config,
    "no_config": lambda config: None,
    "a_thread_of_its_own": lambda config: {"configurable": {"thread_id": config["configurable"]["thread_id"] + "-in"}},
}


def _invoked_in_a_node(kit: Kit, *, of: Callable[[RunnableConfig], RunnableConfig | None]) -> Builder:
    inner = kit.compile(kit.line(kit.ask(), kit.ask()), checkpointer=InMemorySaver())

    def calls_sync(state: Turn, config: RunnableConfig) -> Turn:
        inner.invoke(state, of(config))
        return {}

    async def calls(state: Turn, config: RunnableConfig) -> Turn:
        await inner.ainvoke(state, of(config))
        return {}

    return kit.line(calls_sync if kit.sync else calls, kit.ask())


for _name, _of in INNER_CONFIGS.items():
    _make = partial(_invoked_in_a_node, of=_of)
    _make.__name__ = f"graph_invoked_in_a_node_with_{_name}"  # type: ignore[attr-defined]
    built(_make)


@built
def runnables_as_nodes(kit: Kit) -> Builder:
    """A chain, a parallel, and a dict of runnables, with a model in each."""

    def prompt(state: Turn) -> str:
        return kit.world.prompt(kit.world.users[state["who"]])

    chain: Runnable[Any, Any] = RunnableLambda(prompt) | model
    nothing = RunnableLambda(lambda _: {})
    return kit.line(chain | nothing, RunnableParallel(a=chain, b=chain) | nothing, {"who": chain | (lambda _: 0)})


@built
def a_store_and_a_stream_writer_in_between(kit: Kit) -> Builder:
    def keep(state: Turn) -> Turn:
        get_store().put(("memory",), str(state["who"]), {"seen": True})
        get_stream_writer()({"progress": 1})
        return {}

    builder = kit.line(kit.ask(), keep, kit.ask())
    compiled = builder.compile
    builder.compile = lambda **kwargs: compiled(store=InMemoryStore(), **kwargs)
    return builder


@built
def a_retry_policy(kit: Kit) -> Builder:
    """Each attempt is a call of its own."""
    tries: dict[int, int] = {}

    def fail_at_first(state: Turn) -> None:
        tries[state["who"]] = tries.get(state["who"], 0) + 1
        if tries[state["who"]] % 3:
            raise ProviderDown

    policy = RetryPolicy(max_attempts=3, initial_interval=0.001, jitter=False, retry_on=ProviderDown)
    return StateGraph(Turn).add_node("node", kit.ask(fail_at_first), retry_policy=policy).add_edge(START, "node")


def an_error_handler(kit: Kit) -> Builder:
    def fail(state: Turn) -> None:
        raise ProviderDown

    handled = kit.ask()

    def handles_sync(state: Turn, error: NodeError) -> Any:
        return handled(state)

    async def handles(state: Turn, error: NodeError) -> Any:
        return await handled(state)

    builder: Builder = StateGraph(Turn)
    builder.add_node("node", kit.ask(fail), error_handler=handles_sync if kit.sync else handles)
    return builder.add_edge(START, "node")


if HAS_NODE_POLICIES:
    built(an_error_handler)


def everything(kit: Kit) -> Builder:
    """A conditional edge, a fan-out, a subgraph."""
    builder: Builder = StateGraph(Turn).add_node("leaf", kit.ask()).add_node("inner", kit.line(kit.ask()).compile())
    builder.add_conditional_edges(START, kit.ask(lambda state: [Send("leaf", state)] * 2), ["leaf"])
    return builder.add_edge("leaf", "inner")


Runs = Callable[[Any, Turn, RunnableConfig], Awaitable[Any]]

ASYNC_RUNS: dict[str, Runs] = {
    **{
        f"astream_{mode}": lambda graph, state, config, mode=mode: drained(
            graph.astream(state, config, stream_mode=mode)
        )
        for mode in ("values", "updates", "messages", "custom", "debug", "tasks", "checkpoints")
    },
    "astream_with_subgraphs": lambda graph, state, config: drained(
        graph.astream(state, config, stream_mode=["messages", "updates"], subgraphs=True)
    ),
    "astream_v2": lambda graph, state, config: drained(
        graph.astream(state, config, stream_mode=["messages"], subgraphs=True, version="v2")
    ),
    "astream_events": lambda graph, state, config: drained(graph.astream_events(state, config, version="v2")),
    "abatch": lambda graph, state, config: graph.abatch([state, state]),
    "abatch_as_completed": lambda graph, state, config: drained(graph.abatch_as_completed([state, state])),
    "as_a_step_of_a_chain": lambda graph, state, config: (
        RunnableLambda(lambda who: {"who": who}) | graph | RunnableLambda(lambda _: "done")
    ).ainvoke(state["who"], config),
    "streamed_in_a_chain": lambda graph, state, config: drained(
        (RunnableLambda(lambda who: {"who": who}) | graph).astream(state["who"], config)
    ),
    "with_config": lambda graph, state, config: graph.with_config(config, tags=["mine"]).ainvoke(state),
    "with_retry_and_fallback": lambda graph, state, config: (
        graph.with_retry(stop_after_attempt=2).with_fallbacks([graph]).ainvoke(state, config)
    ),
    **{
        f"durability_{how}": lambda graph, state, config, how=how: graph.ainvoke(state, config, durability=how)
        for how in ("sync", "async", "exit")
    },
}
SYNC_RUNS: dict[str, Runs] = {
    "invoke": lambda graph, state, config: asyncio.to_thread(graph.invoke, state, config),
    "batch": lambda graph, state, config: asyncio.to_thread(graph.batch, [state, state]),
    **{
        f"stream_{mode}": lambda graph, state, config, mode=mode: asyncio.to_thread(
            lambda: list(graph.stream(state, config, stream_mode=mode, subgraphs=True))
        )
        for mode in ("values", "updates", "messages", "debug")
    },
}


async def _run(world: World, *, runs: Runs, sync: bool) -> None:
    kits = Kit(world, True, sync), Kit(world, False, sync)
    graphs = [kit.compile(everything(kit), checkpointer=InMemorySaver()) for kit in kits]

    async def endpoint(user: User) -> None:
        for compiled in graphs:
            await runs(compiled.with_config(on(user)), turn(world, user), on(user))

    await world.through(endpoint, rounds=1)


for _name, _runs in ASYNC_RUNS.items():
    enter(f"run_by_{_name}", partial(_run, runs=_runs, sync=False), family=__name__)
for _name, _runs in SYNC_RUNS.items():
    enter(f"run_by_sync_{_name}", partial(_run, runs=_runs, sync=True), family=__name__)


@wrapped_and_bare
async def all_kinds_of_endpoints(world: World, *, wrapped: bool) -> None:
    """A sync endpoint, a threadpool, a body that streams the graph, and one that does so synchronously."""
    kit, sync_kit = Kit(world, wrapped), Kit(world, wrapped, sync=True)
    compiled = kit.compile(everything(kit), checkpointer=InMemorySaver())
    synchronous = sync_kit.compile(everything(sync_kit), checkpointer=InMemorySaver())
    by_id = {user.user_id: user for user in world.users}

    def asked(request: Request) -> tuple[Turn, RunnableConfig]:
        user = by_id[request.headers["x-user"]]
        return turn(world, user), on(user)

    def sync(request: Request) -> Response:
        synchronous.invoke(*asked(request))
        return PlainTextResponse("done")

    async def threadpool(request: Request) -> Response:
        await run_in_threadpool(synchronous.invoke, *asked(request))
        return PlainTextResponse("done")

    async def body(request: Request) -> Response:
        async def steps() -> AsyncIterator[str]:
            async for _ in compiled.astream(*asked(request), stream_mode="messages"):
                yield "step"

        return StreamingResponse(steps())

    def sync_body(request: Request) -> Response:
        return StreamingResponse("step" for _ in synchronous.stream(*asked(request), stream_mode="updates"))

    paths = {f"/{endpoint.__name__}": endpoint for endpoint in (sync, threadpool, body, sync_body)}
    app = Starlette(routes=[Route(path, endpoint) for path, endpoint in paths.items()], middleware=[OURS])
    async with client(app) as http:

        async def visit(user: User) -> None:
            for path in paths:
                assert (await http.get(path, headers=user.headers)).status_code == 200

        await world.each(visit)
