"""The further pieces of a secret: of a line that was broken, of literals that a program joins.

`KEY=sk-proj-…` with its rest on the next line, `"sk-proj-…" + "…"`. Only the first piece tells what it is, so
others are looked for behind those that were found.
"""

from __future__ import annotations

import re
from typing import Final

from llmctx.delivery.redact.secret_values import is_random
from llmctx.delivery.redact.text_spans import Span

_JOINED: Final = re.compile(
    rb"[\"'`][ \t]{0,4}(?:[+.&][ \t]{0,4}(?:\r?\n[ \t]{0,60})?|\r?\n[ \t]{0,60}[+.&]?[ \t]{0,4})[\"'`]"
    rb"([^\s\"'`]{8,4096}+)(?=[\"'`])"
)
_BROKEN: Final = re.compile(rb"\r?\n([A-Za-z0-9_+/-]{8,4096}+={0,2}+)(?=[\"'`]?[ \t]{0,4}(?:\r?\n|\Z))")
_LINE: Final = 16  # characters of the least that is broken
_QUOTES: Final = (b'"', b"'", b"`")
_ENDS: Final = (b"\n", b"\r")


def find_continuations(raw: bytes, spans: list[Span]) -> None:
    """Append to `spans` what goes on with one of them."""
    starts = {start for start, _, _ in spans}
    for start, end, kind in spans[:]:
        behind = raw[end : end + 1]
        if kind not in ("api_key", "token", "password"):
            continue
        if behind in _QUOTES:
            form = _JOINED
        elif behind in _ENDS and kind != "password" and end - start >= _LINE:
            form = _BROKEN
        else:
            continue
        while (more := form.match(raw, end)) and more.start(1) not in starts and is_random(more[1], 8):
            start, end = more.span(1)
            starts.add(start)
            spans.append((start, end, kind))
