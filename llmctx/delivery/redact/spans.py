"""What detectors share: how a finding looks, how findings become a text, and where a word may begin.

Detectors search a `SearchText` of a text: its characters as single bytes, anything beyond ASCII as "?", so that a
position in one is the same position in the other, searching is as fast as the C library, and lower case never
changes length.

A word begins where no letter or digit stands before it, and also behind an escape: texts often hold JSON, and the "n"
of a `\\n`, or the hex digits of a `\\u4e2d`, belong to the escape and not to the telephone number behind it. What a URL
writes as `%40` or `%3D` is the sign that it stands for, and fillers before it.
"""

from __future__ import annotations

import re
from typing import Final

Span = tuple[int, int, str]
"""A piece of a text that must go, and what it is: start, end, kind. A plain tuple, for texts full of them."""


_PERCENT: Final = re.compile(rb"%[0-7][0-9A-Fa-f]")
_SIGNS: Final = [
    (f"%{case}".encode(), ((filler or sign) * 2 + sign).encode())
    for signs, filler in (("%", "_"), ("@+-._", "_"), ("\"'\\", ""), ("\t\n\r !#$&()*,/:;<=>?[]^`{|}~", " "))
    for sign in signs
    for case in dict.fromkeys((f"{ord(sign):02X}", f"{ord(sign):02x}"))
]
"""How a URL writes them; "%" first, for in a URL within a URL it stands before all others. What may stand in an e-mail
address has fillers that may do so as well."""


class SearchText:
    """A text for searching: `raw` and `low` have one byte for each of its characters."""

    def __init__(self, text: str) -> None:
        self.text = text
        raw = text.encode("ascii", "replace")
        if b"%" in raw and _PERCENT.search(raw):
            for code, sign in _SIGNS:
                raw = raw.replace(code, sign)
        self.raw = raw
        self.low = self.raw.lower()


def begins(prefix: str) -> str:
    """`prefix` as the beginning of a word. The literal comes first: that is what the regex engine can search fast."""
    return rf"{prefix}(?:(?<![A-Za-z0-9]{prefix})|(?<=\\[nrtbf]{prefix})|(?<=\\u[0-9a-fA-F]{{4}}{prefix}))"


_ESCAPE: Final = re.compile(rb"(?<=\\)(?:[nrtbf]|u[0-9a-fA-F]{4})")


def after_escape(raw: bytes, start: int) -> int:
    """`start`, or what follows the escape whose letter stands there."""
    if start and raw[start - 1] == 0x5C and (escape := _ESCAPE.match(raw, start)):
        return escape.end()
    return start


def merged(spans: list[Span]) -> list[Span]:
    """`spans` in order, those that overlap as one, of the kind of the first or, of several, the longest."""
    if len(spans) < 2:
        return spans
    spans.sort(key=_by_place)
    found: list[Span] = []
    last = 0
    for span in spans:
        if span[0] >= last:
            found.append(span)
            last = span[1]
        elif span[1] > last:
            last = span[1]
            found[-1] = (found[-1][0], last, found[-1][2])
    return found


def _by_place(span: Span) -> tuple[int, int]:
    return span[0], -span[1]


def placeholder(kind: str) -> str:
    return f"[redacted:{kind}]"


def replaced(text: str, spans: list[Span]) -> str:
    """`text` with a placeholder for each of `spans`, which are in order and apart."""
    pieces: list[str] = []
    at = 0
    for start, end, kind in spans:
        pieces += text[at:start], placeholder(kind)
        at = end
    pieces.append(text[at:])
    return "".join(pieces)
