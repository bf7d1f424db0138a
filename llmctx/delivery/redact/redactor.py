"""`Redactor`: what the rules of this folder find in a text is replaced by its kind, `[redacted:email]`.

A `Redactor` is made once and used by the pipeline's thread on texts as they are, before any of them becomes JSON. A
text is brought into one form first, in which escapes, invisible signs and other digits are undone (`normal_form.py`);
secrets (`secrets.py`) and personal data (`pii.py`) are searched in that, and replaced in the text as it was. Time is
linear in the length of a text, whatever it holds; the team's own patterns and functions are kept at arm's length
(`custom.py`). Redacting what is redacted changes nothing. JSON stays JSON.

Secrets are found also where a text was taken apart. Pieces of one message are searched together (`redact_parts`).
Where a text was cut, half a secret may stand at either end, which no pattern knows: there the last word, and the groups
of digits before it, are taken away too (`redact_cut`). So a cut needs no margin, and the caller's thread no redaction.
`redact_tree` does all of that for whole structures, in one pass over texts that hold nothing.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, Final

import orjson

from llmctx.core.errors import ConfigError
from llmctx.delivery.redact.custom import Function, OwnFunction, OwnPattern
from llmctx.delivery.redact.detectors import DetectorSet, Window, windows_around
from llmctx.delivery.redact.normal_form import NormalForm
from llmctx.delivery.redact.pii import Personal
from llmctx.delivery.redact.secrets import Credentials
from llmctx.delivery.redact.structures import collect, is_cut, is_in_pieces, is_number, name_for_value, parted, text_of
from llmctx.delivery.redact.text_spans import Span, merge_overlaps, placeholder, replace_spans

KINDS: Final = Credentials.KINDS | Personal.KINDS
"""api_key, token, password, private_key, email, card, phone, resident_id, iban, ip."""
EDGE: Final = 1024  # characters of a word that are taken away at most where a text was cut
_SHORTEST: Final = 6  # a@b.cd
_ROUNDS: Final = 8  # what stands beside a finding may be one itself once that has gone
_NEAR: Final = 200  # characters from a placeholder

_PLACEHOLDER: Final = re.compile(r"\[redacted:[a-z0-9_]{1,32}\]")
_DASHES: Final = r"\u00a0\u2010-\u2015\uff0d"
_EDGE_WORD: Final = rf"[A-Za-z0-9_.+/=@:%~\\{_DASHES}-]{{0,{EDGE}}}+"
_EDGE_GROUP: Final = (
    r"[^\S\n]{0,2}[-/() .]?[^\S\n]?(?<=[-/() .\u00a0\u2009\t])[-(]?[xX]?[A-Z0-9]{1,8}+[xX]?(?![A-Za-z0-9])"
)
_EDGE_PLACEHOLDER: Final = r"(?:\[redacted:[a-z0-9_]{1,32}\]|\][a-z0-9_]{1,32}:detcader\[)"
_EDGE: Final = re.compile(rf"(?:{_EDGE_PLACEHOLDER}(?={_EDGE_GROUP}))?{_EDGE_WORD}(?:{_EDGE_GROUP}){{0,8}}+")
"""A word and the groups of a number behind it, or, read backwards, before it."""


class Redactor:
    """Replace secrets and personal data in texts. Any thread may use it.

    Args:
        kinds: what is looked for, of `KINDS`; all by default.
        patterns: the team's own, name -> regular expression; the name stands in the placeholder.
        functions: the team's own; each gets a text and returns it redacted.
        deadline_s: how long one of them may take for one text.

    Raises `ConfigError` for a kind that does not exist and for a pattern that cannot be used safely. The methods raise
    `RedactionFailed` when one of the functions failed: then nothing of the call's texts may be kept.
    """

    def __init__(
        self,
        kinds: Iterable[str] | None = None,
        *,
        patterns: Mapping[str, str] | None = None,
        functions: Sequence[Function] = (),
        deadline_s: float = 0.25,
    ) -> None:
        wanted = KINDS if kinds is None else frozenset(kinds)
        if (unknown := wanted - KINDS) or not wanted:
            what = f"There is no kind {min(unknown)!r} to redact" if unknown else "No kind to redact is named"
            raise ConfigError(f"{what} (LLMCTX_REDACT, redact=). There are: {', '.join(sorted(KINDS))}.")
        self._credentials, self._detectors = _searches(wanted)
        self._patterns = [OwnPattern(name, pattern) for name, pattern in (patterns or {}).items()]
        if callable(functions) or not isinstance(functions, Iterable):
            raise ConfigError("redact_functions= is a list of functions, also where it is one.")
        self._functions = [OwnFunction(function, deadline_s) for function in functions]

    def redact(self, text: str) -> str:
        """Return `text` without what must not be kept."""
        changed: list[tuple[int, int]] | None = None
        for _ in range(_ROUNDS):
            spans = self._spans(text, changed)
            if not spans:
                break
            spans = _for_json(text, spans)
            changed = _near(spans)
            text = replace_spans(text, spans)
        for function in self._functions:
            text = function(text)
        return text

    __call__ = redact

    def redact_parts(self, parts: Sequence[str]) -> list[str]:
        """Return `parts` of one text, redacted: also what begins in one of them and ends in another.

        Its placeholder stands where it begins. Each part is searched by itself, too: a part may begin with a key that
        would not be recognised behind the last letter of the part before.
        """
        if len(parts) < 2:
            return [self.redact(part) for part in parts]
        kept = list(parts)
        for _ in range(_ROUNDS):
            spans = self._spans("".join(kept)) + self._spans_apart(kept)
            if not spans:
                break
            kept = _replaced_in_parts(kept, merge_overlaps(spans))
        for function in self._functions:
            whole = "".join(kept)
            if (redacted := function(whole)) != whole:
                kept = [function(part) for part in kept]
                if "".join(kept) != redacted:  # it has found what several parts make up: none can be told from others
                    kept = [redacted, *[""] * (len(kept) - 1)]
        return kept

    def redact_cut(self, head: str, tail: str) -> tuple[str, str]:
        """Return both ends of a text that was cut, redacted, without the halves of words at the cut."""
        return _trimmed(self.redact(head), self.redact(tail))

    def redact_tree(self, value: Any) -> Any:
        """Return `value`, redacted: texts, numbers that are one, and lists and dicts of such.

        A tuple with `head` and `tail` is a text that was cut, one with `pieces` a text that came in pieces. The texts
        of a list's blocks are parts of one text. In dicts the key tells what a text is: `{"password": "…"}`. Returns
        the same object if there is nothing to redact.
        """
        together: list[str] = []
        has_cuts = collect(value, together)
        if self._functions or self._spans("".join(together)):
            return self._tree(value)
        return _without_edges(value) if has_cuts else value

    def _tree(self, value: Any, key: str = "") -> Any:
        if isinstance(value, str):
            return self._named(key, value) if key else self.redact(value)
        if isinstance(value, dict):
            return {
                self.redact(name) if isinstance(name, str) else name: self._tree(item, name_for_value(value, name, key))
                for name, item in value.items()
            }
        if is_cut(value):
            head, tail = self.redact_cut(value.head, value.tail)
            return value._replace(head=head, tail=tail)
        if is_in_pieces(value):
            return "".join(self.redact_parts(value.pieces))
        if isinstance(value, (list, tuple)):
            return self._list(value, key)
        if is_number(value, key):
            shown = self._named(key, text := str(value)) if key else self.redact(text := str(value))
            return value if shown == text else shown
        return value

    def _list(self, value: Sequence[Any], key: str) -> list[Any]:
        texts = [text for item in value if (text := text_of(item)) is not None]
        if len(texts) < 2:
            return [self._tree(item, key) for item in value]
        parts = parted(texts)
        blank = "" if parts is texts else " "
        redacted = (part.removesuffix(blank) for part in self.redact_parts(parts))
        return [
            self._tree(item, key)
            if text_of(item) is None
            else self._tree(next(redacted), key)
            if isinstance(item, str)
            else {**self._tree({**item, "text": ""}, key), "text": next(redacted)}
            for item in value
        ]

    def _named(self, key: str, value: str) -> str:
        """Return `value` redacted as its key tells."""
        before = f'{key}="'
        shown = self.redact(f'{before}{value}"')
        if shown.startswith(before) and shown.endswith('"'):
            return shown[len(before) : -1]
        return self.redact(value)

    def _spans(self, text: str, changed: list[tuple[int, int]] | None = None) -> list[Span]:
        """Return the spans in `text`; with `changed`, those that begin in one of those places."""
        windows = None if changed is None else windows_around(changed, text, _NEAR)
        spans = self._found(text) if windows is None else self._found_in(text, windows)
        for pattern in self._patterns:
            spans += pattern.find(text)
        if spans and "\\" in text:
            spans = [_whole(text, span) for span in spans]
        return _beside_placeholders(text, merge_overlaps(spans)) if spans else spans

    def _found(self, text: str) -> list[Span]:
        spans: list[Span] = []
        if len(text) >= _SHORTEST:
            view = NormalForm(text)
            self._detectors.find(view, spans)
            self._credentials.find_beyond_lines(view, spans)
            if spans and not view.is_original:
                spans = [(*view.original_span(start, end), kind) for start, end, kind in spans]
        return spans

    def _found_in(self, text: str, windows: list[Window]) -> list[Span]:
        """Return what begins in the cores of `windows`; all are searched at once."""
        starts = list(accumulate((last - first + 1 for _, first, last in windows), initial=0))
        found: list[Span] = []
        for start, end, kind in self._found("\n".join(text[first:last] for _, first, last in windows)):
            number = bisect_right(starts, start) - 1
            (begin, finish), first, last = windows[number]
            start, end = first + start - starts[number], min(first + end - starts[number], last)
            if begin <= start < min(finish, last):
                found.append((start, end, kind))
        return found

    def _spans_apart(self, parts: list[str]) -> list[Span]:
        """Return the spans that stand in single parts, as positions in the whole."""
        ends = list(accumulate(len(part) + 1 for part in parts))  # with a newline between: no pattern bridges that
        found: list[Span] = []
        number = 0
        for start, end, kind in self._spans("\n".join(parts)):
            while ends[number] <= start:
                number += 1
            end = min(end, ends[number] - 1)
            if start - number < end - number:
                found.append((start - number, end - number, kind))
        return found


@cache
def _searches(kinds: frozenset[str]) -> tuple[Credentials, DetectorSet]:
    credentials = Credentials(kinds)
    return credentials, DetectorSet(credentials.detectors + Personal(kinds).detectors)


def _near(spans: list[Span]) -> list[tuple[int, int]]:
    """Return where something may be found once placeholders stand for `spans`: around each of them."""
    near: list[tuple[int, int]] = []
    moved, first, last = 0, 0, -1
    for start, end, kind in spans:
        begin = start + moved - _NEAR
        size = len(placeholder(kind))
        if begin > last:
            if last >= 0:
                near.append((first, last))
            first = max(0, begin)
        last = start + moved + size + _NEAR
        moved += size - (end - start)
    near.append((first, last))
    return near


def _whole(text: str, span: Span) -> Span:
    """Return `span` without halves of escapes: a backslash goes with what it stands before."""
    start, end, kind = span
    return start - _escapes(text, start), end - _escapes(text, end), kind


def _escapes(text: str, at: int) -> bool:
    """Return whether the character before `at` escapes the one that stands there."""
    count = 0
    while count < at and text[at - 1 - count] == "\\":
        count += 1
    return count % 2 == 1 and at < len(text)


def _for_json(text: str, spans: list[Span]) -> list[Span]:
    """Return `spans`; where `text` is JSON and a number goes, its placeholder is a string."""
    if text.lstrip()[:1] not in ("{", "["):
        return spans
    numbers = {
        span
        for span in spans
        if text[span[0] : span[1]].isdigit()
        and text[: span[0]].rstrip()[-1:] in (":", "[", ",")
        and text[span[1] :].lstrip()[:1] in (",", "]", "}")
    }
    if not numbers:
        return spans
    try:
        orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return spans
    return [(start, end, f'"{kind}' if (start, end, kind) in numbers else kind) for start, end, kind in spans]


def _beside_placeholders(text: str, spans: list[Span]) -> list[Span]:
    """Return `spans` without those that are a placeholder; those that touch one contain it whole."""
    if "[redacted:" not in text:
        return spans
    held = [match.span() for match in _PLACEHOLDER.finditer(text)]
    grown: list[Span] = []
    number = 0
    for start, end, kind in spans:
        while number < len(held) and held[number][1] <= start:
            number += 1
        at = number
        while at < len(held) and held[at][0] < end:
            start, end = min(start, held[at][0]), max(end, held[at][1])
            at += 1
        if (start, end) not in held[number:at]:
            grown.append((start, end, kind))
    return merge_overlaps(grown)


def _replaced_in_parts(parts: list[str], spans: list[Span]) -> list[str]:
    """Return `parts` with placeholders where spans begin, and nothing where they go on. Linear in both."""
    found = []
    begin = number = 0
    for part in parts:
        finish = begin + len(part)
        pieces: list[str] = []
        at = begin
        while number < len(spans) and spans[number][0] < finish:
            start, end, kind = spans[number]
            if start >= begin:
                pieces += part[at - begin : start - begin], placeholder(kind)
            at = min(end, finish)
            if end > finish:
                break
            number += 1
        pieces.append(part[at - begin :])
        found.append("".join(pieces))
        begin = finish
    return found


def _trimmed(head: str, tail: str) -> tuple[str, str]:
    """Return both ends of a cut without the words that it may have gone through."""
    before, after = _EDGE.match(head[: -2 * EDGE : -1]), _EDGE.match(tail)
    assert before is not None
    assert after is not None
    return head[: len(head) - before.end()], tail[after.end() :]


def _without_edges(value: Any) -> Any:
    """Return `value`, in which there is nothing to redact, with its cuts trimmed."""
    if is_cut(value):
        head, tail = _trimmed(value.head, value.tail)
        return value._replace(head=head, tail=tail)
    if is_in_pieces(value):
        return value
    if isinstance(value, dict):
        return {name: _without_edges(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_edges(item) for item in value]
    return value
