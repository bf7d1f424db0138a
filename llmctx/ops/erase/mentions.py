"""Ids in the texts of others: whole ones only, inside of what JSON says, and what is left is JSON.

An id is whole where nothing beside it could belong to a longer one: `ann` is in "ask ann." and in `user:ann`, and not
in `joann`, `ann-2` or `ann@clinic.example`. Text in a script without spaces may stand on both sides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

GONE: Final = "[erased]"
_JOINING: Final = "-.@+/\\:~%#"
"""What joins two words to one id, where there is a word on both sides."""
_LABEL: Final = re.compile(
    r"(?:\A|[^a-z])(?:users?|sessions?|threads?|id|uid|sub|by|from|to|name|owner)[:/#]\Z", re.IGNORECASE
)
_NAMED: Final = re.compile(
    r"(?:user|session|thread|conversation|trace|account|owner)?_?-?(?:id|uid|user|session|sub)", re.I
)
_DEEP: Final = 40


class Mentions:
    """Finds `ids` in values as rows hold them."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids = sorted({one for one in ids if one.strip()}, key=len, reverse=True)
        self._find = re.compile("|".join(map(re.escape, self._ids)) or r"(?!)")

    @property
    def fragments(self) -> list[str] | None:
        """Return what of each id stands in any spelling of JSON; None if some id has nothing that does."""
        parts = [max(re.findall(r"[A-Za-z0-9_.@:+-]+", one), key=len, default="") for one in self._ids]
        return parts if all(parts) else None

    def strip_ids(self, value: Any, depth: int = 0) -> Any:
        """Return `value`, a JSON value or a text that may hold JSON, without any of the ids; itself if it has none."""
        if isinstance(value, str):
            return self._of_text(value, depth)
        if isinstance(value, Mapping) and depth < _DEEP:
            return {self._of_words(name): self._of_member(name, item, depth) for name, item in value.items()}
        if isinstance(value, list) and depth < _DEEP:
            return [self.strip_ids(item, depth + 1) for item in value]
        return value

    def _of_member(self, name: str, item: Any, depth: int) -> Any:
        is_number = isinstance(item, (int, float)) and not isinstance(item, bool)
        if is_number and str(item) in self._ids and (_NAMED.fullmatch(name) or len(str(item)) > 4):
            return GONE
        return self.strip_ids(item, depth + 1)

    def _of_text(self, text: str, depth: int) -> str:
        if text[:1] in ("{", "[", '"') and depth < _DEEP:
            try:
                inner = json.loads(text)
            except (ValueError, RecursionError):
                return self._of_words(text)
            less = self.strip_ids(inner, depth + 1)
            return text if less == inner else _written(less, like=text)
        return self._of_words(text)

    def _of_words(self, text: str) -> str:
        return self._find.sub(lambda match: GONE if _is_whole(text, *match.span()) else match[0], text)


def _written(value: Any, *, like: str) -> str:
    compact = (", ", ": ") if '": ' in like or '", ' in like else (",", ":")
    text = json.dumps(value, ensure_ascii=False, separators=compact)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can write
        text = json.dumps(value, separators=compact)
    return text


def _is_whole(text: str, start: int, end: int) -> bool:
    """Return True if `text[start:end]` is no part of a longer id."""
    if start > 0 and _joins(text[start - 1], text[start]):
        return False
    if end < len(text) and _joins(text[end - 1], text[end]):
        return False
    is_joined = start > 1 and text[start - 1] in _JOINING and _is_word(text[start - 2])
    if is_joined and not _LABEL.search(text[max(0, start - 24) : start]):
        return False
    return not (end + 1 < len(text) and text[end] in _JOINING and _is_word(text[end + 1]))


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _joins(left: str, right: str) -> bool:
    """Return True if two characters side by side belong to one word; scripts without spaces have none."""
    return _is_word(left) and _is_word(right) and not (left >= "\u2e80" or right >= "\u2e80")
