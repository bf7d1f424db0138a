"""Detectors, each run only on the parts of a text where its sieve says that it may find something."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Final

from llmctx.delivery.redact.normal_form import NormalForm, SearchText
from llmctx.delivery.redact.sieve import sieve
from llmctx.delivery.redact.text_spans import Span

_PIECE: Final = 4096
_OVERLAP: Final = 512  # a pattern's beginning is no longer than that, and no finding looks further back
_LONGEST: Final = 20_000  # characters of a secret in one line
_WORTH: Final = 0.6  # of a text: beyond that all of it is searched
_GROUPS: Final = {
    "at": ("raw", ""),
    "keys": ("raw", ""),
    "marks": ("raw", ""),
    "names": ("low", ""),
    "words": ("low", ""),
    "digits": ("raw", "[0-9](?:(?:[ ._()/-]{0,3}[0-9]){5}|[0-9][ .-]?[A-Z]{4}[ .-]?[A-Z0-9]{4}[ .-]?[A-Z0-9]{3})"),
    "beyond": ("text", ""),
}
"""Which form of a text the gate of each group reads, and what it looks for: else what any of its detectors does."""
Search = Callable[[SearchText, list[Span]], None]
Window = tuple[tuple[int, int], int, int]
"""A core, in which findings may begin, and the start and end of what must be searched for that."""


class Detector:
    """A search, run where `pattern`, made by `widen`, is in `view`: a text's `raw`, `low` or `text`.

    Without a pattern it is wherever its group's gate is open. One of `words` must be in `low` of the whole text,
    however far from what is found. With `below`, what is found may begin below `pattern`, up to an empty line.
    """

    def __init__(
        self,
        group: str,
        search: Search,
        pattern: str = "",
        *,
        view: str = "",
        words: tuple[bytes, ...] = (),
        below: bool = False,
    ) -> None:
        self.group = group
        self.search = search
        self.pattern = pattern
        self._view = view or _GROUPS[group][0]
        self._words = words
        self.below = below

    @cached_property
    def _sieve(self) -> Callable[[str], bool]:
        return sieve(self.pattern)

    def has_required_word(self, view: NormalForm) -> bool:
        """Return True if one of the words is there."""
        return not self._words or any(word in view.low for word in self._words)

    def may_be_in(self, view: NormalForm, start: int, end: int) -> bool:
        """Return True if something may begin between `start` and `end`."""
        return not self.pattern or self._sieve(view.sieve_form(self._view)[start:end])


class _Group:
    """Detectors that share a gate: one pass over a text tells that none of them finds anything in it."""

    def __init__(self, name: str, detectors: list[Detector]) -> None:
        self.view, self._pattern = _GROUPS[name]
        self.detectors = detectors
        self.is_one = len(detectors) == 1 and not self._pattern

    @cached_property
    def may_be_in(self) -> Callable[[str], bool]:
        """Tell of a text whether one of the detectors may find something."""
        return sieve(self._pattern or "|".join(detector.pattern for detector in self.detectors))


class DetectorSet:
    """Run each detector where it may find something."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        names = dict.fromkeys(detector.group for detector in detectors)
        self._groups = [_Group(name, [detector for detector in detectors if detector.group == name]) for name in names]

    def find(self, view: NormalForm, spans: list[Span]) -> None:
        """Append to `spans` what is found."""
        if len(view.raw) > _PIECE:
            self._find_in_pieces(view, spans)
            return
        forms = view.for_sieves
        if not view.text.isascii():
            view.sieve_form("text")
        for group in self._groups:
            if (form := forms.get(group.view)) is not None and group.may_be_in(form):
                for detector in group.detectors:
                    if (group.is_one or detector.may_be_in(view, 0, _PIECE)) and detector.has_required_word(view):
                        detector.search(view, spans)

    def _find_in_pieces(self, view: NormalForm, spans: list[Span]) -> None:
        pieces = [(at, max(0, at - _OVERLAP), at + _PIECE + _OVERLAP) for at in range(0, len(view.raw), _PIECE)]
        for group in self._groups:
            if group.view == "text" and view.text.isascii():
                continue
            shown = view.sieve_form(group.view)
            some = [piece for piece in pieces if group.may_be_in(shown[piece[1] : piece[2]])]
            for detector in group.detectors if some else ():
                cores = [
                    (at, at + _PIECE) for at, start, end in some if group.is_one or detector.may_be_in(view, start, end)
                ]
                if cores and detector.has_required_word(view):
                    _find_at(detector, cores, view, spans)


def _find_at(detector: Detector, cores: list[tuple[int, int]], view: NormalForm, spans: list[Span]) -> None:
    windows = windows_around(cores, view.raw, below=detector.below)
    if windows is None:
        detector.search(view, spans)
    for core, first, last in windows or ():
        found: list[Span] = []
        detector.search(view.part(first, last), found)
        spans += spans_starting_in(core, first, found)


def windows_around(
    cores: Iterable[tuple[int, int]], text: str | bytes, around: int = _OVERLAP, *, below: bool = False
) -> list[Window] | None:
    """Return the windows that must be searched for what begins in each core.

    Cores are in order; those that are near are one. A window begins and ends with a line, if lines are not too long.
    `around`: characters that are looked at on both sides; `below`: what is below a core up to an empty line is of it.
    None if it is most of `text`.
    """
    size = len(text)
    find: Any = text.find
    rfind: Any = text.rfind
    newline, blank = (b"\n", b" ") if isinstance(text, bytes) else ("\n", " ")
    windows: list[Window] = []
    for start, end in cores:
        before, behind = max(0, start - around), end + around
        if below and windows and behind <= windows[-1][2]:
            continue
        above = max(0, before - _PIECE)
        first = max(rfind(newline, above, before), rfind(blank, max(0, before - _LONGEST), before)) + 1
        last = find(newline, behind, behind + _LONGEST)
        if below:
            last = end = find(newline * 2, behind) % (size + 1)
        elif last < 0:
            last = min(size, behind + _LONGEST)
        if windows and first <= windows[-1][2]:
            windows[-1] = ((windows[-1][0][0], max(end, windows[-1][0][1])), windows[-1][1], max(last, windows[-1][2]))
        else:
            windows.append(((start, end), first, last))
    return None if sum(last - first for _, first, last in windows) > _WORTH * size else windows


def spans_starting_in(core: tuple[int, int], first: int, spans: Iterable[Span]) -> list[Span]:
    """Return those of `spans` that begin in `core`, as they stand in the whole text; `first` is where theirs begins."""
    return [(first + start, first + end, kind) for start, end, kind in spans if core[0] <= first + start < core[1]]
