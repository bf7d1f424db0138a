"""What detectors share: how a finding looks, and how findings become a text."""

from __future__ import annotations

from typing import Final

Span = tuple[int, int, str]
"""A piece of a text that must go, and what it is: start, end, kind. A plain tuple, for texts full of them."""


def merge_overlaps(spans: list[Span]) -> list[Span]:
    """Return `spans` in order, those that overlap as one, of the kind of the first or, of several, the longest."""
    if len(spans) < 2:
        return spans
    spans.sort()
    found: list[Span] = []
    last = 0
    for span in spans:
        if span[0] >= last:
            found.append(span)
            last = span[1]
        elif span[1] > last:
            last = span[1]
            begin, _, kind = found[-1]
            found[-1] = (begin, last, span[2] if span[0] == begin else kind)
    return found


def placeholder(kind: str) -> str:
    """Return what stands for a finding; in quotes, if its kind begins with one."""
    return f'"[redacted:{kind[1:]}]"' if kind[0] == '"' else f"[redacted:{kind}]"


_OURS: Final = tuple(
    (placeholder(kind).encode(), b"[" + b"?" * (len(kind) + 9) + b"]")
    for kind in ("api_key", "token", "password", "private_key", "email", "card", "phone", "resident_id", "iban", "ip")
)


def mask_placeholders(raw: bytes) -> bytes:
    """Return `raw` without the names in placeholders, which would tell of what stands behind them."""
    if b"[redacted:" in raw:
        for shown, mask in _OURS:
            raw = raw.replace(shown, mask)
    return raw


def replace_spans(text: str, spans: list[Span]) -> str:
    """Return `text` with a placeholder for each of `spans`, which are in order and apart."""
    pieces: list[str] = []
    at = 0
    for start, end, kind in spans:
        pieces += text[at:start], placeholder(kind)
        at = end
    pieces.append(text[at:])
    return "".join(pieces)
