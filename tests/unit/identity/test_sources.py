"""Precedence is written once: `decide`'s fast path, the codes of a row and their explanation follow one list."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmctx import CallContext
from llmctx.core.record import Source
from llmctx.identity import reasons, sources
from llmctx.identity.candidates import gather
from llmctx.identity.config_carrier import CARRIED_KEY, pack
from llmctx.identity.registry import MemoryRegistry
from llmctx.identity.resolution import decide, decide_by_sources
from llmctx.identity.scope import EMPTY, Scope, enter, suspend

IDENTITIES = st.builds(
    CallContext, user_id=st.sampled_from([None, "a", "b"]), session_id=st.sampled_from([None, "s", "t"])
)


@settings(deadline=None)
@given(
    IDENTITIES,
    st.booleans(),
    st.booleans(),
    st.none() | IDENTITIES,
    st.none() | IDENTITIES,
    st.none() | IDENTITIES,
    st.none() | IDENTITIES,
    st.sampled_from([None, "used", "new"]),
    st.none() | IDENTITIES,
)
def test_the_fast_path_decides_as_the_list_does(
    identity: CallContext,
    is_open: bool,
    amended: bool,
    explicit: CallContext | None,
    sent: CallContext | None,
    carried: CallContext | None,
    of_thread: CallContext | None,
    thread_id: str | None,
    for_tracers: CallContext | None,
) -> None:
    """Whatever else is gathered, an open scope that knows everything is believed where the list would believe it."""
    registry = MemoryRegistry()
    handed_on = None if carried is None else Scope(carried, "bind")
    scope = Scope(identity, "bind")
    scope.threads.add("used")
    scope.conflict = amended
    if of_thread is not None:
        registry.put(Scope(of_thread, "bind"), thread_id=thread_id or "used")
    if identity:  # what has used a thread is one of those that the registry knows there (`registration.register`)
        registry.put(scope, thread_id="used")
    if not is_open:
        scope.close()
    metadata: dict[str, object] = {"thread_id": thread_id, "langgraph_checkpoint_ns": "n:1"}
    if sent is not None:
        metadata[CARRIED_KEY] = pack(sent)
    metadata |= pack(for_tracers or EMPTY)
    token = enter(scope)
    try:
        taken, weighed = (gather(metadata, explicit=explicit or EMPTY, carried=handed_on) for _ in range(2))
        ours, listed = decide(taken, registry), decide_by_sources(weighed, registry, 600.0)
    finally:
        suspend(token)
    assert (ours.source, ours.reason, ours.conflict) == (listed.source, listed.reason, listed.conflict)
    assert (ours.identity.user_id, ours.identity.session_id) == (listed.identity.user_id, listed.identity.session_id)


@pytest.mark.parametrize("key", ["session_id", "langfuse_session_id", "llmctx_session_id"])
def test_another_session_among_data_is_no_conflict(key: str) -> None:
    """The server's session holds, and nothing is noted: a tracer may call something else a session."""
    registry, found = MemoryRegistry(), []
    for session_id in ("s", None):
        token = enter(Scope(CallContext(user_id="a", session_id=session_id), "bind"))
        try:
            found.append(decide_by_sources(gather({key: "t"}), registry, 600.0))
        finally:
            suspend(token)
    assert [(one.identity.session_id, one.conflict) for one in found] == [("s", False), ("t", False)]


def test_every_source_has_a_place_a_name_and_a_sentence() -> None:
    """A source that is added to the list is known to the row, and `llmctx show` can explain it."""
    assert set(sources.RANK) == set(Source) - {Source.NONE}
    assert set(reasons.SOURCES) == set(Source)


def test_a_source_in_another_place_is_explained_in_that_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever moves a source in the list has moved it for `decide` too; nothing else knows the order."""
    registry = MemoryRegistry()
    registry.put(Scope(CallContext(user_id="b"), "bind"), thread_id="t")
    metadata = {"thread_id": "t", "llmctx_user_id": "a"}
    assert decide(gather(metadata), registry).source is Source.EXPLICIT
    monkeypatch.setattr(sources, "SOURCES", tuple(reversed(sources.SOURCES)))
    assert decide(gather(metadata), registry).source is Source.THREAD
