"""What detectors share: how a finding looks, and how findings become a text.
"""

from __future__ import annotations

Span = tuple[int, int, str]
"""A piece of a text that must go, and what it is: start, end, kind. A plain tuple, for texts full of them."""


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
