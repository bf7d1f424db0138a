"""Detectors, each run only on the parts of a text where its sieve says that it may find something."""

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
Window = tuple[tuple[int, int], int, int]
"""A core, in which findings may begin, and the start and end of what must be searched for that."""


class Detector:
    """A search, run where one of the patterns (made by `widen`) is in a view's `raw`, `low` or `text`.

    Without patterns it always is. One of `words` must be in `low` of the whole text, however far from what is found.
    `is_joint`: its patterns of `low` are few enough to be looked for together with those of others first.
    """

    def __init__(
        self,
        search: Search,
        *,
        raw: Iterable[str] = (),
        low: Iterable[str] = (),
        text: Iterable[str] = (),
        words: tuple[bytes, ...] = (),
        is_joint: bool = False,
    ) -> None:
        self.search = search
        self.is_joint = is_joint
        self.patterns = {"raw": list(raw), "low": list(low), "text": list(text)}
        self._words = words

    @cached_property
    def _sieves(self) -> list[tuple[str, Sieve]]:
        return [(name, Sieve(patterns)) for name, patterns in self.patterns.items() if patterns]

    def has_required_word(self, view: NormalForm) -> bool:
        """Return True if one of the words is there."""
        return not self._words or any(word in view.low for word in self._words)

    def may_be_in(self, view: NormalForm, start: int, end: int, is_open: bool = True) -> bool:
        """Return True if something may begin between `start` and `end`; `is_open`: a joint pattern is there."""
        if not self._sieves:
            return True
        for name, sieve in self._sieves:
            if (name == "text" and view.is_ascii) or (name == "low" and self.is_joint and not is_open):
                continue
            if sieve(view.sieve_form(name)[start:end]):
                return True
        return False


class DetectorSet:
    """Run each detector where it may find something; in short texts everywhere."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._detectors = detectors

    @cached_property
    def _joined(self) -> Sieve:
        patterns = [
            pattern for detector in self._detectors if detector.is_joint for pattern in detector.patterns["low"]
        ]
        return Sieve(["|".join(patterns)] if patterns else [])

    def find(self, view: NormalForm, spans: list[Span]) -> None:
        """Append to `spans` what is found."""
        size = len(view.raw)
        if size <= _PIECE:
            is_open = size <= _SHORT or self._joined(view.sieve_form("low"))
            for detector in self._detectors:
                if (size <= _SHORT or detector.may_be_in(view, 0, size, is_open)) and detector.has_required_word(view):
                    detector.search(view, spans)
            return
        low = view.sieve_form("low")
        pieces = [
            (at, start, end, self._joined(low[start:end]))
            for at in range(0, size, _PIECE)
            for start, end in ((max(0, at - _OVERLAP), at + _PIECE + _OVERLAP),)
        ]
        for detector in self._detectors:
            cores = [
                (at, at + _PIECE) for at, start, end, is_open in pieces if detector.may_be_in(view, start, end, is_open)
            ]
            if not cores or not detector.has_required_word(view):
                continue
            windows = windows_around(cores, view.raw)
            if windows is None:
                detector.search(view, spans)
            for core, first, last in windows or ():
                found: list[Span] = []
                detector.search(view.part(first, last), found)
                spans += spans_starting_in(core, first, found)


def windows_around(cores: Iterable[tuple[int, int]], text: str | bytes, around: int = _OVERLAP) -> list[Window] | None:
    """Return the windows that must be searched for what begins in each core.

    Cores are in order; those that are near are one. A window begins and ends with a line, if lines are not too long.
    `around`: characters that are looked at on both sides. None if it is most of `text`.
    """
    size = len(text)
    find: Any = text.find
    rfind: Any = text.rfind
    newline, blank = (b"\n", b" ") if isinstance(text, bytes) else ("\n", " ")
    windows: list[Window] = []
    for start, end in cores:
        before, behind = max(0, start - around), end + around
        above = max(0, before - _PIECE)
        first = max(rfind(newline, above, before), rfind(blank, max(0, before - _LONGEST), before)) + 1
        last = find(newline, behind, behind + _LONGEST)
        if last < 0:
            last = min(size, behind + _LONGEST)
        if windows and first <= windows[-1][2]:
            windows[-1] = ((windows[-1][0][0], max(end, windows[-1][0][1])), windows[-1][1], max(last, windows[-1][2]))
        else:
            windows.append(((start, end), first, last))
    return None if sum(last - first for _, first, last in windows) > _WORTH * size else windows


def spans_starting_in(core: tuple[int, int], first: int, spans: Iterable[Span]) -> list[Span]:
    """Return those of `spans` that begin in `core`, as they stand in the whole text; `first` is where theirs begins."""
    return [(first + start, first + end, kind) for start, end, kind in spans if core[0] <= first + start < core[1]]
