"""Tell in one pass over a text whether a search is worth while.

Most of what is searched holds nothing. The regex engine of Rust that pydantic brings reads a text once for any number
of patterns, at a hundredth of what the library's own takes, but knows no lookarounds and says only yes or no. So each
pattern is turned into one for it that matches wherever the pattern does, and at few other places (`widen`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

from pydantic_core import SchemaValidator, core_schema

ANY_ASCII: Final = r"[\x00-\x7f]"
"""Every sign of a text of which each has become one byte (`normal_form.py`): few, which keeps the automata small."""
BEYOND: Final = {0x80: 0x02, 0x81: 0x03, 0xFF: 0x03}
"""What stands for bytes that are not ASCII."""
_ANY: Final = r"[\x00-\x{10ffff}]"
_MOST: Final = 6  # repeats that are counted
_SPREAD, _EXACT = 4, 40  # or so many, if their number is nearly told
_FEW: Final = 8  # or without end, if they are of one sign, and few must be there
_LEAST: Final = 16  # of those that must be there, if they are the last that is looked at
_ONE_SIGN: Final = ("LITERAL", "NOT_LITERAL", "ANY", "IN")
_CATEGORIES: Final = {"DIGIT": "0-9", "SPACE": r" \t\n\r\x0b\x0c", "WORD": "A-Za-z0-9_"}


def sieve(pattern: str) -> Callable[[str], bool]:
    """Return what tells of a text whether `pattern`, made by `widen`, may be somewhere in it."""
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")).isinstance_python


def widen(pattern: str | bytes) -> str:
    """Return a pattern for Rust's engine that matches wherever the beginning of a match of `pattern` is.

    It ends where something may be repeated more than `_MOST` times: what such repeats make of a text are more states
    than the engine keeps, and then it is slow. Lookarounds go, but for one at the beginning that one sign fulfils.
    """
    items = list(importlib.import_module("re._parser").parse(pattern))
    every = _ANY if isinstance(pattern, str) and max(pattern) > "\xff" else ANY_ASCII
    first = _edge(items[0], every) if len(items) > 1 else ""
    return first + _sequence(items, every)[0]


def _edge(item: Any, every: str) -> str:
    """Return what must stand before the first sign that is matched."""
    name, argument = str(item[0]), item[1]
    if name not in ("ASSERT", "ASSERT_NOT") or argument[0] > 0:
        return ""
    inner = list(argument[1])
    if name == "ASSERT":
        shown, is_whole = _sequence(inner, every)
        return shown if is_whole else ""
    if len(inner) == 1 and str(inner[0][0]) == "IN" and not any(str(part[0]) == "NEGATE" for part in inner[0][1]):
        return f"(?:^|[{every}--{_class(inner[0][1], every)}])"
    return ""


def _sequence(items: list[Any], every: str) -> tuple[str, bool]:
    """Return the pattern, and False if it is only how one begins; `every` is the class of all signs."""
    shown = ""
    for op, argument in items:
        more, is_whole = _item(str(op), argument, every)
        shown += more
        if not is_whole:
            return shown, False
    return shown, True


def _item(name: str, argument: Any, every: str) -> tuple[str, bool]:
    if name == "LITERAL":
        return _escaped(argument), True
    if name == "NOT_LITERAL":
        return f"[{every}--{_escaped(argument)}]", True
    if name == "ANY":
        return rf"[{every}--\n]", True
    if name == "IN":
        return _class(argument, every), True
    if name == "BRANCH":
        branches = [_sequence(list(branch), every) for branch in argument[1]]
        return "(?:" + "|".join(shown for shown, _ in branches) + ")", all(is_whole for _, is_whole in branches)
    if name in ("SUBPATTERN", "ATOMIC_GROUP"):
        shown, is_whole = _sequence(list(argument[-1] if name == "SUBPATTERN" else argument), every)
        return f"(?:{shown})", is_whole
    if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, body = argument
        shown, is_whole = _sequence(list(body), every)
        if most > _MOST and least <= _FEW and len(body) == 1 and str(body[0][0]) in _ONE_SIGN:
            return f"{shown}{{{least},}}", True
        if is_whole and (most <= _MOST or (most - least <= _SPREAD and most <= _EXACT)):
            return f"(?:{shown}){{{least},{most}}}", True
        return (f"(?:{shown}){{{min(least, _LEAST) if is_whole else 1}}}" if least else ""), False
    if name == "GROUPREF":
        return "", False
    if name in ("AT", "ASSERT", "ASSERT_NOT"):
        return "", True
    raise NotImplementedError(name)


def _class(parts: list[Any], every: str) -> str:
    inner = []
    for op, argument in parts:
        name = str(op)
        if name == "NEGATE":
            inner.append("^")
        elif name == "LITERAL":
            inner.append(_escaped(argument))
        elif name == "RANGE":
            inner.append(f"{_escaped(argument[0])}-{_escaped(argument[1])}")
        elif name == "CATEGORY" and (known := _CATEGORIES.get(str(argument).removeprefix("CATEGORY_"))):
            inner.append(known)
        else:
            return every
    if inner[0] == "^":
        return f"[{every}--[{''.join(inner[1:])}]]"
    return f"[{''.join(inner)}]"


def _escaped(code: int) -> str:
    code = BEYOND.get(code, code)
    return chr(code) if chr(code).isalnum() and code < 128 else f"\\x{{{code:x}}}"
