"""The quick way into a node's scope comes to what the judge would come to."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmctx.graph.node_identity import _inside
from llmctx.identity.config_carrier import CARRIED_KEY, pack
from llmctx.identity.registration import node_scope
from llmctx.identity.registry import Entry, MemoryRegistry
from llmctx.identity.registry.base import active
from llmctx.identity.scope import EMPTY, CallContext, Scope, enter, suspend

ids = st.sampled_from([None, "a", "b"])
people = st.builds(CallContext, user_id=ids, session_id=ids)
known = st.fixed_dictionaries({}, optional={"agent_key": st.just("triage"), "user_id": st.sampled_from(["a", "b"])})
kinds = st.sampled_from(["request", "bind", "job"])
threads = st.sampled_from([None, "t", "t2"])


@settings(max_examples=300, deadline=None)
@given(
    around=st.none() | st.tuples(people, kinds), told=known, sent=st.none() | people, thread=threads, node=st.booleans()
)
def test_the_short_cut_leads_where_the_long_way_leads(
    around: tuple[CallContext, str] | None,
    told: dict[str, Any],
    sent: CallContext | None,
    thread: str | None,
    node: bool,
) -> None:
    """Whatever is around a node and whatever it knows: same identity, and the registry learns the same."""
    metadata = {} if sent is None else {CARRIED_KEY: pack(sent)}

    def run(quick: bool) -> tuple[CallContext, Entry | None, Entry | None] | None:
        registry = MemoryRegistry()
        active.append(registry)
        outer = None if around is None else Scope(around[0], around[1])
        if outer is not None:
            outer.threads.add("t")
            if node:
                outer = Scope(outer.identity, "node", outer)
                outer.threads.add("t")
        token = enter(outer) if outer is not None else None
        try:
            if quick:
                scope = _inside(told, metadata, thread, "n:1")
            else:
                found = CallContext(**told) if told else EMPTY
                scope = node_scope(
                    found, persisted=False, metadata=metadata, thread_id=thread, task="n:1", registries=[registry]
                )
            if scope is None:
                return None
            return scope.identity, registry.get(task="n:1"), registry.get(thread_id=thread or "-")
        finally:
            active.remove(registry)
            if token is not None:
                suspend(token)

    quick = run(quick=True)
    if quick is None:
        return
    slow = run(quick=False)
    assert slow is not None
    assert quick[0] == slow[0]
    for one, other in zip(quick[1:], slow[1:], strict=True):
        assert (one and one.identity) == (other and other.identity)
