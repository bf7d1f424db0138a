"""Authority before nearness: what a client sends never names a user whom the server does not name.

Who authenticated x where the client says something x what it says x the way of the call. What must stand in the row is
computed from the rules of `llmctx/identity/authority.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient

from llmctx import CallContext, amend, bind
from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import InvalidToken
from llmctx.graph import wrap_graph
from llmctx.identity import handover
from llmctx.identity.config_carrier import CARRIED_KEY, TASK_KEY, CarriedIdentity, carried_in, carrier
from llmctx.identity.handover import take_over
from llmctx.identity.reasons import candidate_outcomes
from llmctx.middleware import ContextMiddleware
from llmctx.ops.doctor.install_checks import trust
from llmctx.settings import load
from tests.kit.trust import (
    ANONYMOUS,
    IN_METADATA,
    PATHS,
    PLACES,
    SAYINGS,
    Sent,
    Server,
    State,
    bare,
    call_in_node,
    chosen_cells,
    every_cell,
    graph_of,
    model,
    recorded,
    wrapped,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def test_data_never_name_a_user_whom_the_server_does_not_name(server: Server, pytestconfig: pytest.Config) -> None:
    """Each pair of the matrix, the whole of it with `make shapes`; no thread is doubted, and nothing fails."""
    cells = every_cell() if pytestconfig.getoption("--all-shapes") else chosen_cells()
    before = diagnostics.by_cause()
    with recorded() as sink:
        for cell in cells:
            server.run(cell.who, cell.path, PLACES[cell.place](SAYINGS[cell.saying]))
    assert len(sink.records) == len(cells)
    wrong = []
    for cell, row in zip(cells, sink.records, strict=True):
        if row.user_id != cell.right or row.identity_reason == "internal_error":
            wrong.append((str(cell), row.user_id, row.identity_reason))
        if cell.who in ("alice", "socket") and cell.saying == "victim" and cell.place in IN_METADATA:
            assert (row.identity_reason, row.session_id) == ("conflict", "s-alice")
        if cell.who in ANONYMOUS:
            assert row.identity_reason == "anonymous_request" or (
                cell.place == "thread" and row.identity_reason == "shared_thread"
            )
    assert not wrong
    after = diagnostics.by_cause()
    for cause in ("handler_failed", "node_scope_failed", "registry_failed"):
        assert after.get(cause, 0) == before.get(cause, 0)


def test_the_matrix_meets_each_pair() -> None:
    """Of who, place, saying and path."""
    cells = chosen_cells()
    for i, j in itertools.combinations(range(4), 2):
        met = {(cell[i], cell[j]) for cell in cells}
        every = {(cell[i], cell[j]) for cell in every_cell()}
        assert met == every


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_whom_a_platform_has_not_authenticated_is_nobody(path: Any) -> None:
    """Its object says so itself."""
    user = SimpleNamespace(identity="victim", is_authenticated=False)
    with recorded() as sink:
        asyncio.run(path(Sent({}, {"configurable": {"langgraph_auth_user": user}})))
    assert [row.user_id for row in sink.records] == [None]


def in_request(who: str, work: Callable[[], Any]) -> None:
    """Run `work` in a request of `alice`, or of nobody."""
    with Server() as server:
        server.request(who, work)


def test_trust_config_believes_what_callers_send() -> None:
    """For a back end whose callers are services."""
    sent = PLACES["metadata"]("bob")
    with recorded(trust_config=True) as sink:
        in_request("alice", lambda: bare(sent))
    assert [row.user_id for row in sink.records] == ["bob"]
    with recorded() as sink:
        in_request("alice", lambda: bare(sent))
    assert [row.user_id for row in sink.records] == ["alice"]


def test_data_fill_what_the_server_does_not_know() -> None:
    """A session, an agent: for the same user, or for no named one; also in an anonymous request."""
    config = {"metadata": {"llmctx_session_id": "s-7", "llmctx_agent_key": "triage"}}
    with recorded() as sink, bind(user_id="alice"):
        model.invoke("hello", config)
    (row,) = sink.records
    assert (row.user_id, row.session_id, row.agent_key, row.identity_reason) == ("alice", "s-7", "triage", None)
    with recorded() as sink:
        in_request("nobody", lambda: bare(Sent({}, config)))
    (row,) = sink.records
    assert (row.user_id, row.session_id, row.identity_reason) == (None, "s-7", "anonymous_request")


def test_ids_for_other_tracers_are_believed_last() -> None:
    """They name the call's user where nothing else does, and fill what is missing elsewhere."""
    plain = {"user_id": "alice", "session_id": "s-7", "conversation_id": "c-1"}
    langfuse = {"langfuse_user_id": "bob", "langfuse_session_id": "s-8"}
    openinference = {"user.id": "eve", "session.id": "s-9"}
    with recorded() as sink:
        for metadata in (openinference, {**openinference, **langfuse}, {**openinference, **langfuse, **plain}):
            model.invoke("hello", {"metadata": metadata})
        model.invoke("hello", {"metadata": {**plain, "llmctx_user_id": "carol"}})
        with bind(user_id="alice", session_id="s-own"):
            model.invoke("hello", {"metadata": plain})
        with bind(user_id="alice"):
            model.invoke("hello", {"metadata": plain})
    assert [(row.user_id, row.session_id, row.conversation_id, row.identity_reason) for row in sink.records] == [
        ("eve", "s-9", None, None),
        ("bob", "s-8", None, None),
        ("alice", "s-7", "c-1", None),
        ("carol", None, None, "conflict"),
        ("alice", "s-own", None, None),
        ("alice", "s-7", "c-1", None),
    ]


@pytest.mark.parametrize("key", ["thread_id", "langgraph_checkpoint_ns"])
def test_an_anonymous_request_borrows_no_name(key: str) -> None:
    """Not by naming the thread, or the task, of somebody."""
    seen: dict[str, Any] = {}

    async def of_the_victim() -> None:
        async def node(state: State, config: RunnableConfig) -> State:
            seen.update(config["metadata"])
            return {}

        await (
            wrap_graph(graph_of(node))
            .compile()
            .ainvoke({}, {"configurable": {"thread_id": "t-1"}, "metadata": {"thread_id": "t-1"}})
        )

    with recorded() as sink:
        in_request("alice", of_the_victim)
        in_request("nobody", lambda: bare(Sent({}, {"metadata": {key: seen[key]}})))
        in_request("nobody", lambda: asyncio.create_task(bare(Sent({}, {"metadata": {key: seen[key]}}))))
    assert [row.user_id for row in sink.records] == [None, None]


def test_a_config_that_was_kept_names_nobody_in_another_request() -> None:
    """Neither by its callbacks nor by its metadata."""
    kept: list[RunnableConfig] = []

    async def keep() -> None:
        async def node(state: State, config: RunnableConfig) -> State:
            kept.append(config)
            return {}

        await wrap_graph(graph_of(node)).compile().ainvoke({})

    with recorded() as sink:
        in_request("alice", keep)
        in_request("nobody", lambda: bare(Sent({}, kept[0])))
        in_request("nobody", lambda: bare(Sent({}, {"metadata": kept[0]["metadata"]})))
    assert [(row.user_id, row.identity_reason) for row in sink.records] == [(None, "anonymous_request")] * 2


def test_identify_of_a_graph_may_name_a_user_in_an_anonymous_request() -> None:
    """It is the team's code."""
    graph = wrap_graph(graph_of(call_in_node), identify=lambda state, config: CallContext(user_id="alice")).compile()
    with recorded() as sink:
        in_request("nobody", lambda: graph.ainvoke({"user_id": "victim"}))
    assert [row.user_id for row in sink.records] == ["alice"]


class _Prefix(str):
    """Equals each text that begins like it."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and other.startswith(str(self))

    def __ne__(self, other: object) -> bool:
        return not self == other


def test_a_carried_identity_is_proved_within_its_process_alone() -> None:
    """It can be copied, pickled, compared, printed and stored, as the text that it stands beside."""
    mine = carrier("node:1", CarriedIdentity(CallContext(user_id="alice"), 7))
    assert mine == "node:1" == mine == carrier("node:1", mine.sent)
    assert mine != "node:2" != mine
    assert mine == _Prefix("node:")
    assert _Prefix("node:") == mine
    assert not mine != _Prefix("node:")  # noqa: SIM202  it asks the other method
    assert {"node:1": "found"}[mine] == "found"
    assert copy.copy(mine) is mine
    assert copy.deepcopy({"a": mine})["a"] is mine
    assert (str(mine), repr(mine), f"{mine}") == ("node:1", "'node:1'", "node:1")
    assert type(json.loads(json.dumps(mine))) is type(orjson.loads(orjson.dumps(mine))) is str
    assert JsonPlusSerializer().loads_typed(JsonPlusSerializer().dumps_typed({"a": mine})) == {"a": "node:1"}
    there = pickle.loads(pickle.dumps(mine))
    assert (there, carried_in({TASK_KEY: there})) == ("node:1", {"user_id": "alice"})
    assert pickle.loads(pickle.dumps(there)).sent == there.sent


def test_across_processes_a_signature_proves_it() -> None:
    """With the hand-over key; a forged one is data."""
    with recorded(handover_key="k" * 32) as sink:
        signed = pickle.loads(pickle.dumps(carrier("node:1", CarriedIdentity(CallContext(user_id="alice"), 7))))
        model.invoke("hello", {"metadata": {TASK_KEY: signed, "llmctx_user_id": "victim"}})
        model.invoke("hello", {"metadata": {CARRIED_KEY: signed.sent, "llmctx_user_id": "victim"}})
        forged = {**signed.sent, "user_id": "victim", "signed": signed.sent["signed"][:-3]}
        with bind(user_id="alice"):
            model.invoke("hello", {"metadata": {CARRIED_KEY: forged}})
            model.invoke("hello", {"metadata": {TASK_KEY: carrier("node:1", forged)}})
    assert [row.user_id for row in sink.records] == ["alice"] * 4


@pytest.mark.parametrize("text", ["\ud800", "x", "", "a.b", "\x00", "é" * 5000, "W10.x", None, 7, b"x"])
def test_any_text_is_refused_as_a_token(text: Any) -> None:
    """InvalidToken, or anonymous; never anything else."""
    handover.configure("k" * 32, "raise")
    try:
        with pytest.raises(InvalidToken), take_over(text):
            pass
        with take_over(text, on_invalid="anonymous") as identity:
            assert not identity
    finally:
        handover.configure(None, "raise")


def test_who_logs_in_on_a_websocket_is_named_from_then_on() -> None:
    """What was called before a login is nobody's; what comes after a logout as well."""

    async def endpoint(socket: Any) -> None:
        await socket.accept()
        await model.ainvoke("1")
        amend(user_id="bob", session_id="s-bob")
        await model.ainvoke("2")
        amend(user_id="alice", session_id="s-alice")
        await model.ainvoke("3")
        amend(user_id=None)
        await model.ainvoke("4")
        await socket.close()

    app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    with (
        recorded() as sink,
        TestClient(ContextMiddleware(app, identify=lambda connection: None)) as client,
        client.websocket_connect("/") as socket,
        contextlib.suppress(Exception),
    ):
        socket.receive_text()
    assert [(row.user_id, row.session_id) for row in sink.records] == [
        (None, None),
        ("bob", "s-bob"),
        ("alice", "s-alice"),
        (None, None),
    ]
    assert "conflict" not in [row.identity_reason for row in sink.records]


@pytest.mark.parametrize("between", ["at once", "logged out"])
@pytest.mark.parametrize("login", ["in the endpoint", "in a thread", "in a task"])
def test_a_task_of_the_user_before_is_never_the_next_users(login: str, between: str) -> None:
    """Started while alice was on the connection, they call when bob is: theirs is hers, or nobody's."""

    async def log_in() -> None:
        if between == "logged out":
            amend(user_id=None)
        amend(user_id="bob", session_id="s-bob")

    async def endpoint(socket: Any) -> None:
        await socket.accept()
        amend(user_id="alice", session_id="s-alice")
        turn = asyncio.Event()

        async def old(text: str) -> None:
            await turn.wait()
            await model.ainvoke(text)
            await asyncio.gather(model.ainvoke(text), asyncio.to_thread(model.invoke, text))

        async with asyncio.TaskGroup() as group:
            detached = asyncio.create_task(old("old"))
            group.create_task(old("old"))
            await socket.receive_text()
            if login == "in the endpoint":
                await log_in()
            elif login == "in a thread":
                await asyncio.to_thread(asyncio.run, log_in())
            else:
                await group.create_task(log_in())
            await model.ainvoke("new")
            await socket.receive_text()
            group.create_task(model.ainvoke("new"))
            await asyncio.gather(model.ainvoke("new"), asyncio.to_thread(model.invoke, "new"))
            turn.set()
            await detached
        with bind(conversation_id="c"):
            await model.ainvoke("new")
        amend(user_id=None)
        await model.ainvoke("anonymous")
        await socket.send_text("done")
        await socket.close()

    app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    with (
        recorded() as sink,
        TestClient(ContextMiddleware(app, identify=lambda connection: None)) as client,
        client.websocket_connect("/") as socket,
    ):
        socket.send_text("log in")
        socket.send_text("go on")
        assert socket.receive_text() == "done"
    users = {text: [row.user_id for row in sink.records if f'"{text}"' in row.prompt_snapshot] for text in WORDS}
    assert users["new"] == ["bob"] * 5
    assert users["anonymous"] == [None]
    assert len(users["old"]) == 6
    assert set(users["old"]) <= ({"alice"} if login == "in the endpoint" else {"alice", None})


WORDS = ("new", "old", "anonymous")


def test_a_scope_left_in_a_copy_of_its_context_restores_what_was_there() -> None:
    """A bridge between sync and async enters a scope in one thread and leaves it in another."""
    import contextvars

    from llmctx import current

    with bind(user_id="alice"):
        scope = bind(user_id="bob")
        contextvars.copy_context().run(scope.__enter__)
        here = bind(user_id="carol")
        here.__enter__()
        other = contextvars.copy_context()
        thread = threading.Thread(target=other.run, args=(here.__exit__, None, None, None))
        thread.start()
        thread.join()
        assert other.run(current).user_id == "alice"
        here.gen.close()  # type: ignore[attr-defined]  # of contextlib


def test_what_was_refused_is_explained(server: Server) -> None:
    """`show` says what data named, of a call and of a node, and why that was not believed."""
    with recorded() as sink:
        for place, path in (("metadata", bare), ("state", wrapped)):
            server.run("alice", path, PLACES[place]("victim"))
    for row in sink.records:
        columns = {"user_id": row.user_id, "identity_source": row.identity_source}
        outcomes = candidate_outcomes(columns, row.attributes["llmctx"])
        refused = [one for one in outcomes if one.source == "data"]
        assert [(one.user_id, one.believed, one.verdict.split(":")[0]) for one in refused] == [
            ("victim", False, "refused")
        ]


def test_doctor_says_what_trust_config_means() -> None:
    """Only where it is on."""
    (finding,) = trust(load(trust_config=True))
    assert "a client can be any user" in finding.cause
    assert trust(load()) == []
