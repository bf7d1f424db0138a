"""A redactor that does not search a text again in which it has found nothing.

The messages of a conversation are sent to the model at each of its turns, those of a graph's state at each of its
nodes, and a system prompt with every call: most of what is searched was searched before. What is remembered of a text
is that it is clean, under a hash; the text is not. A text counts as known once it has come a second time, and then by a
digest with a key of this process's own: a text that does not come again costs a look at both of its ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from llmctx.core.record import SNAPSHOTS
from llmctx.delivery.redact import Redactor
from llmctx.delivery.redact.custom import Function

_NAMES: Final = frozenset(SNAPSHOTS)
_ROLES: Final = frozenset({"user", "assistant", "system", "tool"})
_END: Final = 32  # characters
_LEAST: Final = 128
"""Characters of a text that is remembered: a shorter one is searched in less time than it is known."""
_WORTH: Final = 1536
"""Characters that are to be known for them to be left out: fewer are searched sooner than all is put together again."""
_MOST: Final = 4096
"""Texts that are remembered, of the latest; as many again of those before."""


class CachingRedactor(Redactor):
    """Redacts as `Redactor` does; not for patterns and functions of the team's own, which may find something in a text
    or not by what stands around it.
    """

    def __init__(self, kinds: Iterable[str] | None = None) -> None:
        super().__init__(kinds)
        self._key = os.urandom(16)
        self._latest: dict[int, bytes] = {}
        """Marks of clean texts, each with the digest of one that has come again."""
        self._before: dict[int, bytes] = {}

    def redact_tree(self, value: Any) -> Any:
        """Return `value`, redacted. In a dict of snapshots the contents of messages that are known are left out of the
        search.
        """
        if type(value) is not dict or not _NAMES.issuperset(value):
            return super().redact_tree(value)
        texts = [
            text
            for item in value.values()
            for one in (item if type(item) is list else (item,))
            if (text := _text_worth_knowing(one))
        ]
        marks = [_mark(text) for text in texts]
        latest, before = self._latest, self._before
        known = sum(len(text) for mark, text in zip(marks, texts, strict=True) if latest.get(mark) or before.get(mark))
        if known >= _WORTH:
            return self._redact_the_rest(value)
        redacted = super().redact_tree(value)
        if redacted is value:
            for mark, text in zip(marks, texts, strict=True):
                self._remember(mark, text)
            return value
        return self._put_together(value, value, redacted)

    def _redact_the_rest(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return `value`, redacted, in which only the texts are searched that are not known."""
        asked = {
            name: [self._asked(one) for one in item] if type(item) is list else self._asked(item)
            for name, item in value.items()
        }
        return self._put_together(value, asked, asked if _is_empty(asked) else super().redact_tree(asked))

    def _put_together(self, value: dict[str, Any], asked: dict[str, Any], redacted: dict[str, Any]) -> dict[str, Any]:
        return {
            name: [self._answered(*of_one) for of_one in zip(item, asked[name], redacted[name], strict=True)]
            if type(item) is list
            else self._answered(item, asked[name], redacted[name])
            for name, item in value.items()
        }

    def is_known_clean(self, text: str) -> bool:
        """Return whether `text` is clean, and was searched at least twice."""
        mark = _mark(text)
        digest = self._latest.get(mark) or self._before.get(mark)
        return bool(digest) and digest == self._digest(text)

    def _asked(self, item: Any) -> Any:
        if (text := _text_worth_knowing(item)) and self.is_known_clean(text):
            return {**item, "content": ""}
        return item

    def _answered(self, item: Any, asked: Any, redacted: Any) -> Any:
        if asked is not item:
            text = item["content"]
            self._remember(_mark(text), text)
            return {**redacted, "content": text}
        if (text := _text_worth_knowing(item)) and redacted["content"] == text:
            self._remember(_mark(text), text)
        return redacted

    def _remember(self, mark: int, text: str) -> None:
        digest = self._latest.get(mark)
        if digest is None:
            digest = self._before.get(mark)
            if len(self._latest) >= _MOST:
                self._before, self._latest = self._latest, {}
            self._latest[mark] = b"" if digest is None else digest or self._digest(text)
        elif not digest:
            self._latest[mark] = self._digest(text)

    def _digest(self, text: str) -> bytes:
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=self._key).digest()


def _text_worth_knowing(item: Any) -> str:
    """Return the content of a message, "" if it is too short, or no text, or `item` is no message."""
    content = item.get("content") if type(item) is dict else None
    return content if type(content) is str and len(content) >= _LEAST else ""


def _mark(text: str) -> int:
    return hash((len(text), text[:_END], text[-_END:]))


def _is_empty(asked: dict[str, Any]) -> bool:
    """Return whether nothing is left to search."""
    return all(
        type(one) is dict and len(one) == 2 and one.get("content") == "" and one.get("role") in _ROLES
        for item in asked.values()
        for one in (item if type(item) is list else (item,))
    )


def redactor_of(kinds: Iterable[str] | None, patterns: Mapping[str, str], functions: Sequence[Function]) -> Redactor:
    """Return what redacts `kinds`, and what the team's own patterns and functions find. Raise `ConfigError`."""
    if patterns or functions:
        return Redactor(kinds, patterns=patterns, functions=functions)
    return CachingRedactor(kinds)
