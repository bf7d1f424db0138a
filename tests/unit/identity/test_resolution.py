"""Which witness is believed: the order of design, its one exception, and what is never mixed."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from llmctx import CallContext, bind
from llmctx.core.record import Reason, Source
from llmctx.identity.candidates import gather
from llmctx.identity.config_carrier import CARRIED_KEY, pack
from llmctx.identity.present_scope import current
from llmctx.identity.registration import node_scope, register
from llmctx.identity.registry import MemoryRegistry
from llmctx.identity.resolution import LATE_S, Attribution, complete_late, decide, decide_by_sources
from llmctx.identity.scope import EMPTY, Scope, current_scope, enter, leave

A = CallContext(user_id="a", session_id="s-a")
B = CallContext(user_id="b", session_id="s-b")


def known(thread: CallContext | None = None, task: CallContext | None = None) -> MemoryRegistry:
    registry = MemoryRegistry()
    if thread is not None:
        registry.put(Scope(thread, "bind"), thread_id="t")
    if task is not None:
        registry.put(Scope(task, "node"), task="n:1")
    return registry


def ask(registry: MemoryRegistry | None = None, **told: object) -> Attribution:
    metadata = {key: value for key, value in told.items() if key not in ("explicit", "carried")}
    explicit = told.get("explicit", EMPTY)
    carried = told.get("carried")
    assert isinstance(explicit, CallContext)
    assert carried is None or isinstance(carried, Scope)
    candidates = gather(metadata, explicit=explicit, carried=carried)
    return decide(candidates, registry or MemoryRegistry())


def test_an_open_scope_is_believed() -> None:
    """The usual case: the call is made inside of the request."""
    with bind(A):
        verdict = ask()
    assert verdict == Attribution(A, Source.CONTEXT)


def test_the_order_of_witnesses() -> None:
    """Explicit, context, carried, task, thread, late: the first that testifies wins."""
    carried = Scope(A, "bind")
    everything = known(thread=B, task=B)
    sent = {CARRIED_KEY: pack(A)}
    with bind(B):
        assert ask(explicit=A).source is Source.EXPLICIT
        # The server knows B: data that name A are refused.
        assert ask(llmctx_user_id="a", llmctx_session_id="s-a") == Attribution(B, Source.CONTEXT, Reason.CONFLICT, True)
        assert ask(carried=carried, **sent).source is Source.CONTEXT
        late = contextvars.copy_context()
    assert ask(llmctx_user_id="a", llmctx_session_id="s-a") == Attribution(A, Source.EXPLICIT)
    assert ask(everything, carried=carried).source is Source.CARRIED
    assert ask(everything, **sent) == Attribution(A, Source.CARRIED)
    assert ask(everything, thread_id="t", langgraph_checkpoint_ns="n:1").source is Source.TASK
    assert ask(everything, thread_id="t") == Attribution(B, Source.THREAD)
    assert late.run(ask) == Attribution(B, Source.LATE)
    assert ask() == Attribution(EMPTY, Source.NONE, Reason.NO_SCOPE)


def test_a_closed_scope_yields_to_the_registry() -> None:
    """A worker that was started in A's request, which has ended, works on B's thread."""
    with bind(A):
        worker = contextvars.copy_context()
    assert worker.run(ask, known(thread=B), thread_id="t") == Attribution(B, Source.THREAD)


def test_a_closed_scope_testifies_for_a_limited_time_only() -> None:
    """A context that has been closed for long says nothing about the present."""
    with bind(A):
        context = contextvars.copy_context()
    candidates = context.run(gather, {})
    assert decide(candidates, MemoryRegistry(), late_s=0.0).reason is Reason.EXPIRED_SCOPE


async def asked_in_a_task(registry: MemoryRegistry) -> Attribution:
    return ask(registry, thread_id="t")


@pytest.mark.parametrize("registered", ["before", "since"])
async def test_a_worker_started_in_an_open_request_works_for_somebody_else(registered: str) -> None:
    """The exception: a task that the request does not wait for, on a thread that others have registered meanwhile.

    Registered before, it may as well be the request's own work on a thread that it has taken over: nobody is believed.
    """
    registry = known(thread=B) if registered == "before" else MemoryRegistry()
    jobs = asyncio.Queue[str]()
    jobs.put_nowait("t")

    async def work() -> Attribution:
        return ask(registry, thread_id=await jobs.get())

    with bind(A):
        worker = asyncio.create_task(work())
        if registered == "since":
            registry.put(Scope(B, "bind"), thread_id="t")
        while not worker.done():
            await asyncio.sleep(0)
        since = Attribution(B, Source.THREAD)
        assert worker.result() == (
            since if registered == "since" else Attribution(EMPTY, Source.NONE, Reason.SHARED_THREAD)
        )


async def test_what_a_request_waits_for_is_its_own() -> None:
    """Two users at once on one thread: neither the task, nor what it gathers or puts into a group, is the other's."""
    registry = known()
    with bind(A):
        registry.put(Scope(B, "bind"), thread_id="t")
        assert ask(registry, thread_id="t").identity == A
        (gathered,) = await asyncio.gather(asked_in_a_task(registry))
        async with asyncio.TaskGroup() as group:
            grouped = group.create_task(asked_in_a_task(registry))
        waited = await asyncio.wait_for(asked_in_a_task(registry), 60)
        shielded = await asyncio.shield(asked_in_a_task(registry))
        deep = await asyncio.gather(asyncio.gather(asked_in_a_task(registry)))
    assert {gathered.identity, grouped.result().identity, waited.identity, shielded.identity} == {A}
    assert deep[0][0].identity == A


async def test_where_nobody_can_tell_nobody_is_named() -> None:
    """A pooled thread with A's context, on a thread that B has begun to use: a job of A's, or a worker's for B."""
    registry = MemoryRegistry()
    with bind(A):
        registry.put(Scope(B, "bind"), thread_id="t")
        verdict = await asyncio.to_thread(ask, registry, thread_id="t")
    assert verdict == Attribution(EMPTY, Source.NONE, Reason.SHARED_THREAD)


def test_an_anonymous_request_borrows_nobodys_name_from_a_thread_in_use() -> None:
    """The victim has used the thread since the anonymous request began: that does not make the two one."""
    scope = Scope(CallContext(trace_id="x"), "request")
    token = enter(scope)
    try:
        verdict = ask(known(thread=B), thread_id="t")
    finally:
        leave(scope, token)
    assert (verdict.identity, verdict.reason) == (EMPTY, Reason.ANONYMOUS_REQUEST)


def test_a_request_that_runs_on_somebody_elses_thread_keeps_its_own_name() -> None:
    """Naming a victim's thread does not make one the victim: running the graph registers the thread."""
    registry = known(thread=B)
    with bind(A):
        scope = current_scope()
        assert scope is not None
        register(scope, [registry], thread_id="t")
        assert ask(registry, thread_id="t").identity == A
    assert ask(registry, thread_id="t") == Attribution(EMPTY, Source.NONE, Reason.SHARED_THREAD)


def test_an_anonymous_request_borrows_nobodys_name() -> None:
    """It brings B's thread_id: its calls stay without ids."""
    scope = Scope(CallContext(trace_id="x"), "request")
    token = enter(scope)
    try:
        registry = known(thread=B)
        scope.threads.add("t")
        verdict = ask(registry, thread_id="t")
    finally:
        leave(scope, token)
    assert (verdict.identity, verdict.reason) == (EMPTY, Reason.ANONYMOUS_REQUEST)


def test_two_people_are_never_mixed_into_one_row() -> None:
    """The winner knows no session; one that belongs to somebody else's user does not fill it."""
    with bind(user_id="a"):
        verdict = ask(known(task=B), langgraph_checkpoint_ns="n:1")
    assert verdict.identity == CallContext(user_id="a")
    assert (verdict.conflict, verdict.reason) == (True, Reason.CONFLICT)


def test_a_witness_that_agrees_fills_what_is_empty() -> None:
    """The scope knows the user, the thread knows the session of that user."""
    with bind(user_id="a"):
        scope = current_scope()
        assert scope is not None
        scope.threads.add("t")
        assert ask(known(thread=A), thread_id="t") == Attribution(A, Source.CONTEXT)


def test_what_was_unknown_may_be_learned_later_and_what_was_known_stays() -> None:
    """The registry learns the thread, or the scope is amended, while the call is on its way."""
    registry = MemoryRegistry()
    candidates = gather({"thread_id": "t"})
    verdict = decide(candidates, registry)
    assert verdict.reason is Reason.UNKNOWN_THREAD
    registry.put(Scope(A, "bind"), thread_id="t")
    assert complete_late(verdict, candidates, registry) == Attribution(A, Source.THREAD)
    assert (
        complete_late(Attribution(CallContext(user_id="b"), Source.CONTEXT), candidates, registry).identity.user_id
        == "b"
    )


def test_a_scope_that_learns_its_user_late_is_asked_again() -> None:
    """Authentication further in than the middleware: the scope asks for it when the first call comes."""
    scope = Scope(CallContext(session_id="s-a"), "request")
    scope.refresh = lambda: CallContext(user_id="a")
    token = enter(scope)
    try:
        assert ask().identity == A
    finally:
        leave(scope, token)


def in_node(found: CallContext, registry: MemoryRegistry, *, persisted: bool = False) -> CallContext:
    scope = node_scope(found, persisted=persisted, metadata={}, thread_id="t", task="n:1", registries=[registry])
    token = enter(scope)
    try:
        return current()
    finally:
        leave(scope, token)


def test_a_node_lays_its_ids_over_the_scope_around_it() -> None:
    """A node that knows its session, inside of a request that knows the user."""
    with bind(user_id="a"):
        assert in_node(CallContext(session_id="s-a"), MemoryRegistry()) == A


def test_state_that_is_older_than_the_request_does_not_rename_it() -> None:
    """B takes over A's thread; the graph's state still names A."""
    registry = known(thread=A)
    with bind(B):
        assert in_node(A, registry, persisted=True) == B


def test_ids_that_come_with_the_input_are_believed() -> None:
    """A worker inside of A's open request runs a new thread whose input names B."""
    with bind(A):
        assert in_node(B, MemoryRegistry(), persisted=True) == B


def test_a_node_registers_thread_and_task() -> None:
    """What ran there can be known by its thread and by its task afterwards."""
    registry = MemoryRegistry()
    with bind(A):
        in_node(EMPTY, registry)
    for key in ({"thread_id": "t"}, {"task": "n:1"}):
        entry = registry.get(**key)
        assert entry is not None
        assert entry.identity == A


def test_hearing_keeps_no_thread_that_is_not_there() -> None:
    """An empty thread_id is none, a number is a text."""
    assert gather({"thread_id": ""}).thread_id is None
    assert gather({"thread_id": 7}).thread_id == "7"
    assert gather(None).thread_id is None


@pytest.mark.parametrize(
    "told",
    [
        {"user_id": "a", "session_id": "s-a"},
        {"user_id": "a"},
        {"langfuse_session_id": "s-a"},
        {"conversation_id": "c"},
        {"user_id": "a", "llmctx_session_id": "s-b"},
        {"user_id": "a", "thread_id": "t"},
        {"user_id": "a", "session_id": "s-a", CARRIED_KEY: pack(B)},
    ],
)
def test_ids_for_tracers_alone_are_believed_as_among_all_sources(told: dict[str, object]) -> None:
    """`decide` need not ask every source where only one can answer, and comes to the same."""
    found, asked = decide(gather(told), MemoryRegistry()), decide_by_sources(gather(told), MemoryRegistry(), LATE_S)
    assert found == asked
    assert list(found.answers) == list(asked.answers)
