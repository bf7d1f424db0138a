"""Which witness is believed, and why.

A witness gives a whole identity; two that name different people are never mixed into one row. The first that
testifies wins: explicit, the open scope, what was carried along with the callbacks, the registry by task and by
thread, the scope that has closed meanwhile. Nobody is better than somebody else: where no witness testifies, the
ids stay None, with a reason.

One exception. A worker that was started inside user A's request has inherited A's scope, and works for B now. When
others have registered the call's thread and A's scope never has, it matters who waits for whom (`flow.py`): what A's
request itself does, or waits for, is A's, whoever else uses that thread; what it does not wait for is a worker, and the
thread is believed before the scope. Where that cannot be told, neither is believed (`inherited_by_worker`). Likewise
a scope that was handed on with the callbacks, and was opened after the one that is merely current, comes before it.

`Candidates` holds what the witnesses were when the call started; `decide` is pure and may be asked again later, when
the registry or an amended scope knows more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final

from llmctx.core.guard import swallow
from llmctx.core.record import Reason, Source
from llmctx.identity import remote
from llmctx.identity.await_graph import is_part_of
from llmctx.identity.registry.base import Entry, Registry, is_unreliable
from llmctx.identity.scope import (
    EMPTY,
    ID_FIELDS,
    ID_LIMIT,
    CallContext,
    Scope,
    amend_scope,
    carries,
    clean_id,
    current_scope,
)

CARRIED_KEY: Final = "llmctx"
"""Key in `config["metadata"]` under which `wrap_graph` sends a node's identity along: a dict of ids, nothing else."""

EXPLICIT_KEYS: Final = {f"llmctx_{name}": name for name in ID_FIELDS}
"""Keys in a call's `config["metadata"]` that name its identity outright."""
_EXPLICIT: Final = frozenset(EXPLICIT_KEYS)

LATE_S: Final = 600.0


class Candidates:
    """The witnesses of one call, as they were at its start. What is the same for most calls is kept by the class."""

    scope: Scope | None = None
    scope_open = False
    explicit: CallContext = EMPTY
    carried: Scope | None = None
    started = 0.0
    """Monotonic seconds."""
    here: Scope | None = None
    """The innermost scope. The one that testifies, `scope`, may lie further out."""
    sent: CallContext = EMPTY
    """What rode in on the metadata (`CARRIED_KEY`)."""
    thread_id: str | None = None
    task: str | None = None
    inherited_by_worker: bool | None = False
    """Whether this is a worker's call, not the scope's own. None: cannot be told. Found out where the call starts."""
    decided_at_start: bool = False
    is_own_work: bool | None = True
    """Unless True, the scope may speak only after other processes were asked (`remote.py`)."""
    registry_answered: bool | None = None
    """Whether they answered. None: they were not asked yet."""
    failed: bool = False
    """Whether llmctx has failed in finding out whose it is. Once it has, no weaker witness is heard."""


@dataclass(slots=True)
class Attribution:
    """Whose call it is. `conflict` means that another witness named somebody else."""

    identity: CallContext
    source: Source
    reason: Reason | None = None
    conflict: bool = False
    heard: Sequence[tuple[Source, CallContext]] = field(default=(), compare=False)
    """What each witness said, where it took a judge; the strongest first."""
    noted: tuple[object, bytes] | None = field(default=None, compare=False, repr=False)
    """What the journal notes of a call of whom this is said, and what else that depends on (`recording.marker_of`)."""


UNDECIDED: Final = Attribution(EMPTY, Source.NONE, Reason.INTERNAL_ERROR)


def gather(
    metadata: Mapping[str, Any] | None,
    *,
    explicit: CallContext = EMPTY,
    carried: Scope | None = None,
    child_thread_id: str | None = None,
) -> Candidates:
    """Gather the witnesses of a call that starts here and now.

    `explicit` is what the handler was made with, `carried` the scope that rode in with it, `child_thread_id` the
    thread_id of langchain-core's child config, for chains outside of LangGraph.
    """
    candidates = Candidates()
    here = scope = current_scope()
    if scope is not None:
        scope.anchor.used = True
        if scope.kind == "node":
            scope = effective_scope(scope)
        candidates.here, candidates.scope, candidates.scope_open = (
            here,
            scope,
            scope is not None and scope.closed_at is None,
        )
        if scope is not None and scope.refresh is not None and scope.identity.user_id is None:
            refresh(scope)
    candidates.explicit, candidates.carried, candidates.started = explicit, carried, time.monotonic()
    thread_id: object = child_thread_id
    if metadata:
        if (told := metadata.get("thread_id")) is not None and told != "":
            thread_id = told
        candidates.task = None if (task := metadata.get("langgraph_checkpoint_ns")) is None else as_text(task)
        if CARRIED_KEY in metadata:
            candidates.sent = unpack(metadata[CARRIED_KEY])
        if not _EXPLICIT.isdisjoint(metadata):
            named = {name: metadata[key] for key, name in EXPLICIT_KEYS.items() if key in metadata}
            candidates.explicit = explicit.overlay(CallContext(**named))
    candidates.thread_id = None if thread_id is None else as_text(thread_id)
    return candidates


def refresh(scope: Scope) -> None:
    """Ask a scope that knows no user whether it has learned one meanwhile (authentication further in)."""
    ask = scope.refresh
    try:
        learned = ask() if ask is not None else None
    except BaseException as problem:  # noqa: BLE001  it reads the host's objects
        swallow(problem, "refresh_failed", "the identity of a request could not be read")
        return
    if learned:
        amend_scope(scope, learned)


def decide(candidates: Candidates, registry: Registry, *, late_s: float = LATE_S) -> Attribution:
    """Whose call it is, by the witnesses of `candidates` and what `registry` knows by now."""
    scope = candidates.scope
    if (
        candidates.scope_open
        and scope is not None
        and scope.identity.user_id is not None
        and scope.identity.session_id is not None
        and (candidates.explicit is EMPTY or not candidates.explicit)
        and (candidates.thread_id is None or candidates.thread_id in scope.threads)
        and (candidates.sent is EMPTY or candidates.sent.agrees(scope.identity))
        and (candidates.carried is None or candidates.carried.identity.agrees(scope.identity))
    ):
        # The common case: an open scope that knows everything, and nobody who could object.
        known: Attribution | None = scope.attribution
        if known is None or known.identity is not scope.identity or known.conflict is not scope.conflict:
            reason = Reason.CONFLICT if scope.conflict else None
            scope.attribution = known = Attribution(scope.identity, Source.CONTEXT, reason, scope.conflict)
        return known
    if candidates.failed or (
        scope.failed if scope is not None else candidates.carried is not None and candidates.carried.failed
    ):
        return _resolve_in_failed_scope(candidates)
    return _weigh(candidates, registry, late_s)


def _resolve_in_failed_scope(candidates: Candidates) -> Attribution:
    """Whose call it is where llmctx has failed: his who says so outright, or nobody's."""
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


def _weigh(candidates: Candidates, registry: Registry, late_s: float) -> Attribution:
    thread = registry.get(thread_id=candidates.thread_id) if candidates.thread_id is not None else None
    scope = candidates.scope
    if scope is not None and not candidates.decided_at_start:  # only here and now is it the caller's task that runs
        candidates.inherited_by_worker = is_inherited_by_worker(
            scope, candidates.thread_id, thread, candidates.sent, candidates.carried
        )
        if candidates.inherited_by_worker is False:
            candidates.is_own_work = remote.is_own_work(scope, candidates.thread_id, candidates.sent, (registry,))
            candidates.inherited_by_worker = False if candidates.is_own_work is True else None
    elif scope is not None and candidates.is_own_work is not True and candidates.registry_answered is not None:
        answered = candidates.registry_answered
        candidates.inherited_by_worker = remote.is_inherited_by_worker(
            scope, candidates.scope_open, candidates.is_own_work, thread, answered=answered
        )
    candidates.decided_at_start = True
    witnesses = _witnesses(candidates, registry, thread, late_s)
    if not witnesses:
        return Attribution(EMPTY, Source.NONE, _why_nobody(candidates, thread))
    source, identity = witnesses[0]
    conflict = scope is not None and scope.conflict and source is Source.CONTEXT
    for other_source, other in witnesses[1:]:
        if identity.agrees(other):
            identity = other.overlay(identity)
        elif other_source is not Source.LATE:
            # A closed scope that differs from the registry is a worker doing its next job, not a contradiction.
            conflict = conflict or other.user_id != identity.user_id
    return Attribution(identity, source, _why_odd(identity, candidates, conflict), conflict, witnesses)


def _witnesses(
    candidates: Candidates, registry: Registry, thread: Entry | None, late_s: float
) -> list[tuple[Source, CallContext]]:
    """Those who testify, strongest first."""
    found: list[tuple[Source, CallContext]] = []
    scope, carried = candidates.scope, candidates.carried
    at_home = scope is not None and candidates.inherited_by_worker is False
    if candidates.explicit:
        found.append((Source.EXPLICIT, candidates.explicit))
    if (
        candidates.scope_open
        and scope is not None
        and scope.identity
        and at_home
        and not _is_carried_nearer(scope, carried)
    ):
        found.append((Source.CONTEXT, scope.identity))
    if candidates.sent and (
        scope is None or not _was_inherited_together(candidates.sent, scope, candidates.inherited_by_worker)
    ):
        found.append((Source.CARRIED, candidates.sent))
    if carried is not None and carried.identity and not _is_stale(carried, candidates, thread):
        found.append((Source.CARRIED, carried.identity))
    doubted = is_unreliable(candidates.thread_id, candidates.task)
    task = registry.get(task=candidates.task) if candidates.task is not None else None
    if task is not None and task.identity and not doubted:
        found.append((Source.TASK, task.identity))
    # An anonymous request must not borrow somebody's name by naming his thread.
    anonymous = candidates.scope_open and at_home and scope is not None and scope.anonymous
    if (
        thread is not None
        and thread.identity
        and not doubted
        and not anonymous
        and candidates.inherited_by_worker is not None
        and not (at_home and scope is not None and _is_older(thread, scope))
    ):
        found.append((Source.THREAD, thread.identity))
    if (
        scope is not None
        and not candidates.scope_open
        and scope.identity
        and at_home
        and scope.closed_at is not None
        and candidates.started - scope.closed_at <= late_s
        # a forked process may be one of a pool, that works for others than the one who caused it
        and (scope.kind != "fork" or candidates.thread_id is None or candidates.thread_id in scope.threads)
    ):
        found.append((Source.LATE, scope.identity))
    return found


def is_inherited_by_worker(
    scope: Scope, thread_id: str | None, thread: Entry | None, sent: CallContext, carried: Scope | None
) -> bool | None:
    """Whether a worker that has only inherited `scope` works here: on a thread of others, or with the config of
    somebody else's call. None: cannot be told, and so neither is believed.
    """
    if is_unreliable(thread_id, None) and thread_id not in scope.threads:  # others may have used it
        return False if scope.is_open and is_part_of(scope) else None
    user_id = scope.identity.user_id
    of_others = (
        thread is not None
        and thread_id not in scope.threads
        and (user_id is None or thread.identity.user_id != user_id)
    )
    registered_since = of_others and thread is not None and thread.last > scope.serial
    if not scope.is_open or _outlives_its_request(scope):
        # What is left of a request yields to a thread that others have used since, as a worker does. If they used it
        # before only, it may as well be the request's own work on somebody else's thread.
        return registered_since or (None if of_others and not carries else False)
    handed_on = not sent.agrees(scope.identity) or (carried is not None and not carried.identity.agrees(scope.identity))
    if not of_others and not handed_on:
        return False
    own = is_part_of(scope)
    if own is None:
        return None if registered_since else False
    unclear = not registered_since and not handed_on  # used by others before this scope only: as above
    if own or (unclear and carries):
        return False
    return None if unclear else True


def _was_inherited_together(sent: CallContext, scope: Scope, inherited_by_worker: bool | None) -> bool:
    """Whether a worker has inherited this together with the scope of its start, and it counts no more than that."""
    if scope.displaced is not None and sent.user_id == scope.displaced.identity.user_id:
        return True
    return inherited_by_worker is not False and sent.agrees(scope.identity)


def _is_older(thread: Entry, scope: Scope) -> bool:
    """Whether a thread tells of others before a request whose own work, all that is left of it, goes on there."""
    return not scope.is_open and thread.last < scope.serial and thread.identity.user_id != scope.identity.user_id


def _outlives_its_request(scope: Scope) -> bool:
    """Whether a thread has merely inherited `scope` when it was started (`carrying.py`), in a request that is over."""
    while scope.kind == "node" and scope.parent is not None:
        scope = scope.parent
    return scope.kind == "thread" and (scope.parent is None or not scope.parent.is_open)


def _is_carried_nearer(scope: Scope, carried: Scope | None) -> bool:
    """Whether a scope that was handed on with the callbacks is the nearer one: opened later, for somebody else.

    A worker inside of A's open request is given B's config: callbacks are handed on by hand, contexts inherited.
    """
    if carried is None or not carried.identity or carried.identity.agrees(scope.identity):
        return False
    if scope.kind == "thread":
        return not _is_around(carried, scope)
    return carried.serial > scope.serial and scope.kind != "node"


def _is_around(outer: Scope, scope: Scope | None) -> bool:
    while scope is not None and scope is not outer:
        scope = scope.parent
    return scope is not None


def _is_stale(carried: Scope, candidates: Candidates, thread: Entry | None) -> bool:
    """Whether a carried scope has nothing to say: it is the scope of a worker's start, or others use the thread now."""
    scope = candidates.scope
    if scope is not None and (
        scope.displaced is carried or (candidates.inherited_by_worker is not False and carried.anchor is scope.anchor)
    ):
        return True
    return thread is not None and candidates.thread_id not in carried.threads and thread.last > carried.serial


def _why_nobody(candidates: Candidates, thread: Entry | None) -> Reason:
    scope = candidates.scope
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


def reconsider(
    attribution: Attribution, candidates: Candidates, registry: Registry, *, late_s: float = LATE_S
) -> Attribution:
    """Fill what was unknown at the start and is known by now. What was known never changes."""
    if (
        attribution.source is Source.THREAD and candidates.registry_answered
    ):  # this process alone said so; others may have used it too
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
    return Attribution(identity, source, _why_odd(identity, candidates, conflict), conflict, later.heard)


def effective_scope(scope: Scope | None) -> Scope | None:
    """The scope that testifies: a node that knows nothing of its own leaves the word to the scope around it."""
    while (
        scope is not None
        and scope.kind == "node"
        and not scope.identity
        and not scope.failed
        and scope.parent is not None
    ):
        scope = scope.parent
    return scope


def pack(identity: CallContext) -> dict[str, str]:
    """`identity` as it travels in metadata: ids only, nothing that is unknown."""
    return {name: value for name, value in zip(ID_FIELDS, _ids_of(identity), strict=True) if value is not None}


_ids_of = attrgetter(*ID_FIELDS)


def unpack(value: object) -> CallContext:
    if not isinstance(value, Mapping):
        return EMPTY
    return CallContext(**{name: value[name] for name in ID_FIELDS if isinstance(value.get(name), str)})


def as_text(value: object) -> str | None:
    """A thread_id as text; LangGraph takes numbers and UUIDs as well."""
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= ID_LIMIT else clean_id(text, "thread_id")
