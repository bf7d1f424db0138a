"""Tell in one pass over a text whether a search is worth while.

Most of what is searched holds nothing. The regex engine of Rust that pydantic brings reads a text once for any number
of patterns, at a hundredth of what the library's own takes, but knows no lookarounds and says only yes or no. So each
pattern is turned into one for it that matches wherever the pattern does, and at few other places (`wider`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, Final

from pydantic_core import SchemaValidator, core_schema

EVERY: Final = r"[\x00-\x7f]"
"""Every sign of a text of which each has become one byte (`normal_form.py`): few, which keeps the automata small."""
BEYOND: Final = {0x80: 0x02, 0x81: 0x03, 0xFF: 0x03}
"""What stands for bytes that are not ASCII."""
_ANY: Final = r"[\x00-\x{10ffff}]"
_MOST: Final = 24  # repeats that are counted
_CATEGORIES: Final = {"DIGIT": "0-9", "SPACE": r" \t\n\r\x0b\x0c", "WORD": "A-Za-z0-9_"}


class Sieve:
    """Says whether one of `patterns`, each of them `wider`, may be somewhere in a text."""

    def __init__(self, patterns: Iterable[str], *, ignore_case: bool = False) -> None:
        flags = "(?i)" if ignore_case else ""
        schema = core_schema.str_schema(pattern=f"{flags}(?:{'|'.join(patterns)})", regex_engine="rust-regex")
        self._matches = SchemaValidator(schema).isinstance_python

    def __call__(self, text: str) -> bool:
        return self._matches(text)


def wider(pattern: str | bytes, signs: dict[str, str] | None = None) -> str:
    """Return a pattern for Rust's engine that matches at least where `pattern` does.

    Lookarounds go, but for those at the ends that one sign or a few letters fulfil; long repeats count `_MOST` at most;
    a group that is repeated by its number may be anything. `signs`: what stands for a sign, for patterns of shapes.
    """
    items = list(importlib.import_module("re._parser").parse(pattern))
    signs = signs or {}
    if isinstance(pattern, str) and max(pattern) > "\xff":
        signs = {**signs, EVERY: _ANY}
    first = _edge(items[0], signs, "^") if len(items) > 1 else ""
    last = _edge(items[-1], signs, "$") if len(items) > 1 else ""
    return first + _sequence(items, signs) + last


def _edge(item: Any, signs: dict[str, str], end: str) -> str:
    """Return what must stand before the first sign that is matched, or behind the last."""
    name, argument = str(item[0]), item[1]
    if name not in ("ASSERT", "ASSERT_NOT") or (argument[0] < 0) != (end == "^"):
        return ""
    inner = list(argument[1])
    if name == "ASSERT":
        return _sequence(inner, signs)
    if len(inner) == 1 and str(inner[0][0]) == "IN" and not any(str(part[0]) == "NEGATE" for part in inner[0][1]):
        return f"(?:{end}|[{signs.get(EVERY, EVERY)}--{_class(inner[0][1], signs)}])"
    return ""


def _sequence(items: list[Any], signs: dict[str, str]) -> str:
    return "".join(_item(str(op), argument, signs) for op, argument in items)


def _item(name: str, argument: Any, signs: dict[str, str]) -> str:
    if name == "LITERAL":
        return f"[{_sign(argument, signs)}]" if chr(argument) in signs else _escaped(argument)
    if name == "NOT_LITERAL":
        return f"[{signs.get(EVERY, EVERY)}--{_sign(argument, signs)}]"
    if name == "ANY":
        return rf"[{signs.get(EVERY, EVERY)}--\n]"
    if name == "IN":
        return _class(argument, signs)
    if name == "BRANCH":
        return "(?:" + "|".join(_sequence(list(branch), signs) for branch in argument[1]) + ")"
    if name == "SUBPATTERN":
        return f"(?:{_sequence(list(argument[-1]), signs)})"
    if name == "ATOMIC_GROUP":
        return f"(?:{_sequence(list(argument), signs)})"
    if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, body = argument
        many = "" if most > _MOST else most
        return f"(?:{_sequence(list(body), signs)}){{{min(least, _MOST)},{many}}}"
    if name == "GROUPREF":
        return f"{signs.get(EVERY, EVERY)}*"
    if name in ("AT", "ASSERT", "ASSERT_NOT"):
        return ""
    raise NotImplementedError(name)


def _class(parts: list[Any], signs: dict[str, str]) -> str:
    inner = []
    for op, argument in parts:
        name = str(op)
        if name == "NEGATE":
            inner.append("^")
        elif name == "LITERAL":
            inner.append(_sign(argument, signs))
        elif name == "RANGE":
            inner.append(f"{_escaped(argument[0])}-{_escaped(argument[1])}")
        elif name == "CATEGORY" and (known := _CATEGORIES.get(str(argument).removeprefix("CATEGORY_"))):
            inner.append(known)
        else:
            return signs.get(EVERY, EVERY)
    if inner[0] == "^":
        return f"[{signs.get(EVERY, EVERY)}--[{''.join(inner[1:])}]]"
    return f"[{''.join(inner)}]"


def _sign(code: int, signs: dict[str, str]) -> str:
    return signs.get(chr(code), _escaped(code))


def _escaped(code: int) -> str:
    code = BEYOND.get(code, code)
    return chr(code) if chr(code).isalnum() and code < 128 else f"\\x{{{code:x}}}"
