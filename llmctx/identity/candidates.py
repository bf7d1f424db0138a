"""All that may tell whose a call is, as it stands when the call starts: `gather` fills a `Candidates`.

Nothing is decided here. The order in which these are believed is that of `sources.SOURCES`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from llmctx.core.guard import swallow
from llmctx.identity.authority import data_ids, id_text, is_guarded, is_in_request, is_refused, trusting
from llmctx.identity.binding import amend_scope
from llmctx.identity.config_carrier import (
    CARRIED_KEY,
    TASK_KEY,
    THREAD_KEY,
    CarriedIdentity,
    Carrier,
    signed_identity,
    unpack,
)
from llmctx.identity.present_scope import may_be_elsewhere, present_scope
from llmctx.identity.registry.base import Entry
from llmctx.identity.scope import EMPTY, ID_FIELDS, ID_LIMIT, CallContext, Scope, clean_id, current_scope

EXPLICIT_KEYS: Final = {f"llmctx_{name}": name for name in ID_FIELDS}
"""Keys in a call's `config["metadata"]` that name its identity outright."""
_EXPLICIT_NAMES: Final = tuple((name, key) for key, name in EXPLICIT_KEYS.items())

TRACER_NAMES: Final = (
    ("session_id", "traceloop.association.properties.session_id"),
    ("user_id", "traceloop.association.properties.user_id"),
    ("conversation_id", "gen_ai.conversation.id"),
    ("session_id", "session.id"),
    ("user_id", "enduser.id"),
    ("user_id", "user.id"),
    ("session_id", "langfuse_session_id"),
    ("user_id", "langfuse_user_id"),
    ("conversation_id", "conversation_id"),
    ("session_id", "session_id"),
    ("user_id", "user_id"),
)
"""Ids that applications already put into `config["metadata"]`, for LangSmith, Langfuse, OpenInference, OpenTelemetry:
(identity field, key), the weakest first."""

_EXPLICIT: Final = frozenset(EXPLICIT_KEYS)
_TRACER: Final = frozenset(key for _, key in TRACER_NAMES)
_NAMING: Final = _EXPLICIT | _TRACER


class Candidates:
    """All that may tell whose one call is, as it was at its start. The class holds what is the same for most calls."""

    scope: Scope | None = None
    """The scope that counts; `here`, the innermost one, may be a node that knows nothing of its own."""
    scope_open = False
    here: Scope | None = None
    explicit: CallContext = EMPTY
    carried: Scope | None = None
    sent: CallContext = EMPTY
    """The identity that came with the metadata (`config_carrier.py`)."""
    sent_request = 0
    """The request in which that was packed (`Scope.of_request`)."""
    proven_user: str | None = None
    """The user of `sent`, if that is proved to be packed by us."""
    data: CallContext = EMPTY
    """Ids in the metadata that may fill what is missing, but name no user."""
    for_tracers: CallContext = EMPTY
    """Ids that the metadata have for other tracers, where data count: they are believed last."""
    refused: tuple[CallContext, ...] = ()
    """What is not believed, for it names a user whom the server does not name."""
    user_at_start: str | None = None
    """Whom `scope` named when the call began."""
    thread_id: str | None = None
    task: str | None = None
    thread: Entry | None = None
    """What the registry answered of `thread_id` when it was last asked."""
    started = 0.0
    """Monotonic seconds."""
    inherited_by_worker: bool | None = False
    """Whether this is the call of a worker that has merely inherited `scope`. None: cannot be told."""
    own_scope: Scope | None = None
    """`scope`, open or closed, once the call is known to be its own work."""
    is_lasting = False
    """Whether this is work that a scope began which has closed long ago."""
    is_in_the_dark = False
    """Whether it could not be seen at the start who waits for what runs (`resolution.recheck_waiters`)."""
    is_seen_anew = False
    """Whether it was taken for a worker's call at the start, and is the scope's own as was seen at its end."""
    decided_at_start: bool = False
    is_own_work: bool | None = True
    """Unless True, the scope counts only after other processes were asked (`remote.py`)."""
    registry_answered: bool | None = None
    """Whether they answered. None: they were not asked yet."""
    failed: bool = False
    """Whether llmctx has failed in finding out whose the call is. Once it has, no source is believed."""


def gather(
    metadata: Mapping[str, Any] | None,
    *,
    explicit: CallContext = EMPTY,
    carried: Scope | None = None,
    child_thread_id: str | None = None,
    platform_user: str | None = None,
) -> Candidates:
    """Gather the candidates of a call that starts here and now.

    `explicit` is the identity that the handler was made with, `carried` the scope that rode in with it,
    `child_thread_id` the thread_id of langchain-core's child config, for chains outside of LangGraph, `platform_user`
    whom the platform has authenticated on which the call's graph runs (`platform.py`).
    """
    candidates = Candidates()
    here = scope = current_scope()
    if may_be_elsewhere() or (here is not None and here.history is not None):
        here = scope = present_scope()
    if here is not None and scope is not None:
        here.anchor.used = True
        if here.kind == "node":
            if here.refused:
                candidates.refused = here.refused
            scope = effective_scope(here) or here
        candidates.here, candidates.scope, candidates.scope_open = here, scope, scope.closed_at is None
        if scope.refresh is not None and scope.identity.user_id is None:
            refresh(scope)
        candidates.user_at_start = scope.identity.user_id
    if explicit is not EMPTY:
        candidates.explicit = explicit
    if carried is not None:
        candidates.carried = carried
    candidates.started = time.monotonic()
    thread_id: object = child_thread_id
    if platform_user is not None:
        candidates.sent, candidates.proven_user = CallContext(user_id=platform_user), platform_user
    if metadata:
        named, task = metadata.get(THREAD_KEY), metadata.get(TASK_KEY)
        sent: object  # `carrier.carried_in`, spelled out
        if type(named) is Carrier:
            sent, named = named.sent, named.text
        elif type(task) is Carrier:
            sent, task = task.sent, task.text
        else:
            sent = metadata.get(CARRIED_KEY)
        if named is not None and (type(named) is not str or named):
            thread_id = named
        candidates.task = None if task is None else as_text(task)
        if type(sent) is CarriedIdentity:
            candidates.sent, candidates.sent_request = sent.identity, sent.of_request
            candidates.proven_user = sent.identity.user_id
        elif sent is not None:
            _take_unproven(candidates, sent)
        if not _NAMING.isdisjoint(metadata):
            if not _EXPLICIT.isdisjoint(metadata):
                _take_data(candidates, data_ids(metadata, _EXPLICIT_NAMES), "explicit")
            if not _TRACER.isdisjoint(metadata):
                _take_data(candidates, data_ids(metadata, TRACER_NAMES), "for_tracers")
    candidates.thread_id = None if thread_id is None else as_text(thread_id)
    return candidates


def _take_unproven(candidates: Candidates, value: object) -> None:
    """Take what the metadata carry, if this process has not put it there."""
    identity = signed_identity(value)
    if identity is not None and not is_in_request(candidates.scope):
        candidates.sent, candidates.proven_user = identity, identity.user_id
    else:
        _take_data(candidates, unpack(value) if identity is None else identity, "sent")


def _take_data(candidates: Candidates, data: CallContext, place: str) -> None:
    """Take ids that a client may have sent, as they stand, as the candidates' `place`; or, where the server's word
    counts, what fits in with it.
    """
    scope, carried = candidates.scope, candidates.carried
    users = (candidates.explicit.user_id, _user_of(scope), _user_of(carried), candidates.proven_user)
    if trusting or not (users[0] or users[3] or is_guarded(scope) or is_guarded(carried)):
        setattr(candidates, place, getattr(candidates, place).overlay(data))
    elif is_refused(data, users):
        candidates.refused = (*candidates.refused, data)
    elif candidates.data.agrees(data):
        candidates.data = data.overlay(candidates.data)


def _user_of(scope: Scope | None) -> str | None:
    return None if scope is None else scope.authority.user_id


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


def effective_scope(scope: Scope | None) -> Scope | None:
    """Return the scope that counts in `scope`: the one around a node that knows nothing of its own."""
    while (
        scope is not None
        and scope.kind == "node"
        and not scope.identity
        and not scope.failed
        and scope.parent is not None
    ):
        scope = scope.parent
    return scope


def as_text(value: object) -> str | None:
    """Return a thread_id as text; LangGraph takes numbers and UUIDs as well."""
    if type(value) is Carrier:
        value = value.text
    if type(value) is str and len(value) <= ID_LIMIT and value.isprintable():
        return value or None
    text = None if value is None else id_text(value)
    return clean_id(text, "thread_id") if text else None
