"""Judge by its structure whether a regular expression may take for ever.

The standard library's engine tries every way in which repeats may share a text among them. It is safe where there is
one way only: no repeat of what repeats, no repeat of alternatives, and between two repeats something that the first of
them cannot match. That is read from what the library's own parser makes of a pattern; no clock is asked, so the answer
is the same on every machine.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any, Final

_MANY: Final = 64  # a repeat of more than that counts as endless
_SAMPLE: Final = "".join(map(chr, range(128))) + "é中\u2028"
_EVERY: Final = frozenset(_SAMPLE)
_REPEATS: Final = ("MAX_REPEAT", "MIN_REPEAT")
_CATEGORIES: Final = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}


def fault_of(pattern: str) -> str | None:
    """Return what in `pattern` may take for ever, None if nothing does. `pattern` is one that compiles."""
    return _fault(importlib.import_module("re._parser").parse(pattern), within=False)


def _fault(parsed: Any, within: bool) -> str | None:
    items = list(parsed)
    for op, argument in items:
        name = str(op)
        if name in _REPEATS:
            least, most, body = argument
            endless = most > _MANY and most != least
            if endless and within:
                return "repeats what repeats"
            if most > 1 and _is_variable(body) and (endless or not _is_parted(body)):
                return "repeats what may be read in several ways"
            if fault := _fault(body, within or most > _MANY):
                return fault
        else:
            for part in _parts_of(argument):
                if fault := _fault(part, within):
                    return fault
    return "has repeats beside each other that match the same" if _has_rivals(list(_flat(items))) else None


def _parts_of(argument: Any) -> Iterator[Any]:
    """Yield the patterns inside of a group, an assertion or an alternative."""
    if hasattr(argument, "data"):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for part in argument:
            yield from _parts_of(part)


def _flat(items: list[Any]) -> Iterator[Any]:
    """Yield what stands one behind the other, groups opened."""
    for op, argument in items:
        if str(op) == "SUBPATTERN":
            yield from _flat(list(argument[-1]))
        elif str(op) not in ("AT", "ASSERT", "ASSERT_NOT"):
            yield op, argument


def _is_variable(body: Any) -> bool:
    """Return True if it matches texts of several lengths."""
    least, most = body.getwidth()
    return bool(least != most)


def _is_parted(body: Any) -> bool:
    """Return True if something in `body` must be there that its repeats cannot match: a separator."""
    items = list(_flat(list(body)))
    repeated = frozenset[str]().union(*(_signs(item) for item in items if str(item[0]) in _REPEATS))
    return any(str(op) not in (*_REPEATS, "BRANCH") and not _signs((op, argument)) & repeated for op, argument in items)


def _has_rivals(items: list[Any]) -> bool:
    """Return True if two endless repeats may share one text between them."""
    open_to: frozenset[str] = frozenset()  # what the repeats before could go on with
    for item in items:
        signs = _signs(item)
        if str(item[0]) in _REPEATS and item[1][1] > _MANY and item[1][0] != item[1][1]:
            if open_to & signs:
                return True
            open_to = signs if item[1][0] > 0 else open_to | signs
        elif str(item[0]) not in _REPEATS or item[1][0] > 0:
            open_to = open_to if signs & open_to else frozenset()
    return False


def _signs(item: Any) -> frozenset[str]:
    """Return the signs of the sample that an item may match somewhere in it."""
    op, argument = item
    name = str(op)
    if name == "LITERAL":
        return frozenset((chr(argument),)) if chr(argument) in _EVERY else frozenset("é中")
    if name == "NOT_LITERAL":
        return _EVERY - {chr(argument)}
    if name == "IN":
        found: frozenset[str] = frozenset()
        for part in argument:
            if str(part[0]) != "NEGATE":
                found |= _signs(part)
        return _EVERY - found if str(argument[0][0]) == "NEGATE" else found
    if name == "RANGE":
        return frozenset(sign for sign in _SAMPLE if argument[0] <= ord(sign) <= argument[1])
    if name == "CATEGORY":
        kind = str(argument).removeprefix("CATEGORY_").removeprefix("NOT_")
        found = frozenset(re.findall(_CATEGORIES.get(kind, "."), _SAMPLE))
        return _EVERY - found if "NOT_" in str(argument) else found
    if parts := list(_parts_of(argument)):
        return frozenset[str]().union(*(_signs(inner) for part in parts for inner in part))
    return _EVERY
