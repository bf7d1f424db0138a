"""Bring a text into the form in which secrets are searched, and find the way back to where they stand in it.

People paste logs, terminals, URLs, web pages and JSON within JSON. There a key may be written `sk\\u002dproj`, a card
in full-width digits, an address with `%40`, a number with zero-width spaces or colours in it. All of that is undone
before any search: escapes become what they stand for, also nested and mixed ones; what is not visible goes; dashes,
spaces and digits of other scripts become those of ASCII.

`NormalForm.text` is that as characters, `raw` has one byte for each of them: ASCII as it is, LETTER for letters of
alphabets, IDEOGRAPH for scripts without spaces between words, "?" for all else. `original_span` leads back to the text.
Everything is done by the C library in time proportional to the length: no loop of Python's runs over characters, and
most texts hold nothing to undo.
"""

from __future__ import annotations

import codecs
import html
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import accumulate
from typing import Final

from llmctx.delivery.redact.sieve import BEYOND, sieve
from llmctx.delivery.redact.text_spans import mask_placeholders

LETTER: Final = 0x80
IDEOGRAPH: Final = 0x81
_OTHER: Final = 0x3F
_ROUNDS: Final = 4  # of escapes within escapes of another kind; those of one kind count once, however deep
_REMEMBERED: Final = 4096
_WIDE: Final = codecs.lookup("utf-32-le").name
"""Its codec is a module, which is loaded now: when it is needed no descriptor may be left."""

_INVISIBLE: Final = (
    "\0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\U000e0000-\U000e01ef"
)
_NAMES: Final = (
    "quot|apos|amp|lt|gt|nbsp|shy|commat|colon|equals|period|lowbar|hyphen|dash|sol|num|plus|Tab|NewLine|ZeroWidthSpace"
    "|ensp|emsp|thinsp|ndash|mdash|lpar|rpar|excl|dollar|percnt|semi|ast|bsol"
)
_TOKENS: Final = {  # by their first sign, for which the regex engine looks fast; what follows it
    r"\\": r"\\{0,15}+(?:(?:u001[bB]|x1[bB]|033|e)\[[0-9;:?]{0,24}+[A-Za-z]|u[0-9a-fA-F]{4}|u\{[0-9a-fA-F]{1,6}\}"
    r"|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2}|(?:033|e)(?=\[)|\r?\n[ \t]{0,16}+)",
    "%": r"25(?:%25){1,64}+(?![0-9a-fA-F]{2})|(?:25){0,16}+[0-7][0-9a-fA-F]"
    r"|(?:25){0,16}+[c-fC-F][0-9a-fA-F](?:%(?:25){0,16}+[89abAB][0-9a-fA-F]){1,3}+",
    "&": r"amp;(?:&amp;){1,64}+(?![a-zA-Z#])"
    rf"|(?:amp;){{0,16}}+(?:\#[0-9]{{1,7}};|\#[xX][0-9a-fA-F]{{1,6}};|(?:{_NAMES});)",
    "<": "wbr ?/?>",
    "\x1b": r"\[[0-9;:?]{0,24}+[A-Za-z]|\][^\x07\x1b\n]{0,256}+(?:\x07|\x1b\\)?|\x1b{0,64}+",
    "\x9b": r"[0-9;:?]{0,24}+[A-Za-z]",
    r"\^": r"\[\[[0-9;]{1,16}+m",
    r"\[": "[0-9;]{1,16}+m",  # a colour whose escape character was lost
    "\x08": r"[^\n]?",
    # a line that goes on, of quoted-printable; not a name whose value stands on the next line
    "=": r"\r?\n(?= ?[A-Za-z0-9])(?:(?<=[A-Za-z0-9_-]{6}=\n)|(?<=[A-Za-z0-9_-]{6}=\r\n)"
    r"|(?<=[0-9][0-9 ]=\n)|(?<=[0-9][0-9 ]=\r\n)|(?<=@=\n)|(?<=@=\r\n))"
    + "".join(
        rf"(?<!{word}=\n)(?<!{word}=\r\n)"
        for word in ("word", "WORD", "oken", "OKEN", "key", "Key", "KEY", "cret", "CRET")
    ),
}
_TOKEN: Final = re.compile(
    f"([{''.join(_TOKENS)}{_INVISIBLE}]"
    f"(?:(?<=[{_INVISIBLE}])[{_INVISIBLE}]*+|{'|'.join(f'(?<={sign})(?:{rest})' for sign, rest in _TOKENS.items())}))"
)
_HINTS: Final = tuple(
    (sign, re.compile(pattern))
    for sign, pattern in (
        ("\\", r"\\(?:u[0-9a-fA-F{]{2}|x[0-9a-fA-F]{2}|U00|033\[|e\[|\r?\n)"),
        ("%", "%[0-9a-fA-F]{2}"),
        ("&", "&[a-zA-Z#][a-zA-Z0-9]{1,16}+;"),
        ("\x1b", "\x1b"),
        ("[", r"\[0m"),
        ("<", "<wbr"),
        ("=", "=\r?\n"),
        ("\0", "\0"),
        ("\x08", "\x08"),
    )
)
"""A sign that is seen in no time, and what must follow it for there to be something to undo."""
_FEW: Final = 40  # characters to a sign, from which on it is seldom
_SHOWN: Final = bytes(BEYOND.get(code, code) for code in range(256))
_MAY_HOLD_TOKENS: Final = sieve(
    "|".join(
        (
            r"\\(?:u[0-9a-fA-F{]|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2}|033\[|e\[|\r?\n)",
            r"%(?:25)*(?:[0-7][0-9a-fA-F]|[c-fC-F][0-9a-fA-F]%)|%25%25",
            rf"&(?:amp;)*(?:#[0-9]{{1,7}};|#[xX][0-9a-fA-F]{{1,6}};|(?:{_NAMES});)|&amp;&amp;",
            r"<wbr ?/?>|\[[0-9;]+m|=\r?\n ?[A-Za-z0-9]|[\x00\x08\x1b]",
        )
    )
)
"""Where one of the tokens may be in a text of ASCII."""
_SHORT: Final = {"\\n": " \n", '\\"': ' "', "\\t": " \t", "\\r": " \r", "\\'": " '", "\\/": " /", "\\b": "  "}
"""Escapes that are undone without moving what follows: a blank more between words changes nothing."""
_SHORT_ONE: Final = re.compile(r"""\\[n"tr'/b]""")


class _Decoded(dict[str, str]):
    """Token -> what it stands for. Tokens repeat: most are looked up."""

    def __missing__(self, token: str) -> str:
        if len(self) > _REMEMBERED:
            self.clear()
        self[token] = shown = _decoded(token)
        return shown


def _decoded(token: str) -> str:
    first = token[0]
    if first == "\\":
        rest = token.lstrip("\\")
        if rest[0] in "\r\n":
            return ""  # the line goes on
        if rest[-1].isalpha() and "[" in rest:
            return ""  # a colour
        if rest[0] in "0e":
            return "\x1b"
        code = int(rest[1:].strip("{}"), 16)
        return chr(code) if code < 0x110000 else " "
    if first == "%":
        octets = bytes.fromhex("".join(part[-2:] for part in token.split("%")[1:]))
        return octets.decode("utf-8", "replace")
    if first == "&":
        plain = token.replace("&amp;", "&").replace("amp;", "")
        return plain if not plain.strip("&") else html.unescape(plain)
    return ""


_DECODED: Final = _Decoded()


def for_sieve(signs: bytes) -> str:
    """Return `raw` or `low` of a text for sieves, which read what is UTF-8."""
    return signs.decode() if signs.isascii() else signs.translate(_SHOWN).decode()


class SearchText:
    """A text for searching: `text`, `raw` and `low` have the same positions."""

    __slots__ = ("low", "raw", "text")
    text: str
    raw: bytes
    low: bytes

    def part(self, start: int, end: int) -> SearchText:
        """Return what stands between `start` and `end`."""
        part = SearchText()
        part.text, part.raw, part.low = self.text[start:end], self.raw[start:end], self.low[start:end]
        return part

    def sieve_form(self, name: str) -> str:
        """Return `raw`, `low` or `text` for sieves."""
        return self.text.encode("utf-8", "replace").decode() if name == "text" else for_sieve(getattr(self, name))


class NormalForm(SearchText):
    """A text brought into one form, and the way back."""

    __slots__ = ("_maps", "_undone", "for_sieves")

    def __init__(self, text: str) -> None:
        self._undone: list[tuple[list[str], list[str]]] = []
        self._maps: list[tuple[list[int], list[int]]] | None = None
        raw = b""
        for _ in range(_ROUNDS):
            if "\\" in text:
                text = _without_short(text)
            if not _has_tokens(text):
                raw = _as_bytes(text)
                if b"\0" not in raw:
                    break
            parts = _TOKEN.split(text)
            if len(parts) == 1:
                break
            shown = parts.copy()
            shown[1::2] = map(_DECODED.__getitem__, parts[1::2])
            text, raw = "".join(shown), b""
            self._undone.append((shown, parts))
        self.text = text
        self.raw = mask_placeholders(raw or _as_bytes(text))
        self.low = self.raw.lower()
        shown_raw = for_sieve(self.raw)
        self.for_sieves = {"raw": shown_raw, "low": shown_raw.lower()}
        """`raw` and `low` for sieves, which read what is UTF-8."""

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """Return where in the text itself stands what is between `start` and `end`; whole escapes."""
        if self._maps is None:
            self._maps = [(_ends(after), _ends(before)) for after, before in reversed(self._undone)]
        for after, before in self._maps:
            start, end = _back(start, after, before), _back(end - 1, after, before, end=True)
        return start, end

    def sieve_form(self, name: str) -> str:
        """Return `raw`, `low` or `text` for sieves, each made once."""
        if (shown := self.for_sieves.get(name)) is None:
            self.for_sieves[name] = shown = super().sieve_form(name)
        return shown

    @property
    def is_original(self) -> bool:
        """Return whether all positions are those of the text itself."""
        return not self._undone


def _ends(parts: list[str]) -> list[int]:
    return list(accumulate(map(len, parts), initial=0))


def _back(at: int, after: list[int], before: list[int], end: bool = False) -> int:
    """Return the position before one round of undoing; `end`: where the character that stands at `at` ends."""
    part = bisect_right(after, at) - 1
    if part % 2:  # a token: all of it
        return before[part + 1] if end else before[part]
    return before[part] + at - after[part] + end


def _without_short(text: str) -> str:
    if text.count("\\") * _FEW < len(text):
        return _SHORT_ONE.sub(_shown_short, text)
    for escape, plain in _SHORT.items():
        text = text.replace(escape, plain)
    return text


def _shown_short(escape: re.Match[str]) -> str:
    return _SHORT[escape[0]]


def _has_tokens(text: str) -> bool:
    if text.isascii():
        return _MAY_HOLD_TOKENS(text)
    return any(sign in text and pattern.search(text) for sign, pattern in _HINTS)


# -- characters as bytes --------------------------------------------------------------------------------------------


_UNSEEN: Final = frozenset(filter(re.compile(f"[{_INVISIBLE}\x9b]").match, map(chr, range(0x80, 0x10000))))


def _sign(character: str) -> int:
    code = ord(character)
    if code < 0x80:
        return code
    if character in _UNSEEN:
        return 0
    plain = unicodedata.normalize("NFKC", character)
    if len(plain) == 1 and plain.isascii():
        return ord(plain)
    category = unicodedata.category(character)
    if category == "Nd":
        return 0x30 + unicodedata.decimal(character)
    if category == "Pd" or character in "\u2043\u2212\u30fb\u00b7\u2022":
        return 0x2D
    if category in ("Zs", "Zl", "Zp"):
        return 0x20
    if character in "“”„‟«»「」『』":
        return 0x22
    if character in "‘’‚‛":
        return 0x27
    if category[0] in "LM":
        return IDEOGRAPH if code >= 0x2E80 and category == "Lo" else LETTER
    return _OTHER


_CJK: Final = bytes([*range(0x34, 0xA0), *range(0xAC, 0xD8), *range(0xF9, 0xFB)])
_ALPHABETS: Final = bytes([*range(0x01, 0x1F), 0xA6])
_TELLING: Final = (
    0x00,
    0x01,
    0x02,
    0x03,
    0x04,
    0x06,
    0x09,
    0x11,
    0x17,
    0x18,
    0x20,
    0x21,
    0x22,
    0x24,
    0x30,
    0x31,
    0xFE,
    0xFF,
)
"""Blocks of 256 characters in which some stand for a sign of ASCII, or which are half of letters."""
_MATHEMATICAL: Final = (0x1D4, 0x1D5, 0x1D6, 0x1D7)


@cache
def _signs_of(block: int) -> bytes:
    return bytes(_sign(chr(block << 8 | low)) for low in range(256))


@cache
def _selects(blocks: bytes) -> bytes:
    """Return a table for `translate`: all bits for those."""
    return bytes(0xFF if number in blocks else 0 for number in range(256))


def _as_bytes(text: str) -> bytes:
    """Return one byte for each character."""
    if text.isascii():
        return text.encode()
    if (len(text.encode("utf-8", "surrogatepass")) - len(text)) * _FEW < len(text):
        return text.encode("ascii", _HANDLER)
    return _in_columns(text)


def _in_columns(text: str) -> bytes:
    """Return one byte for each character: whole columns of bytes, selected and combined as numbers of any size."""
    wide = text.encode(_WIDE, "surrogatepass")
    low, block, plane = wide[::4], wide[1::4], wide[2::4]
    size = len(low)

    def where(column: bytes, numbers: bytes) -> int:
        return int.from_bytes(column.translate(_selects(numbers)), "little")

    def chosen(numbers: Sequence[int], mask: int) -> int:
        found = 0
        for number in numbers:
            if bytes([number & 0xFF]) in block:
                signs = int.from_bytes(low.translate(_signs_of(number)), "little")
                found |= signs & mask & where(block, bytes([number & 0xFF]))
        return found

    every = (1 << 8 * size) - 1
    known = where(block, bytes(_TELLING))
    ideographs = where(block, _CJK)
    letters = where(block, _ALPHABETS) & ~known
    others = every & ~(known | ideographs | letters)
    if plane.count(0) == size:
        found = chosen(_TELLING, every)
    else:
        beyond = where(plane, bytes(range(1, 256)))
        first, second = where(plane, b"\1"), where(plane, b"\2\3")
        mathematical = first & where(block, bytes(number & 0xFF for number in _MATHEMATICAL))
        found = chosen(_TELLING, ~beyond) | chosen(_MATHEMATICAL, mathematical)
        ideographs = ideographs & ~beyond | second
        letters &= ~beyond
        others = (others | beyond) & ~(second | mathematical)
    ones = every // 0xFF
    if b"\x0e" in plane:  # tags and variants, which are not seen
        others &= ~where(plane, b"\x0e")
    found |= ideographs & ones * IDEOGRAPH | letters & ones * LETTER | others & ones * _OTHER
    return found.to_bytes(size, "little")


def _beyond(problem: UnicodeError) -> tuple[bytes, int]:
    """Return the bytes that stand for characters beyond ASCII where there are few."""
    assert isinstance(problem, UnicodeEncodeError)
    return _remembered(problem.object[problem.start : problem.end]), problem.end


_HANDLER: Final = "llmctx.delivery.redact"
_remembered: Final = lru_cache(_REMEMBERED)(_in_columns)
codecs.register_error(_HANDLER, _beyond)
