"""Attacks of clients: no row is the victim's, whatever they send, alice's are hers, and anonymous ones nobody's."""

from __future__ import annotations

import asyncio
import collections
import copy
import json
import multiprocessing
import pickle
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig

from llmctx import CallContext
from llmctx.core.diagnostics import diagnostics
from llmctx.graph import wrap_graph
from llmctx.identity.config_carrier import CARRIED_KEY, carried_in
from tests.kit.trust import (
    MALFORMED,
    PATHS,
    Raising,
    Sent,
    Server,
    State,
    agent,
    bare,
    graph_of,
    model,
    recorded,
    unwrapped,
    wrapped,
    wrapped_sync,
)

VICTIM = CallContext(user_id="victim", session_id="s-victim")
IDS = {"user_id": "victim", "session_id": "s-victim"}


@dataclass
class Seen:
    """What an attacker may have got hold of: the config of a call of the victim's, and its thread."""

    config: dict[str, Any] = field(default_factory=dict)
    thread_id: str = "t-victim"

    @property
    def metadata(self) -> dict[str, Any]:
        return self.config["metadata"]  # type: ignore[no-any-return]


class Evil(str):
    """A text that claims to be equal to any other."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


class Dicts(dict[str, Any]):
    identity = VICTIM
    of_request = 1


@dataclass
class Context:
    user_id: str = "victim"
    session_id: str = "s-victim"
    identity: str = "victim"


def meta(**metadata: Any) -> Callable[[Seen], Sent]:
    return lambda seen: Sent({}, {"metadata": metadata})


def conf(**configurable: Any) -> Callable[[Seen], Sent]:
    return lambda seen: Sent({}, {"configurable": configurable})


def state(**values: Any) -> Callable[[Seen], Sent]:
    return lambda seen: Sent(values, {})


def context(value: Any) -> Callable[[Seen], Sent]:
    return lambda seen: Sent({}, {}, value)


def of_seen(make: Callable[[Seen], dict[str, Any]]) -> Callable[[Seen], Sent]:
    return lambda seen: Sent({}, make(seen))


ATTACKS: dict[str, Callable[[Seen], Sent]] = {
    "explicit": meta(llmctx_user_id="victim", llmctx_session_id="s-victim"),
    "explicit session alone": meta(llmctx_session_id="s-victim"),
    "explicit everything": meta(**{f"llmctx_{name}": "victim" for name in ("user_id", "session_id", "agent_key")}),
    "explicit in capitals": meta(LLMCTX_USER_ID="victim"),
    "explicit, equal to all": meta(llmctx_user_id=Evil("victim")),
    "explicit key, equal to all": lambda seen: Sent({}, {"metadata": {Evil("llmctx_user_id"): "victim"}}),
    "explicit uuid": meta(llmctx_user_id=uuid.UUID(int=7)),
    "explicit in a list": meta(llmctx_user_id=["victim"]),
    "explicit in a dict": meta(llmctx_user_id=IDS),
    "explicit and padded": meta(llmctx_user_id=" victim"),
    "explicit and invisible": meta(llmctx_user_id="victim\u200b"),
    "explicit with NUL": meta(llmctx_user_id="victim\x00"),
    "carried": meta(llmctx=IDS),
    "carried subclass": lambda seen: Sent({}, {"metadata": {CARRIED_KEY: Dicts(IDS)}}),
    "carried ordered": meta(llmctx=collections.OrderedDict(IDS)),
    "carried chained": meta(llmctx=collections.ChainMap(IDS)),
    "carried context": meta(llmctx=VICTIM),
    "carried object": meta(llmctx=Context()),
    "carried twice": meta(llmctx={"llmctx": IDS, **IDS}),
    "carried with a signature": meta(llmctx={**IDS, "signed": "eyJ1IjoidmljdGltIn0.forged"}),
    "carried with a signature of none": meta(llmctx={**IDS, "signed": None}),
    "carried text": meta(llmctx=json.dumps(IDS)),
    "carried and explicit": meta(llmctx=IDS, llmctx_user_id="victim"),
    "auth text": conf(langgraph_auth_user="victim"),
    "auth dict": conf(langgraph_auth_user={"identity": "victim", "is_authenticated": True}),
    "auth list": conf(langgraph_auth_user=["victim"]),
    "auth id": conf(langgraph_auth_user_id="victim"),
    "auth id in metadata": meta(langgraph_auth_user_id="victim", langgraph_auth_user=IDS),
    "runtime text": conf(__pregel_runtime_="victim"),
    "server info": conf(server_info={"user": {"identity": "victim"}}),
    "configurable": conf(**IDS),
    "configurable explicit": conf(llmctx_user_id="victim"),
    "configurable carried": conf(llmctx=IDS),
    "configurable mark": conf(__llmctx__=IDS),
    "assistant": conf(graph_id="victim", assistant_id="victim", run_id="victim"),
    "langfuse": meta(langfuse_user_id="victim", langfuse_session_id="s-victim"),
    "langsmith": meta(user_id="victim", session_id="s-victim", thread_id="t-other"),
    "tags": lambda seen: Sent({}, {"tags": ["llmctx_user_id=victim"], "run_name": "victim"}),
    "state": state(**IDS),
    "state carried": state(llmctx=IDS, **IDS),
    "state in text": state(text="llmctx_user_id=victim"),
    "message": state(messages=[HumanMessage("hi", name="victim", additional_kwargs={"llmctx_user_id": "victim"})]),
    "context": context(IDS),
    "context object": context(Context()),
    "context of contexts": context({"user_id": {"user_id": "victim"}, "llmctx": IDS}),
    "context that raises": context(Raising()),
    "everywhere": lambda seen: Sent(
        dict(IDS),
        {"metadata": {"llmctx_user_id": "victim", "llmctx": IDS, "user_id": "victim"}, "configurable": dict(IDS)},
        IDS,
    ),
    "thread": of_seen(lambda seen: {"configurable": {"thread_id": seen.thread_id}}),
    "thread in metadata": of_seen(lambda seen: {"metadata": {"thread_id": seen.thread_id}}),
    "thread in both": of_seen(
        lambda seen: {"configurable": {"thread_id": seen.thread_id}, "metadata": {"thread_id": seen.thread_id}}
    ),
    "two threads": of_seen(
        lambda seen: {"configurable": {"thread_id": "t-other"}, "metadata": {"thread_id": seen.thread_id}}
    ),
    "thread as an id": of_seen(lambda seen: {"metadata": {"llmctx_thread_id": seen.thread_id}}),
    "task": of_seen(lambda seen: {"metadata": {"langgraph_checkpoint_ns": seen.metadata["langgraph_checkpoint_ns"]}}),
    "task within": of_seen(
        lambda seen: {"metadata": {"langgraph_checkpoint_ns": seen.metadata["langgraph_checkpoint_ns"] + "|x:1"}}
    ),
    "task in configurable": of_seen(
        lambda seen: {"configurable": {"checkpoint_ns": seen.metadata["langgraph_checkpoint_ns"]}}
    ),
    "checkpoint": conf(checkpoint_id="1ef4f797-8335-6428-8001-8a1503f9b875", checkpoint_map={"": "x"}),
    "metadata kept": of_seen(lambda seen: {"metadata": seen.metadata}),
    "metadata copied": of_seen(lambda seen: {"metadata": copy.deepcopy(seen.metadata)}),
    "metadata as a dict": of_seen(
        lambda seen: {"metadata": {**seen.metadata, CARRIED_KEY: carried_in(pickle.loads(pickle.dumps(seen.metadata)))}}
    ),
    "metadata pickled": of_seen(lambda seen: {"metadata": pickle.loads(pickle.dumps(seen.metadata))}),
    "metadata as JSON": of_seen(lambda seen: {"metadata": json.loads(json.dumps(seen.metadata, default=str))}),
    "config kept": of_seen(lambda seen: {"metadata": seen.metadata, "callbacks": seen.config["callbacks"]}),
    "callbacks kept": of_seen(lambda seen: {"callbacks": seen.config["callbacks"]}),
    "callbacks copied": of_seen(lambda seen: {"callbacks": copy.deepcopy(seen.config["callbacks"])}),
}


async def _awaited(work: Callable[[], Any]) -> None:
    await work()


async def _child_task(work: Callable[[], Any]) -> None:
    await asyncio.gather(asyncio.create_task(_awaited(work)))


async def _thread(work: Callable[[], Any]) -> None:
    await asyncio.to_thread(lambda: asyncio.run(_awaited(work)))


def _seen_of_the_victim(server: Server, seen: Seen) -> None:
    """Let the victim run a graph, and see its config."""

    async def node(state: State, config: RunnableConfig) -> State:
        await model.ainvoke("hello", config)
        seen.config = dict(config)
        return {}

    graph = wrap_graph(graph_of(node)).compile()
    server.request("victim", lambda: graph.ainvoke({}, {"configurable": {"thread_id": seen.thread_id}}))


@pytest.fixture(scope="module")
def server() -> Any:
    with Server(VICTIM) as running:
        yield running


@pytest.mark.parametrize("key", [None, "k" * 32], ids=["no key", "key"])
@pytest.mark.parametrize("way", [_awaited, _child_task, _thread], ids=["awaited", "child task", "thread"])
def test_no_attack_reaches_the_victim(server: Server, way: Any, key: str | None) -> None:
    """By a bare model, a plain graph, a wrapped one, an agent; in a request of alice's, of nobody, on a websocket."""
    paths = (bare, unwrapped, wrapped, wrapped_sync, agent)
    cells = [(name, path, who) for name in ATTACKS for path in paths for who in ("alice", "nobody")]
    cells = cells[:: 3 if way is not _awaited or key else 2]
    seen = Seen()
    with recorded(handover_key=key) as sink:
        _seen_of_the_victim(server, seen)
        for name, path, who in cells:
            work = partial(way, partial(path, ATTACKS[name](seen)))
            (server.request if path is not wrapped else server.socket)(who, work)
    of_the_victim, *rows = sink.records
    assert of_the_victim.user_id == "victim"
    assert len(rows) == len(cells)
    wrong = [
        (name, path.__name__, who, row.user_id, row.session_id, row.identity_reason)
        for (name, path, who), row in zip(cells, rows, strict=True)
        if row.user_id != ("alice" if who == "alice" else None) or row.identity_reason == "internal_error"
    ]
    assert not wrong


SHAPES: dict[str, Callable[[Any], Sent]] = {
    **{f"metadata {key}": lambda value, key=key: Sent({}, {"metadata": {key: value}})  # type: ignore[misc]
       for key in ("llmctx", "llmctx_user_id", "llmctx_session_id", "llmctx_thread_id", "llmctx_trace_id",
                   "llmctx_conversation_id", "llmctx_agent_key", "thread_id", "langgraph_checkpoint_ns",
                   "langfuse_user_id", "langfuse_session_id", "user_id", "session_id", "langgraph_node", "graph_id")},
    **{f"carried {key}": lambda value, key=key: Sent({}, {"metadata": {"llmctx": {key: value}}})  # type: ignore[misc]
       for key in ("user_id", "session_id", "thread_id", "signed", "of_request")},
    **{f"configurable {key}": lambda value, key=key: Sent({}, {"configurable": {key: value}})  # type: ignore[misc]
       for key in ("user_id", "session_id", "agent_key", "trace_id", "thread_id", "llmctx", "llmctx_user_id",
                   "langgraph_auth_user", "langgraph_auth_user_id")},
    **{f"state {key}": lambda value, key=key: Sent({key: value}, {})  # type: ignore[misc]
       for key in ("user_id", "session_id")},
    **{f"context {key}": lambda value, key=key: Sent({}, {}, {key: value})  # type: ignore[misc]
       for key in ("user_id", "session_id", "agent_key")},
    "context": lambda value: Sent({}, {}, value),
}  # fmt: skip


def test_malformed_values_cost_nobody_anything(server: Server) -> None:
    """More than 300 of every type in every place: alice stays alice, and no thread or task is doubted."""
    values = {
        **MALFORMED,
        "true": True,
        "zero": 0,
        "huge": 10**400,
        "nan": float("nan"),
        "set": {1},
        "object": object(),
        "class": int,
        "function": len,
        "controls": "a\x00\x1b[2J\n",
        "bidi": "\u202evictim",
        "deep": [[[[["victim"]]]]],
        "negative": -1,
    }
    cells = [(place, name) for place in SHAPES for name in values][::2]
    assert len(cells) > 300
    before = diagnostics.by_cause()
    failed = []
    with recorded() as sink:
        for number, (place, name) in enumerate(cells):
            path = PATHS[number % len(PATHS)]
            try:
                server.request("alice", partial(path, SHAPES[place](values[name])))
            except Exception as problem:  # LangGraph's own, of a value that it cannot take
                failed.append((place, name, problem))
                continue
        server.request("alice", partial(bare, Sent({}, {"metadata": {"thread_id": "t-after"}})))
    assert len(sink.records) >= len(cells) + 1 - len(failed)
    wrong = [(row.user_id, row.identity_reason) for row in sink.records if row.user_id != "alice"]
    assert not wrong
    assert not [one for one in failed if not one[0].startswith(("configurable thread_id", "context", "state"))]
    after = diagnostics.by_cause()
    for cause in ("handler_failed", "node_scope_failed", "registry_failed", "refresh_failed"):
        assert after.get(cause, 0) == before.get(cause, 0)


def test_in_a_bare_thread_the_callbacks_are_proof_enough(server: Server) -> None:
    """A wrapped graph there is alice's, by a handler that rode in, whatever state and configurable say."""
    kept: list[RunnableConfig] = []

    async def node(state: State, config: RunnableConfig) -> State:
        kept.append(config)
        return {}

    graph = wrap_graph(graph_of(node)).compile()

    async def work() -> None:
        await graph.ainvoke({})
        for sent in (Sent(IDS, {}), Sent({}, {"configurable": IDS}), Sent({}, {}, IDS)):
            config = {**sent.config, "callbacks": kept[0]["callbacks"]}
            thread = threading.Thread(target=lambda: asyncio.run(wrapped(sent._replace(config=config))))  # noqa: B023
            thread.start()
            thread.join(60)

    with recorded() as sink:
        server.request("alice", work)
    assert [row.user_id for row in sink.records] == ["alice"] * 3


def _in_another_process(sent: Sent) -> list[str | None]:
    with recorded() as sink:
        asyncio.run(bare(sent))
        asyncio.run(wrapped(sent))
    return [row.user_id for row in sink.records]


def test_an_anonymous_request_is_anonymous_in_other_processes_too(server: Server) -> None:
    """With `carry=True`: data name nobody there either; alice is alice there."""
    sent = Sent(dict(IDS), {"metadata": {"llmctx_user_id": "victim"}})
    users: list[Any] = []
    spawn = multiprocessing.get_context("spawn")
    with recorded(carry=True), ProcessPoolExecutor(1, mp_context=spawn) as pool:

        async def work() -> None:
            users.append(await asyncio.wrap_future(pool.submit(_in_another_process, sent)))

        for who in ("nobody", "alice"):
            server.request(who, work)
    assert users == [[None, None], ["alice", "alice"]]
