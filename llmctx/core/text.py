"""Text that PostgreSQL and UTF-8 take: no NUL, no lone surrogates."""

from __future__ import annotations


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
