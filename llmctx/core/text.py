"""Text that PostgreSQL and UTF-8 take: no NUL, no lone surrogates. Text that nothing acts on which shows it."""

from __future__ import annotations

import re
from typing import Final

_UNSEEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_UNSEEN_BUT_BREAKS: Final = re.compile(_UNSEEN.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def plain_text(value: object) -> str | None:
    """Return `value` as a plain str if it is a text of whatever class, which may have any methods; None otherwise."""
    kind = type(value)  # `isinstance` asks the object as well
    return str.__str__(value) if issubclass(kind, str) else None


def is_storable(text: str) -> bool:
    """Return whether nothing in `text` would be refused."""
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()  # ten times faster than looking for surrogates
    except UnicodeEncodeError:
        return False
    return True


def storable(text: str) -> str:
    """Return `text` with U+FFFD for what would be refused: the same object if nothing had to be changed.

    Two halves of one character that meet are joined.
    """
    if is_storable(text):
        return text
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def capitalize(text: str) -> str:
    """Return `text` as a sentence begins; a name at its begin (`my_table`, `host.name`) keeps its spelling."""
    first = text.partition(" ")[0]
    return text if "_" in first or "." in first[:-1] else f"{text[:1].upper()}{text[1:]}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return `1 row`, `2,000 rows`; `many` where it is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def escape_controls(value: object, *, breaks: bool = False, for_json: bool = False) -> str:
    """Return `value` as text with every control character and direction mark as a visible escape.

    So it can neither move a terminal's cursor nor begin a line of a log. Line feeds and tabs stay if `breaks`; escapes
    are those of JSON if `for_json`.
    """
    pattern = _UNSEEN_BUT_BREAKS if breaks else _UNSEEN
    return pattern.sub(lambda match: _escape(match.group(), 0 if for_json else 0x100), str(value))


def _escape(char: str, below: int) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < below else f"\\u{code:04x}"
