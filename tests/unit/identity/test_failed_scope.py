"""Where llmctx itself fails to find out, or to note, whose a call is: nobody is believed from there on.

`tests/promises/test_harmless.py` lets it fail at each line (`contested`); here stands what then is to come of it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmctx import CallContext, amend, bind, current
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.core.record import Source
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity.candidates import gather
from llmctx.identity.carry import run_in_failed_scope
from llmctx.identity.config_carrier import CARRIED_KEY, pack
from llmctx.identity.registration import node_scope, register
from llmctx.identity.registry import MemoryRegistry
from llmctx.identity.registry.base import Entry, is_unreliable, mark_unreliable
from llmctx.identity.resolution import UNDECIDED, Attribution, decide
from llmctx.identity.scope import EMPTY, FAILED_SCOPE, Scope, current_scope, enter, failed_scope, leave
from tests.faults.kit import MODEL

A = CallContext(user_id="a", session_id="s-a")
B = CallContext(user_id="b", session_id="s-b")


class Failing(MemoryRegistry):
    """A registry that may fail, as one of the team's own may."""

    fails = False

    def put(self, scope: Scope, *, thread_id: str | None = None, task: str | None = None) -> None:
        if self.fails:
            raise MemoryError
        super().put(scope, thread_id=thread_id, task=task)

    def get(self, *, thread_id: str | None = None, task: str | None = None) -> Entry | None:
        if self.fails:
            raise MemoryError
        return super().get(thread_id=thread_id, task=task)


@pytest.fixture
def of_b() -> MemoryRegistry:
    """B has used thread t, and works on task n:1."""
    registry = MemoryRegistry()
    registry.put(Scope(B, "bind"), thread_id="t", task="n:1")
    return registry


def ask(registry: MemoryRegistry, carried: Scope | None = None, **metadata: Any) -> Attribution:
    return decide(gather(metadata, carried=carried), registry)


def test_nobody_is_believed_in_a_scope_that_is_lost(of_b: MemoryRegistry) -> None:
    """Neither thread, task, nor what was carried or sent along; but who says outright whose a call is."""
    weaker = {"thread_id": "t", "langgraph_checkpoint_ns": "n:1", CARRIED_KEY: pack(B)}
    verdict = run_in_failed_scope(ask, of_b, Scope(B, "bind"), **weaker)
    assert verdict == UNDECIDED
    assert run_in_failed_scope(ask, of_b, llmctx_user_id="a", llmctx_session_id="s-a", **weaker).identity == A
    assert ask(of_b, carried=FAILED_SCOPE, thread_id="t") == UNDECIDED
    assert current_scope() is None


async def test_a_coroutine_is_awaited_in_a_scope_that_is_lost(of_b: MemoryRegistry) -> None:
    """Not only made there: its calls are not those of the worker's scope."""

    async def asked() -> Attribution:
        await asyncio.sleep(0)
        return ask(of_b, thread_id="t")

    with bind(B):
        assert await run_in_failed_scope(asked) == UNDECIDED
        assert current() == B


def test_what_is_bound_inside_is_not_filled_by_others(of_b: MemoryRegistry) -> None:
    """Half an identity stays half."""
    of_b.put(Scope(A, "bind"), thread_id="t-a")
    token = enter(FAILED_SCOPE)
    with bind(session_id="s-a"):
        assert ask(of_b, thread_id="t").identity == CallContext(session_id="s-a")
    with bind(user_id="a"):
        assert ask(of_b, thread_id="t-a").identity == CallContext(user_id="a")
    with bind(A):
        assert ask(of_b, thread_id="t-a") == Attribution(A, Source.CONTEXT)
    leave(FAILED_SCOPE, token)


def test_the_last_resort_is_everybodys_and_takes_no_identity() -> None:
    """A scope of its own does: a request whose scope failed may learn its user later."""
    token = enter(FAILED_SCOPE)
    amend(user_id="a")
    assert current() is EMPTY
    leave(FAILED_SCOPE, token)
    assert FAILED_SCOPE.is_open
    own = failed_scope("request")
    token = enter(own)
    amend(user_id="a", session_id="s-a")
    assert ask(MemoryRegistry()).identity == A
    leave(own, token)


def test_a_node_in_a_lost_scope_is_whose_its_input_says_now(of_b: MemoryRegistry) -> None:
    """State may be of whoever has used the thread before."""
    told: dict[str, Any] = {"metadata": None, "task": None, "registries": [of_b]}
    token = enter(FAILED_SCOPE)
    assert node_scope(B, persisted=True, thread_id="t", **told).failed
    assert not node_scope(A, persisted=False, thread_id="t-a", **told).failed
    leave(FAILED_SCOPE, token)
    assert is_unreliable("t", None)
    assert not is_unreliable("t-a", None)


def test_a_use_that_could_not_be_filed_silences_its_thread() -> None:
    """It might have made the thread a shared one."""
    registry = Failing()
    registry.put(Scope(B, "bind"), thread_id="t")
    assert ask(registry, thread_id="t").identity == B
    registry.fails = True
    with bind(A):
        scope = current_scope()
        assert scope is not None
        register(scope, [registry], thread_id="t", task="n:1")
    registry.fails = False
    assert ask(registry, thread_id="t") == UNDECIDED
    assert ask(registry, thread_id="other", langgraph_checkpoint_ns="n:1|m:2") == UNDECIDED
    with bind(A):
        assert ask(registry, thread_id="t").identity == A


def test_doubts_are_bounded() -> None:
    """However many there are, those threads stay unreliable, and hardly another one becomes so."""
    for number in range(20_000):
        mark_unreliable(f"t-{number}")
    assert all(is_unreliable(f"t-{number}", None) for number in range(20_000))
    assert sum(is_unreliable(f"other-{number}", None) for number in range(1_000)) < 10


def test_a_registry_that_cannot_be_asked_names_nobody() -> None:
    """Not even when the row is made, a moment later, where other tasks run."""
    sink, registry = MemorySink(), Failing()
    registry.put(Scope(B, "bind"), thread_id="t")
    before = diagnostics.by_cause().get("handler_failed", 0)
    with CallLog(sink=sink, registry=registry):
        registry.fails = True
        MODEL.invoke("of a", {"configurable": {"thread_id": "t"}})
        registry.fails = False
    (row,) = sink.records
    assert (row.user_id, row.identity_source, row.identity_reason) == (None, "none", "internal_error")
    assert diagnostics.by_cause()["handler_failed"] > before
