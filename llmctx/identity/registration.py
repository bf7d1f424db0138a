"""Registration under a thread and a task: what `wrap_graph` and the handler tell the registries.

A node opens a scope of its own, laid over the one around it as far as that one speaks for the thread; both are
filed, so that a call that loses its context is known by its thread or task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.record import Reason
from llmctx.identity import remote
from llmctx.identity.authority import is_guarded, is_in_request, refuse, trusting
from llmctx.identity.background_work import mark_as_worker
from llmctx.identity.binding import on_named
from llmctx.identity.candidates import as_text, effective_scope
from llmctx.identity.config_carrier import CarriedIdentity, carried_in, signed_identity, unpack
from llmctx.identity.present_scope import present_scope
from llmctx.identity.registry.base import Registry, active, guard_registry, mark_unreliable, register_in_all
from llmctx.identity.scope import EMPTY, CallContext, Scope, with_parents
from llmctx.identity.worker_inheritance import is_inherited_by_worker

_THREADS_OF_A_SCOPE: Final = 4096


def register(scope: Scope, registries: Sequence[Registry], *, thread_id: str | None, task: str | None = None) -> None:
    """File `scope` under its thread and task.

    A request without a user counts as a party too: to run the graph on another user's thread, even anonymously, makes
    it a shared one.
    """
    thread_id = as_text(thread_id)
    if thread_id is not None:
        for around in with_parents(scope):
            if not around.is_open:
                break
            use(around, thread_id)
    party = effective_scope(scope)
    if party is None or not (party.identity or party.anonymous) or not party.is_open:
        return
    register_in_all(registries, party, thread_id, task if party.identity else None)


def use(scope: Scope, thread_id: str) -> None:
    """Note that `thread_id` runs inside of `scope`, which may be open for as long as its process."""
    if len(scope.threads) >= _THREADS_OF_A_SCOPE:
        scope.threads.clear()  # only those that others use as well would be missed
    scope.threads.add(thread_id)


@guard_registry()
def _file_named(scope: Scope, before: CallContext) -> None:
    """File a scope under the thread that the team names. What `before` used stays known as used by that user, too."""
    if before.user_id not in (None, scope.identity.user_id):
        former = Scope(before, "bind")  # registries keep scopes, and this one's says another name from here on
        for thread_id in list(scope.threads):
            register_in_all(active, former, thread_id, None)
            register_in_all(active, scope, thread_id, None)
    if scope.identity.thread_id is not None:
        register(scope, active, thread_id=scope.identity.thread_id)


on_named.append(_file_named)


# -- nodes ------------------------------------------------------------------------------------------------------


def node_scope(
    found: CallContext,
    *,
    persisted: bool,
    metadata: Mapping[str, Any] | None,
    thread_id: str | None,
    task: str | None,
    registries: Sequence[Registry],
    data: CallContext = EMPTY,
    data_persisted: bool = False,
    is_vouched: bool = False,
) -> Scope:
    """Return the scope of a LangGraph node, branch or task, registered under its thread and task.

    `found` is what the server's code says of the node's identity, `data` what a client may have sent (`authority.py`).
    `persisted` says that it was read from graph state, which may be older than this request. It is laid over the
    current scope, if that is open and speaks for this thread; over the identity that rode in on the metadata otherwise.
    `is_vouched` says that the callbacks know whose the run is, which is asked at each call.
    """
    thread_id = as_text(thread_id)
    outer = effective_scope(present_scope())
    if outer is not None and outer.failed:
        return _resolve_in_failed_scope(outer, found, persisted, thread_id, task, registries)
    thread = next((e for r in registries if thread_id is not None and (e := r.get(thread_id=thread_id))), None)
    sent, proven, sent_request = _sent(metadata, outer)
    guarded = not trusting and (
        is_vouched or is_guarded(outer) or found.user_id is not None or (proven and sent.user_id is not None)
    )
    if guarded and not proven:
        data, sent = (sent.overlay(data) if sent.agrees(data) else data or sent), EMPTY
    elif not guarded and data is not EMPTY:
        if found.agrees(data):
            persisted = persisted or (data_persisted and bool(data) and not found)
            found = data.overlay(found)
        data = EMPTY
    inherited_by_worker = (
        False if outer is None else is_inherited_by_worker(outer, thread_id, thread, sent, None, sent_request)
    )
    of_another = outer is not None and sent_request not in (0, outer.of_request)
    if of_another and outer is not None and outer.of_request and outer.is_open and inherited_by_worker is False:
        sent = EMPTY  # a config that was kept from another request
    if outer is not None and thread_id is not None and inherited_by_worker is False:
        own = remote.is_own_work(outer, thread_id, sent, registries)
        if own is not True and not (found and found.user_id == outer.identity.user_id):
            inherited_by_worker = None
            if not found and not sent and not data:  # each call in it is told whose it is when the others have answered
                remote.claim(outer, registries, thread_id=thread_id, task=task)
                return Scope(found, "node", outer)
    ours = outer is not None and outer.is_open and inherited_by_worker is False
    base = outer.identity if ours and outer is not None else sent
    conflict = False
    if not base.agrees(found):
        conflict = None not in (base.user_id, found.user_id) and base.user_id != found.user_id
        # State that is older than this scope belongs to the user of the thread before.
        if ours and outer is not None and persisted and thread is not None and thread.first < outer.serial:
            found = found.without_people()
        elif conflict:
            base = EMPTY  # two people are never mixed into one identity
    identity = authority = base.overlay(found) if found is not EMPTY else base
    if guarded and outer is not None and base is outer.identity and outer.authority is not base:
        authority = outer.authority.overlay(found)
    is_refused = False
    if data is not EMPTY:
        if data.user_id not in (None, identity.user_id):
            # What a thread keeps of the user before claims nothing; nor does the user of the request that is over here.
            is_old = ours and outer is not None and data_persisted and thread and thread.first < outer.serial
            if not is_old and (outer is None or inherited_by_worker is not False or not _is_left_of(outer, data)):
                is_refused = True
                refuse((identity.user_id,))
                conflict = conflict or identity.user_id is not None
        elif data.agrees(authority):
            identity = identity.overlay(data).overlay(authority)
    # The scope that a worker was started in is none of its business: it is not the parent of what the worker runs.
    scope = Scope(identity, "node", outer if inherited_by_worker is False else None)
    scope.authority = authority if guarded else EMPTY
    scope.conflict = conflict
    if is_refused:
        scope.refused = (data,)
    if outer is not None and inherited_by_worker is not False:
        scope.displaced = outer.anchor
        mark_as_worker(outer)
    if conflict:
        diagnostics.count("node_conflict", "a node's own ids name another user than the surrounding scope")
    if inherited_by_worker is None and not identity:
        # no user, and the thread may lend it no name
        scope.of_request, scope.reason = scope.serial, Reason.SHARED_THREAD
        return scope
    if not ours and outer is not None and thread_id is not None:
        # The scope around belongs to another request; it must not be marked as a user of this thread.
        use(scope, thread_id)
        if scope.identity:
            register_in_all(registries, scope, thread_id, task)
        return scope
    register(scope, registries, thread_id=thread_id, task=task)
    return scope


def _is_left_of(scope: Scope, data: CallContext) -> bool:
    """Return whether `scope` has closed, and `data` name its user."""
    return not scope.is_open and data.user_id == scope.identity.user_id


def _sent(metadata: Mapping[str, Any] | None, outer: Scope | None) -> tuple[CallContext, bool, int]:
    """Return the identity that came with the metadata, whether it is proved ours, and the request that it is of."""
    value = carried_in(metadata) if metadata else None
    if value is None:
        return EMPTY, False, 0
    if type(value) is CarriedIdentity:
        return value.identity, True, value.of_request
    signed = signed_identity(value)
    return (unpack(value), False, 0) if signed is None else (signed, not is_in_request(outer), 0)


def _resolve_in_failed_scope(
    outer: Scope, found: CallContext, persisted: bool, thread_id: str | None, task: str | None, rs: Sequence[Registry]
) -> Scope:
    """Return the scope of a node where the one around has failed: its own ids count, those of old state not."""
    if persisted:
        found = found.without_people()
    scope = Scope(found, "node", outer)
    if found.user_id is None:
        mark_unreliable(thread_id, task)
        return scope
    if thread_id is not None:
        use(scope, thread_id)
    register_in_all(rs, scope, thread_id, task)
    return scope
