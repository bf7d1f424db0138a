"""Who a call belongs to: a frozen value, and ids that are fit to be stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from llmctx.incidents import incidents

ID_LIMIT: Final = 256
"""Longest id, in characters, that is stored as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """Who an LLM call belongs to. `None` means unknown.

    Ids are text of at most 256 printable characters. Numbers and UUIDs become text; an empty id is unknown. An id
    that is longer or holds control characters is stored in a cleaned form that ends in `~` and a hash of the whole,
    so that two different ids stay different; it is counted and logged.
    """

    session_id: str | None = None
    user_id: str | None = None
    trace_id: str | None = None
    conversation_id: str | None = None
    agent_key: str | None = None
    thread_id: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ID_FIELDS:
            value = getattr(self, name)
            if value is not None and not (type(value) is str and 0 < len(value) <= ID_LIMIT and value.isprintable()):
                object.__setattr__(self, name, clean_id(value, name))

    def __bool__(self) -> bool:
        """True when the session or the user is known."""
        return self.session_id is not None or self.user_id is not None

    def agrees(self, other: CallContext) -> bool:
        """Whether both may speak of one person: no two different users, no two different sessions."""
        return (self.user_id is None or other.user_id is None or self.user_id == other.user_id) and (
            self.session_id is None or other.session_id is None or self.session_id == other.session_id
        )

    def overlay(self, over: CallContext) -> CallContext:
        """This identity with every field that `over` knows taken from `over`."""
        if over is EMPTY:
            return self
        if self is EMPTY:
            return over
        ids = {name: new if (new := getattr(over, name)) is not None else getattr(self, name) for name in ID_FIELDS}
        attributes = {**self.attributes, **over.attributes} if over.attributes else self.attributes
        return CallContext(**ids, attributes=attributes)


ID_FIELDS: Final = tuple(f.name for f in fields(CallContext) if f.name != "attributes")
EMPTY: Final = CallContext()


def clean_id(value: object, name: str = "id") -> str | None:
    """`value` as an id: text, at most `ID_LIMIT` printable characters, None if empty.

    Cleaned ids end in `~` and 16 hex digits of a hash over the original, so that no two of them become the same.
    """
    text = value if isinstance(value, str) else str(value)
    if not text:
        return None
    # str.isprintable is too strict for the last word: it refuses spaces of other scripts
    bad = [c for c in text[: ID_LIMIT + 1] if not c.isprintable() and _is_control(c)]
    if not bad and len(text) <= ID_LIMIT:
        return text
    what = f"{len(text)} characters long (limit {ID_LIMIT})" if len(text) > ID_LIMIT else "with control characters"
    incidents.note("cleaned_id", "%s is %s: stored cleaned, with a hash. Pass a short, printable id.", name, what)
    import hashlib  # late: most processes never clean an id, and `import llmctx` stays quick

    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    head = "".join("\ufffd" if _is_control(c) else c for c in text[: ID_LIMIT - 17])
    return f"{head}~{digest}"


def _is_control(char: str) -> bool:
    code = ord(char)
    return code < 0x20 or 0x7F <= code <= 0x9F or 0xD800 <= code <= 0xDFFF or 0x2028 <= code <= 0x202E
