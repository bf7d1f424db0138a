"""The rule by which a row is a user's or a session's when that is erased: in journals, messages and rows under way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from llmctx.core.record import LINKS
from llmctx.storage.sanitize import storable_id


def is_theirs(
    value_of: Callable[[str], str | None],
    user: str | None,
    session: str | None,
    own: Mapping[str, Collection[str]],
) -> bool:
    """Return whether a row names `user` and `session`, as far as they are given, or is of nobody and has an `own` id.

    A row of nobody has no user; where a session alone is erased, it has no session, whoever its user is.

    Args:
        value_of: returns the row's value of a column.
        user: None stands for any.
        session: None stands for any.
        own: by column, ids that no other user has, or no other session.
    """
    if _names(user, value_of("user_id")) and _names(session, value_of("session_id")):
        return True
    kind = "session_id" if user is None else "user_id"
    return value_of(kind) is None and any(value_of(name) in own.get(name, ()) for name in LINKS)


def _names(id_value: str | None, value: str | None) -> bool:
    return id_value is None or value in (id_value, storable_id(id_value))
