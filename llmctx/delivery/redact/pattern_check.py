"""Judge by its structure whether a regular expression may take for ever.

The standard library's engine tries every way in which repeats may share a text among them. It is safe where there is
one way only, or few: no repeat of what repeats, no repeat of alternatives that match the same, between two repeats
something that the first of them cannot match, no reference to what repeats, and few ways in all for parts that may be
longer or shorter. That is read from what the library's own parser makes of a pattern; no clock is asked, so the answer
is the same on every machine.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any, Final

_MANY: Final = 64  # a repeat of more than that counts as endless
_MOST_WAYS: Final = 5_000
_SAMPLE: Final = "".join(map(chr, range(128))) + "é中\u2028"
_EVERY: Final = frozenset(_SAMPLE)
_REPEATS: Final = ("MAX_REPEAT", "MIN_REPEAT")
_CATEGORIES: Final = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}


def fault_of(pattern: str) -> str | None:
    """Return what in `pattern` may take for ever, None if nothing does. `pattern` is one that compiles."""
    parsed = importlib.import_module("re._parser").parse(pattern)
    if fault := _fault(parsed, within=False, is_repeated=False):
        return fault
    return "refers to what repeats" if {"GROUPREF", "endless"} <= set(_names(parsed)) else None


def _names(parsed: Any) -> Iterator[str]:
    """Yield the names of all operations of a pattern, and "endless" if one repeats without end."""
    for op, argument in parsed:
        yield str(op)
        if str(op) in _REPEATS and argument[1] > _MANY:
            yield "endless"
        for part in _parts_of(argument):
            yield from _names(part)


def _fault(parsed: Any, within: bool, is_repeated: bool) -> str | None:
    """Return the fault of a part of a pattern; `within`: of an endless repeat, `is_repeated`: of any."""
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
            if fault := _fault(body, within or most > _MANY, is_repeated or most > 1):
                return fault
        else:
            if name == "BRANCH" and is_repeated and _is_ambiguous(argument[1]):
                return "repeats alternatives that match the same"
            for part in _parts_of(argument):
                if fault := _fault(part, within, is_repeated):
                    return fault
    flat = list(_flat(items))
    if _has_rivals(flat):
        return "has repeats beside each other that match the same"
    return "can share a text among its parts in thousands of ways" if _ways(flat) > _MOST_WAYS else None


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


def _is_ambiguous(alternatives: list[Any]) -> bool:
    """Return True if two alternatives of one length may match the same."""
    signs = [_signs_by_place(alternative) for alternative in alternatives]
    return any(
        len(one) == len(other) and all(a & b for a, b in zip(one, other, strict=True))
        for number, one in enumerate(signs)
        for other in signs[:number]
    )


def _signs_by_place(parsed: Any) -> list[frozenset[str]]:
    """Return what may stand at each place of what a pattern without variable repeats matches."""
    places: list[frozenset[str]] = []
    for item in _flat(list(parsed)):
        width = 1
        if str(item[0]) in _REPEATS:
            width = item[1][0] * item[1][2].getwidth()[0]
        elif str(item[0]) == "BRANCH":
            width = item[1][1][0].getwidth()[0]
        places += [_signs(item)] * width
    return places


def _ways(items: list[Any]) -> int:
    """Return in how many ways repeats that stand beside each other, and are not endless, may share a text."""
    most = ways = 1
    shared: frozenset[str] = frozenset()
    for item in items:
        signs = _signs(item)
        if not signs & shared:
            ways, shared = 1, frozenset()
        if str(item[0]) in _REPEATS and item[1][0] != item[1][1] <= _MANY:
            ways *= item[1][1] - item[1][0] + 1
            shared |= signs
            most = max(most, ways)
    return most


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
