"""Secrets whose name stands once, above many: `api_keys = ["…", "…"]`, or a column `password` of a table.

A table is a line of names, of which one tells of a secret, a rule, and lines with as many cells up to an empty one:
Markdown, what the client of a database prints. What does not look like a secret stays.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import islice
from typing import Final

from llmctx.delivery.redact.normal_form import SearchText
from llmctx.delivery.redact.secret_values import DIGIT, WORDY, is_no_figure, is_password, is_random
from llmctx.delivery.redact.sieve import widen
from llmctx.delivery.redact.text_spans import Span

_KEY: Final = "secret|token|(?:api|access|secret|auth|private)[ _-]?(?:key|token)"
_WORDS: Final = "pass(?:w(?:or[dt]|d)|phrase)|pwd"

# -- lists ----------------------------------------------------------------------------------------------------------

_BULLET: Final = r"\n[ \t]{0,16}(?:[-*+]|\d{1,2}[.)])[ \t]{1,4}"
_LONG: Final = "[a-z0-9+/_.=-]{16,512}+"
_LIST: Final = (  # in brackets, one below the other, in one line
    r"s?(?:[\"'`]?[ \t]{0,4}:?[:=][ \t]{0,4}(?:\[\]string)?[\[({]"
    r"(?P<quoted>(?:[\s,]{0,32}[\"'`][^\"'`\n]{1,512}+[\"'`]){2,4096}+)"
    rf"|[\"'`*]{{0,3}}:[*]{{0,2}}[ \t]{{0,4}}\r?(?P<lines>(?:{_BULLET}[^\n]{{1,512}}+){{1,4096}}+)"
    rf"|[\"'`]?[ \t]{{0,2}}[:=][ \t]{{0,2}}[\"'`]?(?P<line>{_LONG}(?:[,;] ?{_LONG}){{1,4096}}+))"
)
_MEMBERS: Final = {
    "quoted": re.compile(rb"[\"'`]([^\"'`\n]{1,512}+)[\"'`]"),
    "lines": re.compile(rf"{_BULLET}[\"'`]?([^\s\"'`]{{4,512}}+)[\"'`]?(?=[ \t\r]{{0,4}}(?:\n|\Z))".encode()),
    "line": re.compile(rb"([^,; ]+)"),
}
_OF_KEYS: Final = "|".join(
    f"(?<={word}{gap}key)" for word in ("api", "access", "secret", "auth", "private") for gap in ("", "[ _-]")
)
_LISTS: Final = tuple(
    (kind, re.compile(f"{name}{_LIST}".encode()))
    for kind, name in (
        ("api_key", "secret"),
        ("api_key", "token"),
        ("api_key", f"key(?:{_OF_KEYS})"),
        ("password", "pass(?:w(?:or[dt]|d)|phrase)"),
        ("password", "pwd"),
    )
)
# -- tables ---------------------------------------------------------------------------------------------------------

_TABLES: Final = r"\| ?:?--|--:? ?\||--\+|\|-\|"  # signs that a rule has
_RULE: Final = re.compile(rb"\n {0,3}[|+]? ?:?-[-: ]{0,200}+[|+][-|+: ]{0,1000}+\r?(?=\n)")
_CELL: Final = re.compile(
    rf"(?:[a-z0-9]{{1,16}}[ _.-]|[\u4e00-\u9fff]{{1,4}}){{0,3}}(?:(?P<key>{_KEY}|密[钥鑰])"
    rf"|{_WORDS}|pass|pw|mot de passe|kennwort|contraseña|senha|密[码碼]|口令|パスワード|пароль)",
    re.IGNORECASE,
)
"""A cell that tells what is below it."""
_AROUND: Final = " \t\"'`*\r"
_EMPTY: Final = re.compile(rb"\n[ \t\r]{0,16}\n")
_HEAD: Final = 400  # characters
_COLUMNS: Final = 3  # of one table that are looked at
_MANY, _FEW = 256, 512  # lists, or tables: so many, and one more in so many characters


class ListedSecrets:
    """Find the members of lists and of columns, as kinds api_key and password."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds
        self._lists = [entry for entry in _LISTS if entry[0] in kinds]
        self.lists = "|".join(widen(form.pattern) for _, form in self._lists)
        """Of `low`."""
        self.tables = _TABLES if kinds & {"api_key", "password"} else ""
        """Of `raw`."""

    def find(self, view: SearchText, spans: list[Span]) -> None:
        """Append to `spans` what is found in lists."""
        for kind, form in self._lists:
            for found in islice(form.finditer(view.low), _most(view)):
                written = found.lastgroup or ""
                self._find_members(_MEMBERS[written], view.raw, *found.span(written), kind, spans)

    def find_columns(self, view: SearchText, spans: list[Span]) -> None:
        """Append to `spans` what is found in tables."""
        raw, end = view.raw, 0
        for rule in islice(_RULE.finditer(raw), _most(view)):
            last = rule.start()
            start = raw.rfind(b"\n", 0, last) + 1
            if start >= end and last - start < _HEAD and (columns := _columns(view.text[start:last])):
                end = empty.start() if (empty := _EMPTY.search(raw, last)) else len(raw)
                for member, kind in columns[:_COLUMNS]:
                    self._find_members(member, raw, last, end, kind, spans)

    def _find_members(
        self, member: re.Pattern[bytes], raw: bytes, start: int, end: int, kind: str, spans: list[Span]
    ) -> None:
        likely = _is_listed_password if kind == "password" else is_random
        if kind in self._kinds:
            spans += [(*found.span(1), kind) for found in member.finditer(raw, start, end) if likely(found[1])]


def _most(view: SearchText) -> int:
    """Return how many beginnings are looked at closely."""
    return _MANY + len(view.raw) // _FEW


def _columns(head: str) -> list[tuple[re.Pattern[bytes], str]]:
    """Return what is looked for below each cell that is the name of a secret, and its kind."""
    cells = head.split("|")
    return [
        (_member(number, len(cells) - number - 1), "api_key" if name["key"] else "password")
        for number, cell in enumerate(cells)
        if (name := _CELL.fullmatch(cell.strip(_AROUND)))
    ]


@cache
def _member(before: int, behind: int) -> re.Pattern[bytes]:
    """Return the pattern of a line with a value that has so many cells on both sides."""
    return re.compile(
        rb"\n(?:[^|\n]*+\|){%d}[ \t\"'`*]{0,64}+([^\s\"`|]{4,512}+)[ \t\"'`*\r]{0,64}+(?:\|[^|\n]*+){%d}(?=\n|\Z)"
        % (before, behind)
    )


def _is_listed_password(value: bytes) -> bool:
    return (
        DIGIT.search(value) is not None
        and is_password(value, True, b"")
        and (value.isalnum() or WORDY.fullmatch(value) is None)
        and is_no_figure(value)
    )
