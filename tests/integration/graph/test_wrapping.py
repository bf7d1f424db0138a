"""`wrap_graph` and `wrap_node`: in every node, branch, tool, subgraph and task, `current()` is whose run it is."""

from __future__ import annotations

import asyncio
import operator
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, TypedDict
from uuid import UUID

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolCall
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, RetryPolicy, Send, StreamWriter, interrupt
from pydantic import BaseModel

from llmctx import CallContext, bind, current
from llmctx.core.diagnostics import diagnostics
from llmctx.graph import wrap_graph, wrap_node
from llmctx.identity.config_carrier import CarriedIdentity, carried_in, pack
from llmctx.identity.registry import MemoryRegistry
from llmctx.identity.registry.base import active
from llmctx.identity.scope import Scope, current_scope
from tests.kit.newer import HAS_NODE_POLICIES, NodeError

ANN = CallContext(session_id="s-ann", user_id="ann")
BOB = CallContext(session_id="s-bob", user_id="bob")
ANN_IDS, BOB_IDS = pack(ANN), pack(BOB)


class State(TypedDict, total=False):
    session_id: str
    user_id: str
    text: str
    seen: Annotated[list[Any], operator.add]


class Narrow(TypedDict):
    text: str


class Recorder(BaseCallbackHandler):
    """What a call log would see of each model call."""

    run_inline = True

    def __init__(self) -> None:
        self.calls: list[tuple[CallContext, dict[str, Any]]] = []

    def on_chat_model_start(self, *args: Any, metadata: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.calls.append((current(), dict(metadata or {})))


class Model(FakeMessagesListChatModel):
    """A fake model that accepts tools and leaves them alone."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    """A registry as a running CallLog would have it."""
    mine = MemoryRegistry()
    active.append(mine)
    yield mine
    active.remove(mine)


@pytest.fixture(autouse=True)
def _no_incident() -> Iterator[None]:
    """No test may stumble inside llmctx without noticing."""
    before = diagnostics.counts["node_scope_failed"] + diagnostics.counts["scope_left_elsewhere"]
    yield
    assert diagnostics.counts["node_scope_failed"] + diagnostics.counts["scope_left_elsewhere"] == before


def model(*texts: str) -> Model:
    return Model(responses=[AIMessage(content=text) for text in texts])


def who(state: Any) -> dict[str, Any]:
    """A node that reports whose it is, in words that a checkpoint can keep."""
    return {"seen": [pack(current())]}


async def awho(state: Any) -> dict[str, Any]:
    return who(state)


def one_node(node: Any = who, schema: Any = State, **kwargs: Any) -> StateGraph[Any, Any, Any, Any]:
    return StateGraph(schema, **kwargs).add_node("node", node).add_edge(START, "node").add_edge("node", END)


def thread(name: str) -> RunnableConfig:
    return {"configurable": {"thread_id": name}}


@dataclass
class DataclassState:
    user_id: str = ""
    session_id: str = ""
    seen: Annotated[list[Any], operator.add] | None = None


class PydanticState(BaseModel):
    user_id: str = ""
    session_id: str = ""
    seen: Annotated[list[Any], operator.add] = []


@pytest.mark.parametrize("schema", [State, DataclassState, PydanticState])
def test_a_node_finds_its_identity_in_the_state(schema: Any) -> None:
    """User and session in the state hold inside the node, whatever kind of object the state is."""
    graph = wrap_graph(one_node(schema=schema)).compile()
    result = graph.invoke({"user_id": "ann", "session_id": "s-ann", "seen": []})
    assert result["seen"] == [ANN_IDS]
    assert not current()


async def test_a_compiled_graph_is_wrapped_as_well() -> None:
    """`wrap_graph` takes what compile() has returned, returns the same object, and holds for ainvoke."""
    graph = one_node(awho).compile()
    assert wrap_graph(graph) is graph
    assert (await graph.ainvoke({"user_id": "ann", "session_id": "s-ann"}))["seen"] == [ANN_IDS]


def test_fields_name_the_keys_of_the_state() -> None:
    """With `fields`, the identity is read from keys of other names; numbers and UUIDs are ids as well."""

    class Clinic(TypedDict, total=False):
        patient: int
        visit: UUID
        seen: Annotated[list[Any], operator.add]

    graph = wrap_graph(one_node(schema=Clinic), fields={"user_id": "patient", "session_id": "visit"}).compile()
    visit = UUID(int=7)
    assert graph.invoke({"patient": 12, "visit": visit})["seen"] == [{"session_id": str(visit), "user_id": "12"}]


def test_the_configurable_is_asked_after_the_state() -> None:
    """What the state does not know is filled from config["configurable"], if that speaks of the same user."""
    graph = wrap_graph(one_node()).compile()
    config: RunnableConfig = {"configurable": {"user_id": "ann", "session_id": "s-ann", "trace_id": "t"}}
    filled = {"user_id": "ann", "session_id": "s-ann", "trace_id": "t"}
    assert graph.invoke({}, config)["seen"] == [filled]
    assert graph.invoke({"user_id": "ann"}, config)["seen"] == [filled]
    assert graph.invoke({"user_id": "bob"}, config)["seen"] == [{"user_id": "bob"}]


def test_the_runtime_context_is_asked_too() -> None:
    """`context=` of invoke, a dataclass or a dict, names the user where state and configurable do not."""

    @dataclass
    class Context:
        user_id: str
        session_id: str | None = None

    assert wrap_graph(one_node(context_schema=Context)).compile().invoke({}, context=Context("ann", "s-ann"))[
        "seen"
    ] == [ANN_IDS]
    graph = wrap_graph(one_node(context_schema=dict)).compile()
    assert graph.invoke({"session_id": "s-ann"}, context={"user_id": "ann"})["seen"] == [ANN_IDS]


def test_the_user_of_a_langgraph_server_is_known() -> None:
    """The authenticated user that LangGraph Server puts into the runtime is the last to be asked."""
    seen: list[CallContext] = []
    node = wrap_node(lambda state: seen.append(current()))
    user = SimpleNamespace(identity="ann")
    runtime = SimpleNamespace(context=None, server_info=SimpleNamespace(user=user))
    RunnableLambda(node).invoke({"session_id": "s-ann"}, {"configurable": {"__pregel_runtime": runtime}})
    assert seen == [ANN]


def test_identify_is_asked_first() -> None:
    """`identify(state, config)` comes before the state, and may leave the word to it."""
    asked: list[tuple[Any, Any]] = []

    def identify(state: Any, config: RunnableConfig) -> CallContext | None:
        asked.append((state, config["configurable"]["thread_id"]))
        return None if state["text"] == "pass" else CallContext(user_id="ann", session_id="s-ann", attributes={"n": 1})

    graph = wrap_graph(one_node(), identify=identify).compile()
    found: Any = graph.invoke({"text": "hi", "user_id": "bob"}, thread("t"))["seen"]
    assert found == [ANN_IDS]
    assert graph.invoke({"text": "pass", "user_id": "bob"}, thread("t"))["seen"] == [{"user_id": "bob"}]
    assert asked == [
        ({"text": "hi", "user_id": "bob", "seen": []}, "t"),
        ({"text": "pass", "user_id": "bob", "seen": []}, "t"),
    ]


@pytest.mark.parametrize("answer", [ValueError("no"), "ann"], ids=["raises", "no CallContext"])
def test_an_identify_that_fails_does_not_disturb_the_node(answer: Any) -> None:
    """A failing `identify` is counted; the node runs, and its scope says why nobody is known."""

    def identify(state: Any, config: RunnableConfig) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    reasons: list[str | None] = []
    before = diagnostics.counts["node_identify_failed"]
    graph = wrap_graph(one_node(lambda s: reasons.append(current_scope().reason)), identify=identify).compile()  # type: ignore[union-attr]
    graph.invoke({"text": "hi"})
    assert reasons == ["identify_failed"]
    assert diagnostics.counts["node_identify_failed"] == before + 1


def test_a_state_that_resists_does_not_disturb_the_node() -> None:
    """A state whose attributes raise costs nothing: it is as if it held no ids."""

    class Thorny:
        @property
        def user_id(self) -> str:
            raise RuntimeError("do not touch")

    before = diagnostics.counts["ids_refused"]
    assert wrap_node(lambda state: "ran")(Thorny()) == "ran"
    assert diagnostics.counts["ids_refused"] == before + 1
    assert not diagnostics.counts["node_scope_failed"]


def test_the_scope_around_holds_where_the_node_knows_nothing() -> None:
    """A node inherits the request's identity, in a scope of its own that closes with it."""
    scopes: list[Scope | None] = []
    graph = wrap_graph(one_node(lambda s: scopes.append(current_scope()))).compile()
    with bind(ANN):
        around = current_scope()
        graph.invoke({"text": "hi"})
    (scope,) = scopes
    assert scope is not None
    assert (scope.kind, scope.identity) == ("node", ANN)
    assert scope.closed_at is not None
    assert around is not scope


def test_agent_key_is_given_or_left_open() -> None:
    """`agent_key` of a node goes before the one of its graph; without either, it is left to the handler."""
    builder = one_node().add_node("other", wrap_node(who, agent_key="other")).add_edge("node", "other")
    graph = wrap_graph(builder, agent_key="clinic").compile()
    with bind(ANN):
        seen = graph.invoke({"text": ""})["seen"]
        assert [found["agent_key"] for found in seen] == ["clinic", "other"]
        assert wrap_graph(one_node()).compile().invoke({"text": ""})["seen"] == [ANN_IDS]


def test_conditional_edges_are_in_the_scope_of_their_node() -> None:
    """A routing function, after a node or after START, knows whose run it is."""
    seen: list[CallContext] = []

    def route(state: State) -> str:
        seen.append(current())
        return END if state.get("seen") else "node"

    builder = StateGraph(State).add_node("node", who).add_conditional_edges(START, route)
    graph = wrap_graph(builder.add_conditional_edges("node", route)).compile()
    graph.invoke({"user_id": "ann", "session_id": "s-ann"})
    assert seen == [ANN, ANN]


@pytest.mark.parametrize("sync", [True, False], ids=["invoke", "ainvoke"])
def test_parallel_branches_and_sends(sync: bool) -> None:
    """Fanned-out nodes have their run's identity; the payload of a Send may name another one."""

    def fan(state: State) -> list[Send]:
        return [Send("node", {"text": "no ids"}), Send("node", {"user_id": "bob", "session_id": "s-bob"})]

    builder = StateGraph(State).add_node("node", who if sync else awho).add_node("left", who).add_node("right", who)
    builder.add_conditional_edges(START, fan).add_edge(START, "left").add_edge(START, "right")
    graph = wrap_graph(builder).compile()
    state: Any = {"user_id": "ann", "session_id": "s-ann"}
    seen = (graph.invoke(state) if sync else asyncio.run(graph.ainvoke(state)))["seen"]
    assert sorted(found["user_id"] for found in seen) == ["ann", "ann", "ann", "bob"]


def test_a_node_with_a_narrower_schema_still_has_the_identity_of_its_graph() -> None:
    """A node that is handed only a part of the state runs for the user whom the state names."""

    def node(state: Narrow) -> dict[str, Any]:
        assert list(state) == ["text"]
        return who(state)

    builder = StateGraph(State).add_node("node", node, input_schema=Narrow).add_edge(START, "node")
    graph = wrap_graph(builder).compile()
    assert graph.invoke({"user_id": "ann", "session_id": "s-ann", "text": "hi"})["seen"] == [ANN_IDS]


def test_subgraphs_are_wrapped_with_their_graph(registry: MemoryRegistry) -> None:
    """Nodes of a subgraph, and of a child graph with a thread of its own inside a node, are covered and registered."""
    child = one_node().compile(checkpointer=InMemorySaver())

    def asks_child(state: State) -> dict[str, Any]:
        return {"seen": child.invoke({"text": "hi"}, thread("child"))["seen"]}

    builder = one_node(one_node().compile()).add_node("asks", asks_child).add_edge("node", "asks")
    graph = wrap_graph(builder).compile(checkpointer=InMemorySaver())
    with bind(ANN):
        result = graph.invoke({"text": "hi"}, thread("parent"))
    assert result["seen"] == [ANN_IDS, ANN_IDS]
    for name in ("parent", "child"):
        entry = registry.get(thread_id=name)
        assert entry is not None
        assert entry.identity == ANN


def test_a_sync_node_of_an_async_graph_and_the_reverse() -> None:
    """The executor in which LangGraph runs a sync node is inside the scope, and so is a loop that a node starts."""

    def starts_a_loop(state: State) -> dict[str, Any]:
        return asyncio.run(awho(state))

    builder = one_node().add_node("loop", starts_a_loop).add_edge("node", "loop")
    graph = wrap_graph(builder).compile()
    with bind(ANN):
        assert asyncio.run(graph.ainvoke({"text": "hi"}))["seen"] == [ANN_IDS, ANN_IDS]


def test_models_and_sequences_as_nodes() -> None:
    """A chat model, and a prompt piped into one, may be nodes: their calls are made in the node's scope."""

    class Chat(TypedDict, total=False):
        user_id: str
        session_id: str
        topic: str
        messages: Annotated[list[AnyMessage], add_messages]

    recorder = Recorder()
    prompt = ChatPromptTemplate.from_template("about {topic}")
    chain = prompt | model("a") | RunnableLambda(lambda message: {"messages": [message]})
    ask = RunnableLambda(lambda state: state["messages"]) | model("b") | (lambda message: {"messages": [message]})
    builder = StateGraph(Chat).add_node("chain", chain).add_node("ask", wrap_node(ask, agent_key="asker"))
    builder.add_edge(START, "chain").add_edge("chain", "ask")
    graph = wrap_graph(builder).compile()
    state: Any = {"topic": "cats", "user_id": "ann", "session_id": "s-ann"}
    graph.invoke(state, {"callbacks": [recorder]})
    assert [found.user_id for found, _ in recorder.calls] == ["ann", "ann"]
    assert [found.agent_key for found, _ in recorder.calls] == [None, "asker"]


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
def test_agents_with_parallel_tools_and_a_graph_inside_a_tool(way: str, registry: MemoryRegistry) -> None:
    """In `create_agent`, models, parallel tools, and an agent inside a tool, know whose run it is."""
    seen: list[CallContext] = []
    inner = wrap_graph(create_agent(model("inner"), [], name="inner"))

    @tool
    def look(name: str) -> str:
        """Look something up."""
        seen.append(current())
        return name

    @tool
    def ask(name: str) -> str:
        """Ask another agent."""
        seen.append(current())
        return str(inner.invoke({"messages": [HumanMessage(name)]})["messages"][-1].content)

    calls = [ToolCall(name="look", args={"name": "x"}, id="1"), ToolCall(name="ask", args={"name": "y"}, id="2")]
    outer = Model(responses=[AIMessage(content="", tool_calls=calls), AIMessage(content="done")])
    agent = wrap_graph(create_agent(outer, [look, ask], name="outer"))
    recorder = Recorder()
    config: RunnableConfig = {"callbacks": [recorder], **thread("t")}
    state: Any = {"messages": [HumanMessage("hi")]}
    with bind(ANN):
        if way == "invoke":
            agent.invoke(state, config)
        elif way == "ainvoke":
            asyncio.run(agent.ainvoke(state, config))
        elif way == "stream":
            list(agent.stream(state, config, stream_mode="messages"))
        else:
            asyncio.run(_drained(agent.astream(state, config, stream_mode=["messages", "updates"], subgraphs=True)))
    assert seen == [ANN, ANN]
    assert [found for found, _ in recorder.calls] == [ANN, ANN, ANN]
    for _, metadata in recorder.calls:
        entry = registry.get(task=metadata["langgraph_checkpoint_ns"])
        assert entry is not None
        assert entry.identity == ANN


async def _drained(stream: Any) -> list[Any]:
    return [step async for step in stream]


def test_state_that_reaches_tools_by_send_counts() -> None:
    """Identity that only the agent's state knows holds in its tools, each of which is sent its own call."""
    from langchain.agents import AgentState

    class Known(AgentState[Any]):
        user_id: str
        session_id: str

    seen: list[CallContext] = []

    @tool
    def look() -> str:
        """Look."""
        seen.append(current())
        return "x"

    calls = [AIMessage(content="", tool_calls=[ToolCall(name="look", args={}, id="1")]), AIMessage(content="done")]
    agent = wrap_graph(create_agent(Model(responses=calls), [look], state_schema=Known))
    state: Any = {"messages": [HumanMessage("hi")], "user_id": "ann", "session_id": "s-ann"}
    agent.invoke(state)
    assert seen == [ANN]


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_entrypoints_and_their_tasks(sync: bool, registry: MemoryRegistry) -> None:
    """In the functional API, the workflow and its tasks know whose run it is, by their input or by the scope around."""
    seen: list[CallContext] = []
    if sync:

        @task
        def step(n: int) -> int:
            seen.append(current())
            return n

        @entrypoint(checkpointer=InMemorySaver())
        def flow(state: dict[str, Any]) -> int:
            seen.append(current())
            return sum(future.result() for future in [step(1), step(2)])
    else:

        @task
        async def step(n: int) -> int:
            seen.append(current())
            return n

        @entrypoint(checkpointer=InMemorySaver())
        async def flow(state: dict[str, Any]) -> int:
            seen.append(current())
            return sum(await asyncio.gather(step(1), step(2)))

    wrap_graph(flow)
    state = {"user_id": "ann", "session_id": "s-ann"}
    result = flow.invoke(state, thread("t")) if sync else asyncio.run(flow.ainvoke(state, thread("t")))
    assert result == 3
    assert seen == [ANN, ANN, ANN]
    entry = registry.get(thread_id="t")
    assert entry is not None
    assert entry.identity == ANN


def test_retries_error_handlers_and_deferred_nodes() -> None:
    """Each attempt of a retry, the error handler and a deferred node run in the scope of their run."""
    seen: list[tuple[str, CallContext]] = []

    def fails(state: State) -> None:
        seen.append(("try", current()))
        raise ValueError("again")

    def handles(state: State, error: NodeError) -> dict[str, Any]:
        seen.append(("handler", current()))
        return {}

    retry = RetryPolicy(max_attempts=2, initial_interval=0, jitter=False, retry_on=ValueError)
    handler = {"error_handler": handles} if HAS_NODE_POLICIES else {}
    builder = StateGraph(State).add_node("fails", fails, retry_policy=retry, **handler)
    builder.add_node("late", lambda s: seen.append(("late", current())), defer=True)
    builder.add_edge(START, "fails").add_edge(START, "late")
    with bind(ANN), nullcontext() if handler else pytest.raises(ValueError, match="again"):
        wrap_graph(builder).compile().invoke({"text": "hi"})
    is_late = bool(handler) or ("late", ANN) in seen  # without a handler the run may be over before
    assert sorted(seen) == [("handler", ANN)] * len(handler) + [("late", ANN)] * is_late + [("try", ANN), ("try", ANN)]


def asking(state: State) -> dict[str, Any]:
    interrupt("go on?")
    return who(state)


def test_a_resumed_run_is_known_by_its_state() -> None:
    """`Command(resume=…)` brings no ids; the persisted state does, also without any scope around."""
    graph = wrap_graph(one_node(asking)).compile(checkpointer=InMemorySaver())
    graph.invoke({"user_id": "ann", "session_id": "s-ann"}, thread("t"))
    assert graph.invoke(Command(resume=True), thread("t"))["seen"] == [ANN_IDS]


@pytest.mark.parametrize(
    "told", [{}, {"identify": lambda s, c: CallContext(user_id=s["user_id"])}], ids=["state", "identify"]
)
def test_a_taken_over_thread_belongs_to_the_request_that_resumes_it(registry: MemoryRegistry, told: Any) -> None:
    """Persisted state names who used the thread before; the request that resumes it now is believed instead."""
    graph = wrap_graph(one_node(asking), **told).compile(checkpointer=InMemorySaver())
    with bind(ANN):
        graph.invoke({"user_id": "ann", "session_id": "s-ann"}, thread("t"))
    with bind(BOB):
        assert graph.invoke(Command(resume=True), thread("t"))["seen"] == [BOB_IDS]
    entry = registry.get(thread_id="t")
    assert entry is not None
    assert entry.shared


async def test_one_compiled_graph_serves_all_users(registry: MemoryRegistry) -> None:
    """Fifty users at once on one graph, each in nodes, branches and Sends: nobody gets another one's identity."""

    async def node(state: State) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"seen": [(state["text"], current().user_id)]}

    async def fan(state: State) -> list[Send]:
        await asyncio.sleep(0)
        assert current().user_id == state["text"]
        return [Send("leaf", {"text": state["text"]}) for _ in range(3)]

    builder = StateGraph(State).add_node("node", node).add_node("leaf", node).add_edge(START, "node")
    graph = wrap_graph(builder.add_conditional_edges("node", fan)).compile(checkpointer=InMemorySaver())

    async def request(n: int) -> list[Any]:
        with bind(user_id=f"u{n}", session_id=f"s{n}"):
            return list((await graph.ainvoke({"text": f"u{n}"}, thread(f"t{n}")))["seen"])

    for n, seen in enumerate(await asyncio.gather(*(request(n) for n in range(50)))):
        assert seen == [(f"u{n}", f"u{n}")] * 4
        entry = registry.get(thread_id=f"t{n}")
        assert entry is not None
        assert entry.identity.user_id == f"u{n}"


@pytest.mark.parametrize("hands_on", ["config", "variable"])
def test_the_identity_goes_with_the_config(hands_on: str) -> None:
    """A config handed to a bare thread carries the ids, also for a function that never asked for its config."""
    from langchain_core.runnables.config import ensure_config

    recorder = Recorder()

    def call(config: RunnableConfig) -> None:
        assert not current()
        model("a").invoke("hi", config)

    def in_a_thread(config: RunnableConfig) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(call, config).result()

    def with_config(state: State, config: RunnableConfig) -> None:
        in_a_thread(config)

    def without(state: State) -> None:
        in_a_thread(ensure_config())

    graph = wrap_graph(one_node(with_config if hands_on == "config" else without)).compile()
    with bind(ANN):
        graph.invoke({"text": "hi"}, {"callbacks": [recorder]})
    ((found, metadata),) = recorder.calls
    assert not found
    sent = carried_in(metadata)
    assert isinstance(sent, CarriedIdentity)
    assert sent.identity == ANN


def test_what_is_sent_along_can_be_pickled() -> None:
    """The metadata are fit for another process, and take the ids along."""
    configs: list[RunnableConfig] = []

    def node(state: State, config: RunnableConfig) -> None:
        configs.append(config)

    with bind(ANN, attributes={"not": "sent"}):
        wrap_graph(one_node(node)).compile().invoke({"text": "hi"})
    metadata = pickle.loads(pickle.dumps(configs[0]["metadata"]))
    assert metadata == configs[0]["metadata"]
    assert carried_in(metadata) == {"session_id": "s-ann", "user_id": "ann"}


def depth() -> int:
    """How many scopes of nodes are around."""
    scope, found = current_scope(), 0
    while scope is not None:
        found, scope = found + (scope.kind == "node"), scope.parent
    return found


def test_wrapping_twice_is_wrapping_once() -> None:
    """However often builder and graph are wrapped, a node has one scope; the arguments given last count."""
    builder = wrap_graph(wrap_graph(one_node(lambda s: {"seen": [depth(), current().agent_key]}), agent_key="first"))
    graph = wrap_graph(wrap_graph(builder.compile()), agent_key="last")
    assert graph.invoke({"text": "hi"})["seen"] == [1, "last"]
    assert wrap_graph(builder).compile().invoke({"text": "hi"})["seen"] == [1, "first"]
    node = wrap_node(wrap_node(lambda s: (depth(), current().agent_key), agent_key="first"), agent_key="last")
    assert node({}) == (1, "last")


def test_a_subgraph_keeps_what_it_was_wrapped_with() -> None:
    """A subgraph that was wrapped before has its own `fields`; the graph around it does not overrule them."""
    inner = wrap_graph(one_node(), fields={"user_id": "text"}).compile()
    graph = wrap_graph(one_node(inner), fields={"session_id": "text"}).compile()
    assert graph.invoke({"text": "ann"})["seen"] == [{"user_id": "ann", "session_id": "ann"}]


def test_nodes_added_after_wrapping_are_wrapped_too() -> None:
    """A builder may be wrapped early: what counts is what it has when it is compiled. Its copies are wrapped, too."""
    import copy

    builder = wrap_graph(one_node())
    other = copy.deepcopy(builder)
    builder.add_node("late", who).add_edge("node", "late")
    with bind(ANN):
        assert builder.compile().invoke({"text": "hi"})["seen"] == [ANN_IDS, ANN_IDS]
        assert other.compile().invoke({"text": "hi", "user_id": "ann"})["seen"] == [ANN_IDS]


@pytest.mark.parametrize("place", ["state", "configurable", "context"])
def test_names_of_the_teams_own_hold_wherever_ids_are_read(place: str) -> None:
    """`fields` says once what the ids are called, in the state, the config and the context alike."""

    class State(TypedDict, total=False):
        text: str
        patient: str
        visit: str
        seen: Annotated[list[Any], operator.add]

    ids = {"patient": "ann", "visit": "v-1"}
    builder = StateGraph(State, context_schema=dict).add_node("node", who).add_edge(START, "node")
    graph = wrap_graph(builder, fields={"user_id": "patient", "session_id": "visit"}).compile()
    result = graph.invoke(
        {"text": "hi", **(ids if place == "state" else {})},
        {"configurable": ids} if place == "configurable" else None,
        context=ids if place == "context" else None,
    )
    (seen,) = result["seen"]
    assert (seen["user_id"], seen["session_id"]) == ("ann", "v-1")


def test_what_is_no_graph_is_left_as_it_is() -> None:
    """An application whose tests put a double in a graph's place still starts; one line in the log says so."""
    before = diagnostics.counts["graph_not_wrapped"]
    for double in ("graph", None, object(), lambda state: state):
        assert wrap_graph(double) is double
    assert diagnostics.counts["graph_not_wrapped"] == before + 4


def test_graphs_in_lists_and_dicts_are_wrapped_one_by_one() -> None:
    """An application that keeps its agents in a dict wraps them all at once, and has the very same dict."""
    agents = {"plain": one_node(), "compiled": one_node().compile(), "several": [one_node().compile()]}
    assert wrap_graph(agents) is agents
    with bind(ANN):
        for graph in (agents["plain"].compile(), agents["compiled"], agents["several"][0]):
            assert graph.invoke({"text": "hi"})["seen"] == [ANN_IDS]


def test_what_cannot_be_wrapped_is_refused() -> None:
    """Wrong arguments are told at once, with what would be right."""
    with pytest.raises(TypeError, match="takes a function or a Runnable, not int"):
        wrap_node(1)
    with pytest.raises(TypeError, match="unknown: patient"):
        wrap_graph(one_node(), fields={"patient": "user_id"})

    async def identify(state: Any, config: Any) -> None: ...

    with pytest.raises(TypeError, match="plain function"):
        wrap_graph(one_node(), identify=identify)  # type: ignore[arg-type]


class Callable_:  # noqa: N801  it stands for any class with __call__
    def __call__(self, state: State) -> dict[str, Any]:
        return who(state)


class AsyncCallable:
    __name__ = "named"

    async def __call__(self, state: State) -> dict[str, Any]:
        return who(state)


def streamed(state: State) -> Iterator[dict[str, Any]]:
    yield who(state)


@pytest.mark.parametrize(
    "node",
    [
        who,
        awho,
        Callable_(),
        AsyncCallable(),
        streamed,
        RunnableLambda(who),
        RunnableLambda(who) | RunnableLambda(lambda x: x),
        {"seen": lambda s: [pack(current())]},
    ],
    ids=["function", "coroutine", "object", "async object", "generator", "runnable", "sequence", "dict"],
)
async def test_wrap_node_takes_all_that_add_node_takes(node: Any) -> None:
    """One wrapped node in a graph that is not wrapped runs in a scope of its own."""
    graph = one_node(wrap_node(node, agent_key="mine")).compile()
    with bind(ANN):
        (found,) = (await graph.ainvoke({"text": "hi"}))["seen"]
    assert found == {**ANN_IDS, "agent_key": "mine"}


async def test_a_stream_leaks_nothing_into_its_consumer() -> None:
    """Between two chunks of a streaming node, its consumer is in its own scope; a stream left early leaves nothing."""

    async def chunks(state: State) -> Any:
        for _ in range(3):
            yield {"seen": [current()]}

    node = RunnableLambda(wrap_node(chunks, identify=lambda state, config: ANN))
    wrapped: Any = wrap_node(RunnableLambda(chunks), identify=lambda state, config: ANN)
    for runnable in (node, wrapped):
        with bind(BOB):
            stream = runnable.astream({"user_id": "ann", "session_id": "s-ann"})
            async for chunk in stream:
                assert chunk["seen"] == [ANN]
                assert current() == BOB
                break
            await asyncio.create_task(stream.aclose())  # another task, another context
            assert current() == BOB
        assert current_scope() is None


@pytest.mark.parametrize("early", [True, False], ids=["left early", "read to the end"])
def test_a_sync_stream_leaks_nothing_either(early: bool) -> None:
    """The same for `stream`, in whatever thread it is closed."""
    scopes: list[Scope | None] = []

    def chunks(state: State) -> Iterator[Any]:
        for _ in range(3):
            scopes.append(current_scope())
            yield {"seen": [current()]}

    stream: Any = wrap_node(RunnableLambda(chunks)).stream({"user_id": "ann", "session_id": "s-ann"})
    for chunk in stream:
        assert chunk["seen"] == [ANN]
        assert current_scope() is None
        if early:
            break
    closing = threading.Thread(target=stream.close)
    closing.start()
    closing.join()
    assert all(scope is not None and not scope.is_open and scope.identity == ANN for scope in scopes)
    assert len({id(scope) for scope in scopes}) == 1


def test_a_node_that_hands_a_generator_on_is_over() -> None:
    """A scope closes when its node ends; what is consumed later finds it closed, which is a weaker witness."""
    kept: list[Callable[[], Scope | None]] = []

    def node(state: State) -> None:
        scope = current_scope()
        kept.append(lambda: scope)

    graph = wrap_graph(one_node(node)).compile()
    with bind(ANN):
        graph.invoke({"text": "hi"})
    scope = kept[0]()
    assert scope is not None
    assert not scope.is_open


def test_injected_arguments_reach_a_wrapped_function() -> None:
    """config, runtime, store and writer are injected into a function wrapped by `wrap_node` as into any other."""
    got: list[Any] = []

    def node(
        state: State, config: RunnableConfig, *, runtime: Runtime[Any], writer: StreamWriter, store: BaseStore
    ) -> None:
        got.append(
            (
                config["metadata"]["langgraph_node"],
                getattr(runtime, "execution_info", runtime) is not None,
                callable(writer),
                store,
            )
        )

    mine = InMemoryStore()
    graph = one_node(wrap_node(node)).compile(store=mine)
    graph.invoke({"text": "hi"})
    assert got == [("node", True, True, mine)]
