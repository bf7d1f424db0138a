"""Patterns that are searched together, where a sieve says that they may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Final

from llmctx.delivery.redact.normal_form import NormalForm, SearchText
from llmctx.delivery.redact.sieve import Sieve
from llmctx.delivery.redact.text_spans import Span

_SHORT: Final = 100  # characters that are searched at once
_PIECE: Final = 3072
_PART: Final = 384  # of a piece, for what is dear to search
_OVERLAP: Final = 512  # a pattern's beginning is no longer than that, and no finding looks further back
_LONGEST: Final = 20_000  # characters of a secret in one line
_WORTH: Final = 0.6  # of a text: beyond that all of it is searched
Search = Callable[[SearchText, list[Span]], None]


class Family:
    """`search` is worth while if one of the patterns, which are `wider` ones, is in a view's `raw`, `low` or `text`.

    `gate` is a simple pattern of `low` that is there too wherever one of those in `raw` or `low` is. One of `words`
    must be in `low` of the whole text, however far from what is found. `reach`: characters from the beginning of the
    longest pattern to its end.
    """

    def __init__(
        self,
        search: Search,
        *,
        raw: Iterable[str] = (),
        low: Iterable[str] = (),
        text: Iterable[str] = (),
        gate: Sieve | None = None,
        words: tuple[bytes, ...] = (),
        reach: int = _OVERLAP,
    ) -> None:
        self.search = search
        self.reach = reach
        self.patterns = {"raw": list(raw), "low": list(low), "text": list(text)}
        self._gate = gate
        self._words = words

    @cached_property
    def _sieves(self) -> list[tuple[str, Sieve]]:
        return [(name, Sieve(patterns)) for name, patterns in self.patterns.items() if patterns]

    def is_for(self, view: NormalForm) -> bool:
        """Return True if one of the words is there."""
        return not self._words or any(word in view.low for word in self._words)

    def may_be_in(self, view: NormalForm, start: int, end: int) -> bool:
        """Return True if something may begin between `start` and `end`."""
        is_open = self._gate is None or self._gate(view.shown("low")[start:end])
        return any(
            sieve(view.shown(name)[start:end])
            for name, sieve in self._sieves
            if (is_open if name != "text" else not view.is_ascii)
        )


class Families:
    """What is searched in a text: each family where it may find something, in short texts everywhere."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def find(self, view: NormalForm, spans: list[Span]) -> None:
        """Append to `spans` what is found."""
        size = len(view.raw)
        families = [family for family in self._families if family.is_for(view)]
        if size <= _SHORT:
            for family in families:
                family.search(view, spans)
            return
        pieces = [(at, max(0, at - _OVERLAP), at + _PIECE + _OVERLAP) for at in range(0, size, _PIECE)]
        for family in families:
            cores = [(at, at + _PIECE) for at, start, end in pieces if family.may_be_in(view, start, end)]
            if family.reach < _OVERLAP:
                cores = [
                    (at, at + _PART)
                    for start, end in cores
                    for at in range(start, min(end, size), _PART)
                    if family.may_be_in(view, max(0, at - family.reach), at + _PART + family.reach)
                ]
            places = places_of(cores, view.raw, family.reach)
            if places is None:
                family.search(view, spans)
            for core, first, last in places or ():
                found: list[Span] = []
                family.search(view.part(first, last), found)
                spans += within(core, first, found)


def places_of(
    cores: Iterable[tuple[int, int]], text: str | bytes, around: int = _OVERLAP
) -> list[tuple[tuple[int, int], int, int]] | None:
    """Return each core, in which findings may begin, with the start and end of what must be searched for that.

    Cores are in order; those that are near are one. A place begins and ends with a line, if lines are not too long.
    `around`: characters that are looked at on both sides. None if it is most of `text`.
    """
    size = len(text)
    find: Any = text.find
    rfind: Any = text.rfind
    newline, blank = (b"\n", b" ") if isinstance(text, bytes) else ("\n", " ")
    places: list[tuple[tuple[int, int], int, int]] = []
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
