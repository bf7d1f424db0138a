"""Lines of CSV that keep NULL and "" apart, and that neither a spreadsheet nor a terminal acts on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from llmctx.core.text import escape_controls

# What a spreadsheet may take for a formula, also behind what some of them strip, and in full width.
_FORMULA: Final = re.compile(r"[\s\"'`\u200b\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20\u2212|%]|[\t\r]")
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")
_QUOTED: Final = re.compile(r"[,;\"'\t\r\n\s]")


def csv_line(values: Iterable[Any]) -> str:
    """Return a line of texts, numbers and None, with its end; None is nothing, an empty text is `\"\"`."""
    return ",".join(map(_cell, values)) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value)
    text = escape_controls(value, breaks=True)
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        text = f"'{text}"
    return text if text and not _QUOTED.search(text) else '"' + text.replace('"', '""') + '"'
