"""`CallContext`, the owner of a call: a frozen value, with ids that are fit to be stored.

It is written out: `import dataclasses` takes as long as all else that `import llmctx` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from llmctx.core.diagnostics import diagnostics

ID_LIMIT: Final = 256
"""Longest id, in characters, that is stored as it is."""


ID_FIELDS: Final = ("session_id", "user_id", "trace_id", "conversation_id", "agent_key", "thread_id")


class CallContext:
    """The owner of an LLM call. `None` means unknown.

    Ids are text of at most 256 printable characters. Numbers and UUIDs become text; an empty id is unknown. An id
    that is longer or holds control characters is stored in a cleaned form that ends in `~` and a hash of the whole,
    so that two different ids stay different; it is counted and logged.
    """

    __slots__ = ("agent_key", "attributes", "conversation_id", "session_id", "thread_id", "trace_id", "user_id")
    __match_args__ = ()

    session_id: str | None
    user_id: str | None
    trace_id: str | None
    conversation_id: str | None
    agent_key: str | None
    thread_id: str | None
    attributes: Mapping[str, Any]

    def __init__(
        self,
        *,
        session_id: object = None,
        user_id: object = None,
        trace_id: object = None,
        conversation_id: object = None,
        agent_key: object = None,
        thread_id: object = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        ids = session_id, user_id, trace_id, conversation_id, agent_key, thread_id
        for name, put, value in zip(ID_FIELDS, _put_ids, ids, strict=True):
            if value is not None and not (type(value) is str and 0 < len(value) <= ID_LIMIT and value.isprintable()):
                value = clean_id(value, name)
            put(self, value)
        _put_attributes(self, {} if attributes is None else attributes)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a CallContext is immutable: amend({name}=…) replaces it")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a CallContext is immutable: {name} cannot be deleted")

    def _ids(self) -> tuple[str | None, ...]:
        return tuple([getattr(self, name) for name in ID_FIELDS])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CallContext):
            return NotImplemented
        return self is other or (self._ids() == other._ids() and self.attributes == other.attributes)

    def __hash__(self) -> int:
        return hash(self._ids())

    def __repr__(self) -> str:
        known = [*zip(ID_FIELDS, self._ids(), strict=True), ("attributes", self.attributes or None)]
        return f"CallContext({', '.join(f'{name}={value!r}' for name, value in known if value is not None)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (dict(zip(ID_FIELDS, self._ids(), strict=True)), self.attributes)

    def __bool__(self) -> bool:
        """Return True if the session or the user is known."""
        return self.session_id is not None or self.user_id is not None

    def agrees(self, other: CallContext) -> bool:
        """Return whether both may speak of one person: no two different users, no two different sessions."""
        return (self.user_id is None or other.user_id is None or self.user_id == other.user_id) and (
            self.session_id is None or other.session_id is None or self.session_id == other.session_id
        )

    def without_people(self) -> CallContext:
        """Return this identity without its session and its user."""
        ids = {name: getattr(self, name) for name in ID_FIELDS if name not in ("session_id", "user_id")}
        return CallContext(**ids, attributes=self.attributes)

    def overlay(self, over: CallContext) -> CallContext:
        """Return this identity with every field that `over` knows taken from `over`."""
        if over is EMPTY:
            return self
        if self is EMPTY:
            return over
        ids = {name: new if (new := getattr(over, name)) is not None else getattr(self, name) for name in ID_FIELDS}
        attributes = {**self.attributes, **over.attributes} if over.attributes else self.attributes
        return CallContext(**ids, attributes=attributes)


def _again(ids: dict[str, str | None], attributes: Mapping[str, Any]) -> CallContext:
    return CallContext(**ids, attributes=attributes)


# past `__setattr__`, and in half of the time that `object.__setattr__` takes
*_put_ids, _put_attributes = [vars(CallContext)[name].__set__ for name in (*ID_FIELDS, "attributes")]

EMPTY: Final = CallContext()


def clean_id(value: object, name: str = "id") -> str | None:
    """Return `value` as an id: text, at most `ID_LIMIT` printable characters, None if empty.

    Cleaned ids end in `~` and 16 hex digits of a hash over the original, so that no two of them become the same.
    """
    if isinstance(value, _NO_IDS):
        diagnostics.count("ids_refused", "%s is %s, which is not an id: ignored", name, type(value).__name__)
        return None
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception:  # noqa: BLE001  any object's
        diagnostics.count("ids_refused", "%s is an object without a text form: ignored", name)
        return None
    if not text:
        return None
    # str.isprintable is too strict for the last word: it refuses spaces of other scripts
    bad = [c for c in text[: ID_LIMIT + 1] if not c.isprintable() and _is_control(c)]
    if not bad and len(text) <= ID_LIMIT:
        return text
    what = f"{len(text)} characters long (limit {ID_LIMIT})" if len(text) > ID_LIMIT else "with control characters"
    diagnostics.count("cleaned_id", "%s is %s: stored cleaned, with a hash. Pass a short, printable id.", name, what)
    import hashlib  # late: most processes never clean an id, and `import llmctx` stays quick

    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    head = "".join("\ufffd" if _is_control(c) else c for c in text[: ID_LIMIT - 17])
    return f"{head}~{digest}"


_NO_IDS: Final = (bool, float, bytes, bytearray, dict, list, tuple, set, frozenset)


def is_fit(text: str) -> bool:
    """Return whether `text` can be stored as an id as it is."""
    return 0 < len(text) <= ID_LIMIT and (text.isprintable() or not any(map(_is_control, text)))


def _is_control(char: str) -> bool:
    code = ord(char)
    return code < 0x20 or 0x7F <= code <= 0x9F or 0xD800 <= code <= 0xDFFF or 0x2028 <= code <= 0x202E
