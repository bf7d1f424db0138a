"""The subject of `erase` and its ids, and what is left of a row's JSON without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llmctx.core.record import LINKS, Reason
from llmctx.ops.erase.mentions import Mentions
from llmctx.storage.erasure import is_theirs
from llmctx.storage.sanitize import storable_id

SHARED: Final = (Reason.SHARED_THREAD.value, Reason.SHARED_JOB.value, Reason.CONFLICT.value)
"""Reasons of rows whose thread others have used as well."""
_LONG_ENOUGH: Final = 4  # of an id, to be looked for inside of texts: "7" is in all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The subject that is to be forgotten: a user, a session, or what this user did in this session."""

    user: str | None = None
    session: str | None = None

    def __str__(self) -> str:
        said = [f"user {self.user}"] if self.user is not None else []
        return " in ".join([*said, *([f"session {self.session}"] if self.session is not None else [])])


@dataclass(frozen=True, slots=True)
class SubjectIds:
    """The subject, and the ids that no other user has used."""

    subject: Subject
    own: dict[str, set[str]] = field(default_factory=dict)
    """By column: sessions, threads, … in which no other user has been seen."""

    @property
    def ids(self) -> set[str]:
        """Return everything that names the subject alone."""
        found = {value for values in self.own.values() for value in values}
        given = self.subject.user if self.subject.session is None else None
        alone = self.subject.session if self.subject.user is None else None
        for one in (given, alone):
            if one is not None:
                found |= {one, storable_id(one) or one}
        return found

    @property
    def mentions(self) -> Mentions:
        """Return what finds the subject in the texts of others."""
        return Mentions(one for one in (self.subject.user, self.subject.session) if one is not None)

    def have_used(self, columns: Mapping[str, Any]) -> bool:
        """Return whether a row of these columns names the subject; its sessions may be those of others as well."""
        return is_theirs(lambda name: _text(columns.get(name)), self.subject.user, self.subject.session, {})

    def are_in(self, columns: Mapping[str, Any]) -> bool:
        """Return whether a row of these columns is theirs."""
        subject = self.subject
        return is_theirs(lambda name: _text(columns.get(name)), subject.user, subject.session, self.own)

    def note_links(self, found: dict[str, set[str]], columns: Mapping[str, Any]) -> None:
        """Add the sessions, threads, … of a row that waits, if it is theirs: no row of the table may name them."""
        if self.have_used(columns):
            for name in LINKS:
                if (value := _text(columns.get(name))) and value.strip():
                    found.setdefault(name, set()).add(value)

    def drop_shared(self, columns: Mapping[str, Any]) -> None:
        """Take out of their own ids those that a row of another has, which waits."""
        subject = self.subject
        kind, given = ("session_id", subject.session) if subject.user is None else ("user_id", subject.user)
        whose = _text(columns.get(kind))
        if whose and whose not in {given, storable_id(given)}:
            for name, values in self.own.items():
                values.discard(_text(columns.get(name)) or "")
        if columns.get("identity_reason") in SHARED:
            self.own.get("thread_id", set()).discard(_text(columns.get("thread_id")) or "")


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def drop_ids(value: Any, ids: set[str]) -> tuple[Any, bool]:
    """Return `value`, which is JSON, without any of `ids`; and whether it had some.

    Whole texts go, names of members with what they name, and longer ids also from inside of texts.
    """
    if isinstance(value, str):
        if value in ids:
            return None, True
        text = Mentions(one for one in ids if len(one) >= _LONG_ENOUGH and one in value).strip_ids(value)
        return text, text != value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (None, True) if str(value) in ids and len(str(value)) >= _LONG_ENOUGH else (value, False)
    if isinstance(value, Mapping):
        changed = False
        kept: dict[str, Any] = {}
        for name, item in value.items():
            if name in ids:
                changed = True
                continue
            kept[name], other = drop_ids(item, ids)
            changed |= other
        return kept, changed
    if isinstance(value, (list, tuple)):
        pairs = [drop_ids(item, ids) for item in value]
        return [item for item, _ in pairs], any(other for _, other in pairs)
    return value, False
