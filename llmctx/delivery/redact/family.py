"""Patterns that are searched together, where a sieve says that they may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Final

from llmctx.delivery.redact.normal_form import NormalForm, SearchText
from llmctx.delivery.redact.sieve import Sieve
from llmctx.delivery.redact.text_spans import Span

_SHORT: Final = 100  # characters that are searched at once
_PIECE: Final = 4096
_OVERLAP: Final = 512  # a pattern's beginning is no longer than that, and no finding looks further back
_LONGEST: Final = 20_000  # characters of a secret in one line
_WORTH: Final = 0.6  # of a text: beyond that all of it is searched
Search = Callable[[SearchText, list[Span]], None]
Place = tuple[tuple[int, int], int, int]
"""A core, in which findings may begin, and the start and end of what must be searched for that."""


class Family:
    """`search` is worth while if one of the patterns, which are `wider` ones, is in a view's `raw`, `low` or `text`.

    Without patterns it always is. One of `words` must be in `low` of the whole text, however far from what is found.
    `joined`: its patterns of `low` are few enough to be looked for together with those of others first.
    """

    def __init__(
        self,
        search: Search,
        *,
        raw: Iterable[str] = (),
        low: Iterable[str] = (),
        text: Iterable[str] = (),
        words: tuple[bytes, ...] = (),
        joined: bool = False,
    ) -> None:
        self.search = search
        self.joined = joined
        self.patterns = {"raw": list(raw), "low": list(low), "text": list(text)}
        self._words = words

    @cached_property
    def _sieves(self) -> list[tuple[str, Sieve]]:
        return [(name, Sieve(patterns)) for name, patterns in self.patterns.items() if patterns]

    def is_for(self, view: NormalForm) -> bool:
        """Return True if one of the words is there."""
        return not self._words or any(word in view.low for word in self._words)

    def may_be_in(self, view: NormalForm, start: int, end: int, is_open: bool = True) -> bool:
        """Return True if something may begin between `start` and `end`; `is_open`: a joined pattern is there."""
        if not self._sieves:
            return True
        for name, sieve in self._sieves:
            if (name == "text" and view.is_ascii) or (name == "low" and self.joined and not is_open):
                continue
            if sieve(view.shown(name)[start:end]):
                return True
        return False


class Families:
    """What is searched in a text: each family where it may find something, in short texts everywhere."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    @cached_property
    def _joined(self) -> Sieve:
        patterns = [pattern for family in self._families if family.joined for pattern in family.patterns["low"]]
        return Sieve(["|".join(patterns)] if patterns else [])

    def find(self, view: NormalForm, spans: list[Span]) -> None:
        """Append to `spans` what is found."""
        size = len(view.raw)
        if size <= _PIECE:
            is_open = size <= _SHORT or self._joined(view.shown("low"))
            for family in self._families:
                if (size <= _SHORT or family.may_be_in(view, 0, size, is_open)) and family.is_for(view):
                    family.search(view, spans)
            return
        low = view.shown("low")
        pieces = [
            (at, start, end, self._joined(low[start:end]))
            for at in range(0, size, _PIECE)
            for start, end in ((max(0, at - _OVERLAP), at + _PIECE + _OVERLAP),)
        ]
        for family in self._families:
            cores = [
                (at, at + _PIECE) for at, start, end, is_open in pieces if family.may_be_in(view, start, end, is_open)
            ]
            if not cores or not family.is_for(view):
                continue
            places = places_of(cores, view.raw)
            if places is None:
                family.search(view, spans)
            for core, first, last in places or ():
                found: list[Span] = []
                family.search(view.part(first, last), found)
                spans += within(core, first, found)


def places_of(cores: Iterable[tuple[int, int]], text: str | bytes, around: int = _OVERLAP) -> list[Place] | None:
    """Return the place of each core.

    Cores are in order; those that are near are one. A place begins and ends with a line, if lines are not too long.
    `around`: characters that are looked at on both sides. None if it is most of `text`.
    """
    size = len(text)
    find: Any = text.find
    rfind: Any = text.rfind
    newline, blank = (b"\n", b" ") if isinstance(text, bytes) else ("\n", " ")
    places: list[Place] = []
    for start, end in cores:
        before, behind = max(0, start - around), end + around
        above = max(0, before - _PIECE)
        first = max(rfind(newline, above, before), rfind(blank, max(0, before - _LONGEST), before)) + 1
        last = find(newline, behind, behind + _LONGEST)
        if last < 0:
            last = min(size, behind + _LONGEST)
        if places and first <= places[-1][2]:
            places[-1] = ((places[-1][0][0], max(end, places[-1][0][1])), places[-1][1], max(last, places[-1][2]))
        else:
            places.append(((start, end), first, last))
    return None if sum(last - first for _, first, last in places) > _WORTH * size else places


def within(core: tuple[int, int], first: int, spans: Iterable[Span]) -> list[Span]:
    """Return those of `spans` that begin in `core`, as they stand in the whole text; `first` is where theirs begins."""
    return [(first + start, first + end, kind) for start, end, kind in spans if core[0] <= first + start < core[1]]
