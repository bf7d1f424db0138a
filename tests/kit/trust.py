"""Who authenticated x where a client says something x what it says x the way of the call: what the row must say.

The user of the row is computed from the rules of `llmctx/identity/authority.py`, never listed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

from langchain.agents import AgentState, create_agent
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.runnables import RunnableConfig, ensure_config
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from typing_extensions import TypedDict

from llmctx import CallContext, bind
from llmctx.calllog import CallLog
from llmctx.delivery.memory_sink import MemorySink
from llmctx.graph import wrap_graph
from llmctx.identity.config_carrier import CARRIED_KEY
from llmctx.middleware import ContextMiddleware
from tests.kit.newer import HAS_SERVER_INFO

model = FakeListChatModel(responses=["yes"])
Work = Callable[[], Awaitable[Any]]


class Raising:
    """An object whose every look raises."""

    def __str__(self) -> str:
        raise RuntimeError("do not touch")

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not touch")

    __hash__ = object.__hash__


MALFORMED: dict[str, Any] = {
    "dict": {"a": 1},
    "list": [],
    "false": False,
    "float": 1.5,
    "bytes": b"x",
    "surrogate": "\ud800",
    "long": "x" * 10_000,
    "nested": {"user_id": {"user_id": "victim"}},
    "raises": Raising(),
}


# -- the ways of a call -------------------------------------------------------------------------------------------


class State(TypedDict, total=False):
    text: str
    user_id: Any
    session_id: Any


class AgentIds(AgentState):
    user_id: Any
    session_id: Any


async def call_in_node(state: State, config: RunnableConfig) -> State:
    await model.ainvoke("hello", config)
    return {}


def _sync_node(state: State, config: RunnableConfig) -> State:
    model.invoke("hello", config)
    return {}


def graph_of(node: Any, schema: Any = State) -> Any:
    return StateGraph(schema).add_node("node", node).add_edge(START, "node").add_edge("node", END)


@entrypoint()
async def _flow(given: Any, *, config: RunnableConfig) -> None:
    await model.ainvoke("hello", config)


@task
async def _step(text: str, config: RunnableConfig) -> None:
    await model.ainvoke(text, config)


@entrypoint()
async def _flow_of_tasks(given: Any, *, config: RunnableConfig) -> None:
    await _step("hello")


_PLAIN = graph_of(call_in_node).compile()
_WRAPPED = wrap_graph(graph_of(call_in_node)).compile()
_WRAPPED_SYNC = wrap_graph(graph_of(_sync_node)).compile()
_OUTER = wrap_graph(graph_of(graph_of(call_in_node).compile())).compile()
_FLOW = wrap_graph(_flow)
_FLOW_OF_TASKS = wrap_graph(_flow_of_tasks)
_AGENT = wrap_graph(create_agent(model, [], state_schema=AgentIds))


class Sent(NamedTuple):
    """What a client sends."""

    state: Any
    config: Any
    context: Any = None


async def bare(sent: Sent) -> None:
    await model.ainvoke("hello", sent.config)


async def bare_sync(sent: Sent) -> None:
    model.invoke("hello", sent.config)


async def streamed(sent: Sent) -> None:
    async for _ in model.astream("hello", sent.config):
        pass


async def unwrapped(sent: Sent) -> None:
    await _PLAIN.ainvoke(sent.state, sent.config, context=sent.context)


async def wrapped(sent: Sent) -> None:
    await _WRAPPED.ainvoke(sent.state, sent.config, context=sent.context)


async def wrapped_sync(sent: Sent) -> None:
    _WRAPPED_SYNC.invoke(sent.state, sent.config, context=sent.context)


async def wrapped_stream(sent: Sent) -> None:
    async for _ in _WRAPPED.astream(sent.state, sent.config, context=sent.context, stream_mode="messages"):
        pass


async def subgraph(sent: Sent) -> None:
    await _OUTER.ainvoke(sent.state, sent.config, context=sent.context)


async def functional(sent: Sent) -> None:
    await _FLOW.ainvoke(sent.state, sent.config, context=sent.context)


async def functional_task(sent: Sent) -> None:
    await _FLOW_OF_TASKS.ainvoke(sent.state, sent.config, context=sent.context)


async def agent(sent: Sent) -> None:
    await _AGENT.ainvoke({"messages": [("user", "hello")], **sent.state}, sent.config, context=sent.context)


BARE = (bare, bare_sync, streamed, unwrapped)
PATHS = (*BARE, wrapped, wrapped_sync, wrapped_stream, subgraph, functional, functional_task, agent)


def _on_thread(thread_id: Any) -> Sent:
    return Sent({}, {"configurable": {"thread_id": thread_id}, "metadata": {"thread_id": thread_id}})


# -- what a client says, and where --------------------------------------------------------------------------------

PLACES: dict[str, Callable[[Any], Sent]] = {
    "metadata": lambda user: Sent({}, {"metadata": {"llmctx_user_id": user, "llmctx_session_id": "s-c"}}),
    "carried": lambda user: Sent({}, {"metadata": {CARRIED_KEY: {"user_id": user, "session_id": "s-c"}}}),
    "carried whole": lambda user: Sent({}, {"metadata": {CARRIED_KEY: user}}),
    "carried signed": lambda user: Sent({}, {"metadata": {CARRIED_KEY: {"signed": user}}}),
    "configurable": lambda user: Sent({}, {"configurable": {"user_id": user, "session_id": "s-c"}}),
    "configurable llmctx": lambda user: Sent({}, {"configurable": {"llmctx_user_id": user}}),
    "state": lambda user: Sent({"user_id": user, "session_id": "s-c"}, {}),
    "context": lambda user: Sent({}, {}, {"user_id": user, "session_id": "s-c"}),
    "tracer": lambda user: Sent({}, {"metadata": {"langfuse_user_id": user, "session_id": "s-c"}}),
    "tracer plain": lambda user: Sent({}, {"metadata": {"user_id": user, "langfuse_session_id": "s-c"}}),
    "auth": lambda user: Sent({}, {"configurable": {"langgraph_auth_user": user, "langgraph_auth_user_id": user}}),
    "thread": lambda user: _on_thread(object() if isinstance(user, Raising) else user),  # LangGraph itself looks at it
    "task": lambda user: Sent({}, {"metadata": {"langgraph_checkpoint_ns": user}}),
}
READ_BY_NODES = ("configurable", "state", "context")
COPIES_CONFIGURABLE = "user_id" in (ensure_config({"configurable": {"user_id": "u"}}).get("metadata") or {})
IN_METADATA = ("metadata", "carried", "tracer", "tracer plain")
NAMELESS = ("thread", "task", "auth", "carried whole", "carried signed")
"""Places that name no user, whatever stands there."""
SAYINGS: dict[str, Any] = {"victim": "victim", "alice": "alice", **MALFORMED}


# -- who authenticated --------------------------------------------------------------------------------------------

ALICE = CallContext(user_id="alice", session_id="s-alice")
KNOWN = ("alice", "socket", "bind", "platform", "platform in a request", *(["runtime"] if HAS_SERVER_INFO else []))
ANONYMOUS = ("nobody", "anonymous socket")
WHO = (*KNOWN, *ANONYMOUS, "none")


class Server:
    """An application whose requests, and websockets, do the work that they are given. It knows alice, and `others`."""

    def __init__(self, *others: CallContext) -> None:
        self._users = {str(who.user_id): who for who in (ALICE, *others)}

    def __enter__(self) -> Server:
        self._work: Work | None = None

        async def serve(request: Any) -> PlainTextResponse:
            assert self._work is not None
            await self._work()
            return PlainTextResponse("")

        async def serve_socket(socket: Any) -> None:
            assert self._work is not None
            await socket.accept()
            await self._work()
            await socket.send_text("")
            await socket.close()

        app = Starlette(routes=[Route("/", serve), WebSocketRoute("/socket", serve_socket)])
        served = ContextMiddleware(app, identify=lambda connection: self._users.get(connection.headers["x-user"]))
        self._client = TestClient(served)
        self._client.__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        self._client.__exit__(*problem)

    def request(self, user: str, work: Work) -> None:
        self._work = work
        assert self._client.get("/", headers={"x-user": user}).status_code == 200

    def socket(self, user: str, work: Work) -> None:
        self._work = work
        with self._client.websocket_connect("/socket", headers={"x-user": user}) as socket:
            socket.receive_text()

    def run(self, who: str, path: Callable[[Sent], Awaitable[None]], sent: Sent) -> None:
        """Make the call of a client, for somebody of `WHO`."""
        if who in ("platform", "platform in a request", "runtime"):
            sent = sent._replace(config=_authenticated(sent.config, in_runtime=who == "runtime"))
        match who:
            case "alice" | "nobody":
                self.request(who, lambda: path(sent))
            case "platform in a request":
                self.request("nobody", lambda: path(sent))
            case "socket" | "anonymous socket":
                self.socket("alice" if who == "socket" else "nobody", lambda: path(sent))
            case "bind":
                with bind(user_id="alice"):
                    asyncio.run(path(sent))  # type: ignore[arg-type]
            case _:
                asyncio.run(path(sent))  # type: ignore[arg-type]


def _authenticated(config: Any, *, in_runtime: bool) -> Any:
    """Return `config` as a platform hands it to a graph: what it has authenticated replaces what the client sent."""
    user = SimpleNamespace(identity="alice", is_authenticated=True)
    configurable = {**config.get("configurable", {}), "langgraph_auth_user": user, "langgraph_auth_user_id": "alice"}
    if in_runtime:
        del configurable["langgraph_auth_user"], configurable["langgraph_auth_user_id"]
        configurable["__pregel_runtime"] = Runtime(server_info=SimpleNamespace(user=user))  # type: ignore[call-arg, arg-type]
    return {**config, "configurable": configurable}


# -- cells --------------------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    who: str
    place: str
    saying: str
    path: Any

    @property
    def right(self) -> str | None:
        """The user of the row. Only where the server knows nothing, and there is no request, data count."""
        if self.who in KNOWN:
            return "alice"
        if self.who in ANONYMOUS or self.saying in MALFORMED or self.place in NAMELESS:
            return None
        copied = self.place.startswith("configurable") and COPIES_CONFIGURABLE  # langchain-core before 1.3
        read = self.place in READ_BY_NODES and self.path not in BARE
        return self.saying if read or copied or self.place in IN_METADATA else None

    def __str__(self) -> str:
        return f"{self.who} | {self.place} | {self.saying} | {self.path.__name__}"


def every_cell() -> list[Cell]:
    return [Cell(*values) for values in itertools.product(WHO, PLACES, SAYINGS, PATHS)]


def chosen_cells() -> list[Cell]:
    """Return cells in which each who meets each place and path together, with a victim, and each pair occurs."""
    cells = [Cell(who, place, "victim", path) for who, place, path in itertools.product(WHO, PLACES, PATHS)][::3]
    values: tuple[Any, ...] = (WHO, tuple(PLACES), tuple(SAYINGS), PATHS)
    pairs = itertools.combinations(range(4), 2)
    missing = {(i, a, j, b) for i, j in pairs for a in values[i] for b in values[j]}

    def meets(cell: Cell) -> set[tuple[int, Any, int, Any]]:
        return {(i, cell[i], j, cell[j]) for i, j in itertools.combinations(range(4), 2)}

    for cell in cells:
        missing -= meets(cell)
    while missing:
        i, a, j, b = min(missing, key=str)
        fixed = {i: a, j: b}
        made: list[Any] = [fixed.get(k) for k in range(4)]
        for k in range(4):
            if k not in fixed:  # the value that meets most of what is missing
                made[k] = max(
                    values[k],
                    key=lambda value, k=k: sum(  # type: ignore[misc]
                        (m, made[m], k, value) in missing or (k, value, m, made[m]) in missing
                        for m in range(4)
                        if made[m] is not None
                    ),
                )
        cell = Cell(*made)
        missing -= meets(cell)
        cells.append(cell)
    return cells


@contextlib.contextmanager
def recorded(**settings: Any) -> Iterator[MemorySink]:
    sink = MemorySink()
    with CallLog(sink=sink, **settings):
        yield sink
