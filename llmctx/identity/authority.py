"""Authority of sources: what the server's own code says counts before what a client may have sent.

Three kinds of word (`Kind`). SERVER: the team's code, about this very request or job: the middleware's `identify`,
`bind`, `amend`, a handler made with a context, the platform's authentication. PROVEN: that word on its way, in
something that no client can make: a handler that rides in the callbacks, an identity that this process has packed or
that the hand-over key has signed, an entry of a registry. DATA: the sender of the request: state, configurable,
metadata, `Runtime.context`, a thread_id.

Data never names a user whom the server does not name, in a request or wherever the server knows a user. What the server
does not know (a session, an agent) data may add. Elsewhere, in scripts, jobs and workers, data counts as it stands.
`CallLog(trust_config=True)` believes data everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final
from uuid import UUID

from llmctx.core.diagnostics import diagnostics
from llmctx.core.text import plain_text
from llmctx.identity.call_context import ID_FIELDS, CallContext, is_fit
from llmctx.identity.scope import Scope


class Kind(Enum):
    """The party that controls what a source says."""

    SERVER = "A"
    PROVEN = "B"
    DATA = "C"


trusting: Final[list[object]] = []
"""The call logs that were started with `trust_config`."""


def data_id(value: object) -> str | None:
    """Return an id that was sent: text, a number or a UUID; None for anything else, which is counted."""
    if value is None or (type(value) is str and not value):
        return None
    text = id_text(value)
    if text is None or is_fit(text):
        return text
    refuse_malformed()
    return None


def id_text(value: object) -> str | None:
    """Return a text, a number or a UUID as text; None for anything else, which is counted. Methods of it may raise."""
    kind, text = type(value), plain_text(value)
    if text is None and kind is not bool and issubclass(kind, (int, UUID)):
        with contextlib.suppress(Exception):  # a number of thousands of digits
            text = str(value)
    if text is None:
        refuse_malformed()
    return text


def refuse_malformed() -> None:
    """Count data that are no identity. They are as if they were not there."""
    diagnostics.count("ids_refused", "a config, state or context held unusable ids: ignored")


def data_ids(values: Mapping[str, Any], names: Iterable[tuple[str, str]]) -> CallContext:
    """Return the ids among `values` that can be used; `names` are pairs of (identity field, key)."""
    found: dict[str, Any] = {}
    for name, key in names:
        try:
            value = values.get(key)
            known = None if value is None else data_id(value)
        except Exception:  # noqa: BLE001  objects of any kind, which may raise at a mere look
            refuse_malformed()
            continue
        if known is not None:
            found[name] = known
    return CallContext(**found)


SAME_NAMES: Final = tuple((name, name) for name in ID_FIELDS)


def is_guarded(scope: Scope | None) -> bool:
    """Return whether data may not name a user in `scope`: it is part of a request, or the server knows its user."""
    if scope is None or trusting:
        return False
    displaced = scope.displaced
    return (
        scope.of_request != 0
        or scope.authority.user_id is not None
        or (displaced is not None and displaced.of_request != 0)
    )


def is_in_request(scope: Scope | None) -> bool:
    """Return whether `scope` is part of an open request: what another process has signed comes from another one."""
    return scope is not None and scope.of_request != 0 and scope.is_open


def borrows_nothing(scope: Scope | None) -> bool:
    """Return whether `scope` is an anonymous request, or inherited from one: no thread or task lends it a name."""
    if scope is None:
        return False
    displaced = scope.displaced
    return scope.anonymous or (scope.identity.user_id is None and displaced is not None and displaced.anonymous)


def is_foreign(scope: Scope, who: CallContext, of_request: int) -> bool:
    """Return whether `who`, who came along from the request `of_request`, is another than `scope` speaks of."""
    if scope.identity.user_id is None and scope.of_request:
        return who.user_id is not None and of_request != scope.of_request
    return not who.agrees(scope.identity)


def refuse(users: Iterable[str | None]) -> None:
    """Count data that name a user whom the server does not name. `users` are those whom it names."""
    diagnostics.count(
        "identity_refused",
        "the caller's data (config, state or context) name %s: ignored. "
        "CallLog(trust_config=True) believes them, for a service whose callers are services",
        "another user than the authenticated one" if any(users) else "a user in an anonymous request",
    )


def is_refused(data: CallContext, users: Iterable[str | None]) -> bool:
    """Return whether `data` must not be believed beside `users`, whom the server names; it is counted then."""
    if data.user_id is None or data.user_id in users:
        return False
    refuse(users)
    return True
