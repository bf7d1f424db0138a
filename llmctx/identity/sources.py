"""The sources of a call's identity, in the one order in which they are believed: `SOURCES`.

To add a source: a function here and its line in `SOURCES`, a member of `core.record.Source`, a sentence in
`reasons.SOURCES`; if it reads something new of the call, a field of `candidates.Candidates`; if it may come before an
open scope, its condition in the fast paths (`resolution.decide`, `graph.node_identity`). Everything else follows this
list: what `decide` believes, what fills and what contradicts it, what a row keeps of it, and how `llmctx show`
explains it.

Each function returns the identity by which its source names the call's owner; None, or an empty one, where it does not
know, or must not be believed about this call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from llmctx.core.record import Source
from llmctx.identity.authority import Kind, borrows_nothing
from llmctx.identity.candidates import Candidates
from llmctx.identity.registry.base import Entry, Registry, is_unreliable
from llmctx.identity.scope import EMPTY, CallContext, Scope, with_parents


def _explicit(candidates: Candidates, registry: Registry, late_s: float) -> CallContext | None:
    """Return the identity that this very call was given."""
    return None if candidates.explicit is EMPTY else candidates.explicit


def _context(candidates: Candidates, registry: Registry, late_s: float) -> CallContext | None:
    """Return the open scope, unless one that was handed on is nearer."""
    scope = candidates.own_scope
    if scope is None or not candidates.scope_open or _is_nearer(candidates.carried, scope):
        return None
    return scope.identity


def _sent(candidates: Candidates, registry: Registry, late_s: float) -> CallContext | None:
    """Return the identity in the call's metadata, unless a worker has inherited it with the scope of its start."""
    scope, sent = candidates.scope, candidates.sent
    if sent is EMPTY:
        return None
    if scope is not None:
        if scope.displaced is not None and sent.user_id == scope.displaced.identity.user_id:
            return None
        if candidates.inherited_by_worker is not False and sent.agrees(scope.identity):
            return None
    return sent


def _carried(candidates: Candidates, registry: Registry, late_s: float) -> CallContext | None:
    """Return the scope that came with the callbacks, unless a worker was started in it or others use the thread."""
    scope, carried, thread = candidates.scope, candidates.carried, candidates.thread
    if carried is None:
        return None
    if scope is not None and (
        scope.displaced is carried or (candidates.inherited_by_worker is not False and carried.anchor is scope.anchor)
    ):
        return None
    if thread is not None and candidates.thread_id not in carried.threads and thread.last > carried.serial:
        return None
    return carried.identity


def _task(candidates: Candidates, registry: Registry, late_s: float) -> CallContext | None:
    """Ask the registry by LangGraph's task."""
    if candidates.task is None or is_unreliable(candidates.thread_id, candidates.task) or _is_anonymous(candidates):
        return None
    entry = registry.get(task=candidates.task)
    if entry is None:
        return None
    own = candidates.own_scope
    if own is not None and own.of_request and not own.is_open and own.identity.user_id != entry.identity.user_id:
        return None  # what is left of a request is not another's, for naming that one's task
    return entry.identity


def _is_anonymous(candidates: Candidates) -> bool:
    return borrows_nothing(candidates.scope if candidates.scope is not None else candidates.carried)


def _thread(candidates: Candidates, registry: Registry, late_s: float) -> CallContext | None:
    """Ask the registry by thread_id. An anonymous request must not borrow a user's name by naming a thread."""
    thread, own = candidates.thread, candidates.own_scope
    if thread is None or candidates.inherited_by_worker is None or is_unreliable(candidates.thread_id, candidates.task):
        return None
    if _is_anonymous(candidates) or (own is not None and _is_of_others(thread, own)):
        return None
    return thread.identity


def _late(candidates: Candidates, registry: Registry, late_s: float) -> CallContext | None:
    """Return the scope, if it has closed not long ago, or what it began goes on still."""
    scope = outlived_scope(candidates.own_scope)
    if scope is None or scope.closed_at is None:
        return None
    if candidates.started - scope.closed_at > late_s and not candidates.is_lasting:
        return None
    # a forked process may be one of a pool, that works for other users than the one that caused it
    if scope.kind == "fork" and candidates.thread_id is not None and candidates.thread_id not in scope.threads:
        return None
    inner = candidates.own_scope
    return scope.identity if inner is None or inner is scope else scope.identity.overlay(inner.identity)


def outlived_scope(scope: Scope | None) -> Scope | None:
    """Return `scope` if it has closed, or the closed one around a block in which a user is still to be named."""
    while scope is not None and scope.is_open and scope.kind == "bind" and scope.identity.user_id is None:
        scope = scope.parent
    return None if scope is None or scope.is_open else scope


def _data(candidates: Candidates, registry: Registry, late_s: float) -> CallContext | None:
    """Return ids in the metadata that fill what is missing. They never name a user by themselves."""
    data = candidates.data
    return data.without_people() if data.user_id is not None else data


def _for_tracers(candidates: Candidates, registry: Registry, late_s: float) -> CallContext | None:
    """Return ids that the application has put into the metadata for another tracer."""
    return candidates.for_tracers


class Rule(NamedTuple):
    """One source, and how its answer is found."""

    source: Source
    find: Callable[[Candidates, Registry, float], CallContext | None]
    kind: Kind
    """Whose word it is. Where the server's counts, `candidates.explicit` and `sent` hold no data."""


SOURCES: Final = (
    Rule(Source.EXPLICIT, _explicit, Kind.SERVER),
    Rule(Source.CONTEXT, _context, Kind.SERVER),
    Rule(Source.CARRIED, _sent, Kind.PROVEN),
    Rule(Source.CARRIED, _carried, Kind.PROVEN),
    Rule(Source.TASK, _task, Kind.PROVEN),
    Rule(Source.THREAD, _thread, Kind.PROVEN),
    Rule(Source.LATE, _late, Kind.SERVER),
    Rule(Source.EXPLICIT, _data, Kind.DATA),
    Rule(Source.EXPLICIT, _for_tracers, Kind.DATA),
)
"""Strongest first. The fast paths `resolution.decide` and `graph.node_identity` take what this list would come to."""

RANK: Final = {str(source): rank for rank, source in enumerate(dict.fromkeys(rule.source for rule in SOURCES))}
"""The place of each source in that order, by its name in rows."""


def answers_by_source(candidates: Candidates, registry: Registry, late_s: float) -> list[tuple[Source, CallContext]]:
    """Return what each source says of the call, strongest first, without those that know neither user nor session."""
    return [
        (source, who)
        for source, find, _ in SOURCES
        if (who := find(candidates, registry, late_s)) is not None and (who.user_id or who.session_id)
    ]


def _is_nearer(carried: Scope | None, scope: Scope) -> bool:
    """Return whether a scope that was handed on with the callbacks is nearer: opened later, for another user.

    A worker inside of A's open request is given B's config: callbacks are handed on by hand, contexts inherited.
    """
    if carried is None or not carried.identity or carried.identity.agrees(scope.identity):
        return False
    if scope.kind == "thread":
        return all(one is not carried for one in with_parents(scope))
    return carried.serial > scope.serial and scope.kind != "node"


def _is_of_others(thread: Entry, scope: Scope) -> bool:
    """Return whether others use the thread on which the own work of a request goes on that is over. Of a request that
    knows no user that is so if they used it before.
    """
    mine, theirs = scope.identity.user_id, thread.identity.user_id
    return not scope.is_open and theirs != mine and (mine is not None or thread.last < scope.serial)
