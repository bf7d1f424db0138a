"""Decide whose call it is, by the sources that were gathered at its start (`candidates.py`).

A source gives a whole identity; two that name different people are never mixed into one row. The first that answers, in
the order of `sources.SOURCES`, is believed. No user is better than a wrong one: where no source answers, the ids
stay None, with a reason. `worker_inheritance.py` tells whether a scope is the call's own or was inherited by a worker.

`decide` changes nothing and may be asked again later, when the registry or an amended scope knows more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from llmctx.core.record import Reason, Source
from llmctx.identity import remote
from llmctx.identity.authority import is_foreign, refuse
from llmctx.identity.await_graph import is_part_of
from llmctx.identity.background_work import await_light, is_in_the_dark, is_lasting, mark_as_worker, note_early
from llmctx.identity.candidates import Candidates
from llmctx.identity.registry.base import Registry, is_unreliable
from llmctx.identity.scope import EMPTY, CallContext, Scope
from llmctx.identity.sources import answers_by_source, outlived_scope
from llmctx.identity.worker_inheritance import is_inherited_by_worker

LATE_S: Final = 600.0
"""How long, in seconds, a scope is believed that has closed."""


@dataclass(slots=True)
class Attribution:
    """The owner that was found for a call. `conflict` means that another source named another user."""

    identity: CallContext
    source: Source
    reason: Reason | None = None
    conflict: bool = False
    answers: Sequence[tuple[Source, CallContext]] = field(default=(), compare=False)
    """What each source said, where several were asked; the strongest first."""
    marker: tuple[object, bytes] | None = field(default=None, compare=False, repr=False)
    """What the journal notes of such a call, and what else that depends on (`delivery.row.marker_of`)."""


UNDECIDED: Final = Attribution(EMPTY, Source.NONE, Reason.INTERNAL_ERROR)


def decide(candidates: Candidates, registry: Registry, *, late_s: float = LATE_S) -> Attribution:
    """Return whose call it is, by `candidates` and what `registry` knows by now."""
    scope = candidates.scope
    if (
        candidates.scope_open
        and scope is not None
        and scope.identity.user_id is not None
        and scope.identity.session_id is not None
        and (candidates.explicit is EMPTY or not candidates.explicit)
        and not candidates.refused
        and (candidates.data is EMPTY or candidates.data.overlay(scope.identity) == scope.identity)
        and candidates.for_tracers is EMPTY
        and (candidates.thread_id is None or candidates.thread_id in scope.threads)
        and (candidates.sent is EMPTY or candidates.sent.agrees(scope.identity))
        and (candidates.carried is None or candidates.carried.identity.agrees(scope.identity))
    ):
        # The common case: an open scope that knows everything, and no source that could object.
        known: Attribution | None = scope.attribution
        if known is None or known.identity is not scope.identity or known.conflict is not scope.conflict:
            reason = Reason.CONFLICT if scope.conflict else None
            scope.attribution = known = Attribution(scope.identity, Source.CONTEXT, reason, scope.conflict)
        return known
    if (
        scope is None
        and candidates.for_tracers
        and candidates.explicit is EMPTY
        and candidates.sent is EMPTY
        and candidates.data is EMPTY
        and candidates.carried is None
        and candidates.task is None
        and candidates.thread_id is None
        and not candidates.refused
        and not candidates.failed
    ):
        return _only_for_tracers(candidates.for_tracers)
    if candidates.failed or (
        scope.failed if scope is not None else candidates.carried is not None and candidates.carried.failed
    ):
        return _resolve_in_failed_scope(candidates)
    return decide_by_sources(candidates, registry, late_s)


def _only_for_tracers(identity: CallContext) -> Attribution:
    """Return what `decide_by_sources` finds outside of scopes, graphs and threads, where only the metadata name ids."""
    known = identity.user_id is not None and identity.session_id is not None
    answer = Source.EXPLICIT, identity
    return Attribution(identity, Source.EXPLICIT, None if known else Reason.PARTIAL, answers=(answer,))


def _resolve_in_failed_scope(candidates: Candidates) -> Attribution:
    """Return whose call it is where llmctx has failed: what the call or the open scope says outright, or no user's."""
    if candidates.failed:
        return UNDECIDED
    scope = candidates.scope
    amended = scope.identity if scope is not None and candidates.scope_open else EMPTY
    source = Source.EXPLICIT if candidates.explicit else Source.CONTEXT
    identity = candidates.explicit or amended
    if not identity:
        return UNDECIDED
    known = identity.user_id is not None and identity.session_id is not None
    return Attribution(identity, source, None if known else Reason.INTERNAL_ERROR, scope is not None and scope.conflict)


def decide_by_sources(candidates: Candidates, registry: Registry, late_s: float) -> Attribution:
    """Decide by asking every source, as `decide` does where its fast path does not apply."""
    thread = registry.get(thread_id=candidates.thread_id) if candidates.thread_id is not None else None
    candidates.thread = thread
    scope, is_start, is_workers = candidates.scope, not candidates.decided_at_start, False
    if scope is not None and is_start:  # only here and now is it the caller's task that runs
        candidates.inherited_by_worker = is_inherited_by_worker(
            scope,
            candidates.thread_id,
            thread,
            candidates.sent,
            candidates.carried,
            candidates.sent_request,
            candidates.here,
            is_final=False,
        )
        is_workers = candidates.inherited_by_worker is not False
        candidates.is_in_the_dark = candidates.inherited_by_worker is None or (is_workers and is_in_the_dark())
        _ask_long_work(candidates, scope, late_s)
        if candidates.inherited_by_worker is False:
            candidates.is_own_work = remote.is_own_work(scope, candidates.thread_id, candidates.sent, (registry,))
            candidates.inherited_by_worker = False if candidates.is_own_work is True else None
        if candidates.inherited_by_worker is False and candidates.scope_open and scope.of_request:
            _drop_foreign(candidates, scope)
    elif scope is not None and candidates.is_own_work is not True and candidates.registry_answered is not None:
        candidates.inherited_by_worker = remote.is_inherited_by_worker(
            scope, candidates.scope_open, candidates.is_own_work, thread, answered=candidates.registry_answered
        )
    candidates.decided_at_start = True
    candidates.own_scope = scope if candidates.inherited_by_worker is False else None
    found = answers_by_source(candidates, registry, late_s)
    is_to_note = not candidates.is_in_the_dark if is_workers else not candidates.scope_open
    if is_start and scope is not None and is_to_note:
        of_others = bool(found) and found[0][1].user_id not in (None, scope.identity.user_id)
        _note_work(candidates, scope, late_s, is_workers=is_workers or of_others)
    if not found:
        return Attribution(EMPTY, Source.NONE, _why_nobody(candidates))
    source, identity = found[0]
    conflict = scope is not None and scope.conflict and source is Source.CONTEXT
    for other_source, other in found[1:]:
        if identity.agrees(other):
            identity = other.overlay(identity)
        elif other_source is not Source.LATE and (other.user_id is not None or other_source is not Source.EXPLICIT):
            # A closed scope that differs from the registry is a worker doing its next job, not a contradiction. Nor is
            # another session among data, which name no user: a tracer may call something else a session.
            conflict = conflict or other.user_id != identity.user_id
    data = candidates.data
    if data is not EMPTY and data.user_id in (None, identity.user_id) and data.agrees(identity):
        identity = data.overlay(identity)
    if identity.user_id is not None and any(who.user_id != identity.user_id for who in candidates.refused):
        conflict = True
    reason = _why_odd(identity, candidates, conflict)
    return Attribution(identity, source, reason, conflict, found)


def _ask_long_work(candidates: Candidates, scope: Scope, late_s: float) -> None:
    closed = outlived_scope(scope)
    if closed is not None and closed.closed_at is not None and candidates.started - closed.closed_at > late_s:
        is_dark = is_in_the_dark()  # first: if something waits for it by now, that is found as well
        candidates.is_lasting = is_lasting(closed)
        candidates.is_in_the_dark = is_dark and not candidates.is_lasting


def _note_work(candidates: Candidates, scope: Scope, late_s: float, *, is_workers: bool) -> None:
    """Note, of what runs here in a scope that has closed or was inherited, whether it works for that or for others."""
    if is_workers:
        mark_as_worker(scope)
    elif scope.closed_at is not None and candidates.started - scope.closed_at <= late_s:
        candidates.is_in_the_dark = note_early(scope)


def recheck_waiters(candidates: Candidates, late_s: float) -> None:
    """See, where a call ends, who waits for what runs there: in a pool's thread that may not be seen at its start."""
    scope = candidates.scope
    candidates.is_in_the_dark = False
    await_light()
    if scope is not None and candidates.inherited_by_worker is not False and candidates.is_own_work is True:
        candidates.inherited_by_worker = is_inherited_by_worker(
            scope,
            candidates.thread_id,
            candidates.thread,
            candidates.sent,
            candidates.carried,
            candidates.sent_request,
            candidates.here,
        )
        candidates.is_seen_anew = candidates.inherited_by_worker is False
        if not candidates.is_seen_anew:
            mark_as_worker(scope)
    if scope is None or candidates.scope_open:
        if scope is not None:
            note_early(scope)
        return
    _ask_long_work(candidates, scope, late_s)
    _note_work(candidates, scope, late_s, is_workers=False)
    candidates.is_in_the_dark = False


def _drop_foreign(candidates: Candidates, scope: Scope) -> None:
    """Drop what came along from another request (a config that was kept), in an open request's own work."""
    carried, sent = candidates.carried, candidates.sent
    if carried is not None and (
        carried.of_request == scope.of_request or not is_foreign(scope, carried.identity, carried.of_request)
    ):
        carried = None
    sent_request = candidates.sent_request
    is_kept = sent_request not in (0, scope.of_request) and is_foreign(scope, sent, sent_request)
    if carried is None and not is_kept:
        return
    if scope.identity.user_id is not None and is_part_of(scope) is not True:
        return  # where it cannot be told whether a worker runs here, the nearer one is believed
    if carried is not None:
        candidates.refused = (*candidates.refused, carried.identity)
        candidates.carried = None
    if is_kept:
        candidates.refused = (*candidates.refused, sent)
        candidates.sent = EMPTY
    refuse((scope.identity.user_id,))


def _why_nobody(candidates: Candidates) -> Reason:
    scope, thread = candidates.scope, candidates.thread
    if is_unreliable(candidates.thread_id, candidates.task):
        return Reason.INTERNAL_ERROR
    if (
        candidates.registry_answered is False
        and thread is None
        and (scope is None or candidates.inherited_by_worker is not False)
    ):
        return Reason.REGISTRY_AWAY
    if candidates.inherited_by_worker is None or (thread is not None and thread.shared):
        return Reason.SHARED_THREAD
    if scope is not None and not candidates.inherited_by_worker:
        if scope.reason is not None:
            return Reason(scope.reason)
        if scope.anonymous:
            return Reason.ANONYMOUS_REQUEST
        if scope.identity and not candidates.scope_open:
            return Reason.EXPIRED_SCOPE
    return Reason.UNKNOWN_THREAD if candidates.thread_id is not None else Reason.NO_SCOPE


def _why_odd(identity: CallContext, candidates: Candidates, conflict: bool) -> Reason | None:
    if conflict:
        return Reason.CONFLICT
    if identity.user_id is not None and identity.session_id is not None:
        return None
    scope = candidates.scope
    if identity.user_id is None and scope is not None:
        if scope.reason is not None:
            return Reason(scope.reason)
        if scope.anonymous:
            return Reason.ANONYMOUS_REQUEST
    return Reason.PARTIAL


def complete_late(
    attribution: Attribution, candidates: Candidates, registry: Registry, *, late_s: float = LATE_S
) -> Attribution:
    """Fill what was unknown at the start and is known by now. What was known never changes, unless it was dark then."""
    scope = candidates.scope
    if candidates.is_seen_anew:
        return decide(candidates, registry, late_s=late_s)
    if scope is not None and scope.is_socket and scope.identity.user_id != candidates.user_at_start:
        return attribution  # a user has logged in, or out, since: that is about later calls
    if attribution.source is Source.THREAD and candidates.registry_answered is not None:
        # this process alone said so; others may have used it too
        later = decide(candidates, registry, late_s=late_s)
        return (
            later
            if later.identity.agrees(attribution.identity)
            else Attribution(EMPTY, Source.NONE, Reason.SHARED_THREAD)
        )
    if attribution.identity.user_id is not None and attribution.identity.session_id is not None:
        return attribution
    later = decide(candidates, registry, late_s=late_s)
    if not later.identity or not later.identity.agrees(attribution.identity):
        return attribution if attribution.identity or candidates.registry_answered is None else later
    identity = later.identity.overlay(attribution.identity)
    source = attribution.source if attribution.identity else later.source
    conflict = attribution.conflict or later.conflict
    return Attribution(identity, source, _why_odd(identity, candidates, conflict), conflict, later.answers)
