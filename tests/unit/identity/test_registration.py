"""What the registries are told: threads that the team names, and those of a scope whose user changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from llmctx import CallContext, amend, bind
from llmctx.calllog import CallLog
from llmctx.core.record import CallRecord
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity.scope import Inside, Scope
from tests.kit.support import Talker


class Thread:
    """Calls in a bare thread that is given nothing but a thread_id."""

    def __init__(self) -> None:
        self._sink = MemorySink()
        self.call_log = CallLog(sink=self._sink)

    def call(self, thread_id: str) -> CallRecord:
        work = threading.Thread(target=lambda: Talker().invoke("hello", {"metadata": {"thread_id": thread_id}}))
        work.start()
        work.join()
        assert self.call_log.flush(60) == 0
        return self._sink.records[-1]


@pytest.fixture
def bare() -> Iterator[Thread]:
    thread = Thread()
    with thread.call_log:
        yield thread


@pytest.mark.parametrize("how", ["bind", "amend", "context"])
def test_a_thread_that_the_team_names_is_known_at_once(bare: Thread, how: str) -> None:
    """No graph has to run for it: whatever is given that thread_id afterwards knows whose call it makes."""
    ids = {"user_id": "ann", "session_id": "s"}
    if how == "bind":
        with bind(**ids, thread_id="t"):
            row = bare.call("t")
    elif how == "context":
        with bind(CallContext(**ids, thread_id="t")):
            row = bare.call("t")
    else:
        with bind(**ids):
            amend(thread_id="t")
            row = bare.call("t")
    assert (row.user_id, row.session_id, row.identity_source) == ("ann", "s", "thread")


def test_a_thread_that_two_users_name_names_neither(bare: Thread) -> None:
    """As with threads that graphs of two users ran on."""
    for user in ("ann", "bob"):
        with bind(user_id=user, thread_id="t"):
            pass
    row = bare.call("t")
    assert (row.user_id, row.identity_reason) == (None, "shared_thread")


@pytest.mark.parametrize("between", ["at once", "logged out"])
def test_a_thread_of_a_connection_whose_user_changes_names_neither(bare: Thread, between: str) -> None:
    """Registries keep the scope: what its first user's thread says must not become its second user's name."""
    socket = Scope(CallContext(user_id="ann"), "request")
    socket.is_socket = True
    with Inside(socket):
        amend(thread_id="t")
        assert bare.call("t").user_id == "ann"
        if between == "logged out":
            amend(user_id=None)
        amend(user_id="bob")
        row = bare.call("t")
    assert (row.user_id, row.identity_reason) == (None, "shared_thread")
