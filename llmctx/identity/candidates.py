"""What may tell whose a call is, as it stands when the call starts: `gather` fills a `Candidates`.

Nothing is decided here. The order in which these are believed is that of `sources.SOURCES`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Final

from llmctx.core.guard import swallow
from llmctx.identity.registry.base import Entry
from llmctx.identity.scope import EMPTY, ID_FIELDS, ID_LIMIT, CallContext, Scope, amend_scope, clean_id, current_scope

CARRIED_KEY: Final = "llmctx"
"""Key in `config["metadata"]` under which `wrap_graph` sends a node's identity along: a dict of ids, nothing else."""

EXPLICIT_KEYS: Final = {f"llmctx_{name}": name for name in ID_FIELDS}
"""Keys in a call's `config["metadata"]` that name its identity outright."""
_EXPLICIT: Final = frozenset(EXPLICIT_KEYS)


class Candidates:
    """All that may tell whose one call is, as it was at its start. The class holds what is the same for most calls."""

    scope: Scope | None = None
    """The scope that counts; `here`, the innermost one, may be a node that knows nothing of its own."""
    scope_open = False
    here: Scope | None = None
    explicit: CallContext = EMPTY
    carried: Scope | None = None
    sent: CallContext = EMPTY
    """The identity that came with the metadata (`CARRIED_KEY`)."""
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
) -> Candidates:
    """Gather the candidates of a call that starts here and now.

    `explicit` is the identity that the handler was made with, `carried` the scope that rode in with it,
    `child_thread_id` the thread_id of langchain-core's child config, for chains outside of LangGraph.
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
        if (named := metadata.get("thread_id")) is not None and named != "":
            thread_id = named
        candidates.task = None if (task := metadata.get("langgraph_checkpoint_ns")) is None else as_text(task)
        if CARRIED_KEY in metadata:
            candidates.sent = unpack(metadata[CARRIED_KEY])
        if not _EXPLICIT.isdisjoint(metadata):
            ids = {name: metadata[key] for key, name in EXPLICIT_KEYS.items() if key in metadata}
            candidates.explicit = explicit.overlay(CallContext(**ids))
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


def pack(identity: CallContext) -> dict[str, str]:
    """Return `identity` as it travels in metadata: ids only, nothing that is unknown."""
    return {name: value for name, value in zip(ID_FIELDS, _ids_of(identity), strict=True) if value is not None}


_ids_of = attrgetter(*ID_FIELDS)


def unpack(value: object) -> CallContext:
    """Return the identity that `pack` made; an empty one for anything else."""
    if not isinstance(value, Mapping):
        return EMPTY
    return CallContext(**{name: value[name] for name in ID_FIELDS if isinstance(value.get(name), str)})


def as_text(value: object) -> str | None:
    """Return a thread_id as text; LangGraph takes numbers and UUIDs as well."""
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= ID_LIMIT else clean_id(text, "thread_id")
