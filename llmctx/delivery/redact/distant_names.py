"""Secrets whose name does not stand right before them: in the columns of an INSERT, at the head of a block, or behind them.

`INSERT INTO users (name, password) VALUES ('bob', '…')`, `secrets:\\n  stripe: …`, "… is the password of the router".
"""

from __future__ import annotations

import re
from itertools import chain
from typing import Final

from llmctx.delivery.redact.normal_form import SearchText
from llmctx.delivery.redact.secret_values import DIGIT, is_password, is_random, is_strong
from llmctx.delivery.redact.sieve import widen
from llmctx.delivery.redact.text_spans import Span

_NAMES: Final = r"passw(?:or[dt]|d)|passphrase|pwd|secret|token|api[ _-]?key|private[ _-]?key|access[ _-]?key|kennwort"
_INSERT: Final = re.compile(
    rb"insert(?: ignore)? into [^\s(]{1,100} ?\((?P<columns>[^()]{1,1000})\)\s{0,4}values\s{0,4}\((?P<values>[^\n]{1,2000})"
)
_COLUMN: Final = re.compile(rf"[^,]{{0,60}}(?:{_NAMES})[^,]{{0,20}}".encode())
_LITERAL: Final = re.compile(
    rb"\s{0,8}(?:'((?:[^'\n]|''){0,512}+)'|\"([^\"\n]{0,512}+)\"|[^,()'\"\n]{0,200}+(?:\([^()\n]{0,200}\))?)\s{0,8}(?:,|(?=\)))"
)
_BLOCKS: Final = tuple(  # one for each name: what begins with letters that are known is found in no time
    re.compile(
        name + rb"[\"']?:[ ]?\{?\n(?P<lines>(?:[ \t]{1,16}[\"']?[a-z0-9_.-]{1,60}[\"']?:[ ]?[^\s]{8,512}+\n?){1,24}+)"
    )
    for name in (
        rb"secret(?<![a-z]secret)s?",
        rb"credentials(?<![a-z]credentials)",
        rb"api(?<![a-z]api)_?keys",
        rb"tokens(?<![a-z]tokens)",
        rb"passwords(?<![a-z]passwords)",
    )
)
_ENTRY: Final = re.compile(rb":[ ]?[\"']?([^\s\"',]{16,512}+)")
_NAMED_BEHIND: Final = ("passw", "passphrase", "pwd", "secret", "token", "key", "kennwort", "contrase", "mot de passe")
_SAYS: Final = (
    " (?:(?:is|was|ist|est|es) (?:my|the|our|his|her|its|their|a|mein|meine|unser|das|der|ma|mon|le|la|mi|el)|as)"
)
_IS: Final = re.compile(rf"[\"'`]?[,)]?{_SAYS}(?: [a-z_'-]{{2,20}}){{0,3}}[ _-]\Z".encode())
_AS: Final = re.compile(rb"[^a-z]{0,4} as ")
_VERBS: Final = (b" is ", b" was ", b" ist ", b" est ", b" es ", b" as ")
_MANY, _FEW = 256, 512  # names behind "is" that are looked at: so many, and one more in so many characters
_REACH: Final = 96  # characters from "is" to the name
_VALUE: Final = re.compile(rb"[^\s\"'`(),;]{8,200}+\Z")
_WIDEST: Final = 200
_PARTED: Final = (b" ", b"_", b"-")
_WEAK: Final = (b"key", b"token")


class DistantNames:
    """Find secrets that are named from afar, as kinds api_key and password."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds
        says = f"{_SAYS}[a-z _'-]*(?:{'|'.join(_NAMED_BEHIND)})"
        self.heads = "|".join([widen(_INSERT.pattern), *(widen(block.pattern) for block in _BLOCKS), says])
        """Of `low`."""

    def find(self, view: SearchText, spans: list[Span]) -> None:
        """Append to `spans` what is found."""
        raw, low = view.raw, view.low
        if "password" in self._kinds and b"insert" in low:
            _find_in_columns(raw, low, spans)
        if "api_key" in self._kinds:
            if b":\n" in low or b"{\n" in low:
                for block in chain.from_iterable(form.finditer(low) for form in _BLOCKS):
                    _find_in_block(raw, *block.span("lines"), spans)
            left = _MANY + len(raw) // _FEW
            for name in map(str.encode, _NAMED_BEHIND):
                at = low.find(name)
                while at >= 0 and left > 0:
                    before = low[max(0, at - _REACH) : at]
                    if before[-1:] in _PARTED and any(verb in before for verb in _VERBS):
                        left -= 1
                        if said := _IS.search(before):
                            kind = "api_key" if name in _WEAK else "password"
                            _find_before(raw, at - len(before) + said.start(), kind, _AS.match(said[0]), spans)
                    at = low.find(name, at + len(name))


def _find_in_columns(raw: bytes, low: bytes, spans: list[Span]) -> None:
    for insert in _INSERT.finditer(low):
        columns = insert["columns"].split(b",")
        at, end = insert.span("values")
        for column in columns:
            literal = _LITERAL.match(raw, at, end)
            if literal is None:
                break
            at = literal.end()
            group = 1 if literal.start(1) >= 0 else 2
            if _COLUMN.fullmatch(column) and literal.start(group) >= 0 and is_password(literal[group], True, b""):
                spans.append((*literal.span(group), "password"))


def _find_in_block(raw: bytes, start: int, end: int, spans: list[Span]) -> None:
    spans += [(*entry.span(1), "api_key") for entry in _ENTRY.finditer(raw, start, end) if is_random(entry[1])]


def _find_before(raw: bytes, end: int, kind: str, is_used: re.Match[bytes] | None, spans: list[Span]) -> None:
    """Append to `spans` what is said to be, or, less sure, used as a secret, and ends at `end`."""
    found = _VALUE.search(raw[max(0, end - _WIDEST) : end])
    if found is None:
        return
    value = found[0]
    if kind == "api_key":
        likely = is_random(value, 20) and not (is_used and value.islower())  # "commit 9fceb02… as the key"
    elif is_used:
        likely = is_random(value) or is_strong(value)
    else:
        likely = is_password(value, False, b"") and DIGIT.search(value) is not None
    if likely:
        spans.append((end - len(value), end, kind))
