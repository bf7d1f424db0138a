"""What identifies people: e-mail addresses, payment cards, Chinese mobile numbers and resident ids, IBANs.

Numbers are taken for what they seem only if their check digits are right, their length and beginning are possible,
and they stand alone: not inside of a longer number, an identifier, a hash or a decimal fraction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from typing import Final

from llmctx.delivery.redact.spans import SearchText, Span, after_escape, begins

_MAIL: Final = re.compile(
    rb"@(?<=[A-Za-z0-9_%+-]@)(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}+)\.){1,8}[A-Za-z][A-Za-z-]{1,30}+(?![A-Za-z0-9_(])"
)
_LOCAL: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-"
_USERINFO: Final = re.compile(rb"[^\s/@:\"'<>]{0,256}+:[^\s/@\"'<>]{0,256}+")
_FILES: Final = (b".png", b".jpg", b".jpeg", b".gif", b".svg", b".webp", b".css", b".js", b".json")

# Digits as "0", what may stand between them as "-" ("?" is a space or dash beyond ASCII), all else as " ".
_SHAPES: Final = bytes(0x30 if 0x30 <= c <= 0x39 else 0x2D if c in b" -.?\t" else 0x20 for c in range(256))
_MANY_DIGITS: Final = re.compile(rb"000[0-]{7,}+")  # what every kind of number has in it
_FEWEST: Final = 10  # digits: a Dutch IBAN; dates and amounts have fewer
_AROUND: Final = 40  # characters beside the digits that belong to an IBAN
_BEFORE, _BEHIND = 8, 4  # to other numbers: an escape or a country code; an X, and what must not follow
_ENDLESS: Final = re.compile(rb"0{28,}+")  # too long to be, or to have in it, any of these
_DASHES: Final = frozenset(" -.\t\u00a0\u2002\u2003\u2009\u202f\u3000\u2010\u2011\u2012\u2013\u2014\u2015\uff0d")

_SEP: Final = "[ .?-]"
_GROUPS: Final = (
    rf"(?:{_SEP}[0-9]{{4}}{_SEP}?[0-9]{{4}}|[0-9]{_SEP}[0-9]{{3}}{_SEP}[0-9]{{4}})(?!{_SEP}[0-9])"  # 138 1234 5678
)
_DATE: Final = "(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
_REST: Final = (  # of a number, behind its first digit
    rf"(?:(?P<phone>(?<=1)[3-9][0-9](?:[0-9]{{8}}|(?<![0-9][ .-]...){_GROUPS}))"
    rf"|(?P<resident_id>[0-9]{{5}}(?:{_SEP}?(?:18|19|20)[0-9]{{2}}{_DATE}{_SEP}?[0-9]{{3}}[0-9Xx]|[0-9]{{2}}{_DATE}[0-9]{{3}}))"
    rf"|(?P<card>(?<=[2-6])[0-9]{{3}}(?:[0-9]{{9,15}}|{_SEP}[0-9]{{4}}{_SEP}[0-9]{{4}}{_SEP}[0-9]{{1,4}}"
    rf"(?:{_SEP}[0-9]{{1,3}}(?![0-9]))?|{_SEP}[0-9]{{6}}{_SEP}[0-9]{{4,5}}"
    rf"|[0-9]{{2}}{_SEP}[0-9]{{10,13}}|[0-9]{{4}}{_SEP}[0-9]{{8}})))"
    r"(?![A-Za-z0-9_])(?!\.[0-9])"
)
# no part of a longer number, of a word or of a fraction, unless what stands before is a country code or an escape
_NUMBER: Final = re.compile(rf"[1-8](?<![A-Za-z0-9_].)(?<![0-9]\..){_REST}".encode())
_ABROAD: Final = re.compile(
    (
        rf"86(?:(?<=[^A-Za-z0-9_]86)|(?<=^86)|(?<=0086))\)?[ -]?"
        rf"1(?P<phone>[3-9][0-9](?:[0-9]{{8}}|{_GROUPS}))(?![A-Za-z0-9_])"
    ).encode()
)
_ESCAPED: Final = re.compile(rf"\\(?:[nrtbf]|u[0-9a-fA-F]{{4}})[1-8]{_REST}".encode())
_PATTERNS: Final = (_NUMBER, _ABROAD, _ESCAPED)
_NO_DIGIT: Final = bytes(c for c in range(256) if not 0x30 <= c <= 0x39)
_DOUBLED: Final = bytes(((2 * (c - 48) - 9) if c > 52 else 2 * (c - 48)) if 48 <= c <= 57 else 0 for c in range(256))
_ISSUERS: Final = re.compile(
    rb"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|(?:5[1-5]|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12,14}"
    rb"|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11,16}|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"
    rb"|6(?:011|5[0-9]{2}|4[4-9][0-9]|2[0-9]{2})[0-9]{12,15}|(?:50[0-9]{2}|5[6-9][0-9]{2}|6[37][0-9]{2})[0-9]{9,15}"
)
_PROVINCES: Final = frozenset(
    b"11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83".split()
)

_IBAN: Final = re.compile(
    begins("[A-Z]").encode()
    + rb"[A-Z][0-9]{2}(?=(?: ?[A-Z0-9]){11})(?:[A-Z0-9]{11,30}+|(?: [A-Z0-9]{4}){2,7} ?[A-Z0-9]{0,4})"
)
_IBAN_LENGTHS: Final = {
    country: int(length)
    for country, length in re.findall(
        "([A-Z]{2})([0-9]{2})",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
        "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 "
        "LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 "
        "QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30",
    )
}
_AS_DIGITS: Final = {ord(sign): str(int(sign, 36)) for sign in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


class Personal:
    """Finds the kinds it is given of email, card, phone, resident_id, iban."""

    KINDS: Final = frozenset({"email", "card", "phone", "resident_id", "iban"})

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds
        self._numbers = bool(kinds & {"card", "phone", "resident_id"})

    def find(self, view: SearchText, spans: list[Span]) -> None:
        """Append to `spans` what is found."""
        raw, kinds = view.raw, self._kinds
        if "email" in kinds and b"@" in raw:
            _find_mails(raw, spans)
        shapes = raw.translate(_SHAPES)
        if b"0" * 28 in shapes:
            shapes = _ENDLESS.sub(_blank, shapes)
        runs = [run.span() for run in _MANY_DIGITS.finditer(shapes) if run[0].count(b"0") >= _FEWEST]
        if not runs:
            return
        if self._numbers:
            for start, end in _windows(runs, _BEFORE, _BEHIND):
                for pattern in _PATTERNS:
                    for match in pattern.finditer(raw, start, end):
                        self._consider(match, view.text, spans)
        if "iban" in kinds:
            for start, end in _windows(runs, _AROUND, _AROUND):
                for match in _IBAN.finditer(raw, start, end):
                    if length := _iban_length(match[0]):
                        spans.append((match.start(), match.start() + length, "iban"))  # noqa: PERF401  as it reads

    def _consider(self, match: re.Match[bytes], text: str, spans: list[Span]) -> None:
        name = match.lastgroup
        assert name is not None
        start, end = match.start(name) - 1, match.end(name)
        found = match.string[start:end]
        if b"?" in found and not _DASHES.issuperset(
            sign for sign, byte in zip(text[start:end], found, strict=True) if byte == 0x3F
        ):
            return  # a word stands between the digits
        kind = name if name == "phone" else _verified(found, name)
        if kind in self._kinds:
            spans.append((start, end, kind))


def _windows(runs: list[tuple[int, int]], before: int, behind: int) -> Iterator[tuple[int, int]]:
    """The runs with what is around them, those that touch as one: nothing is searched twice."""
    start, end = -1, -1
    for begin, finish in runs:
        if begin - before > end:
            if end >= 0:
                yield max(0, start), end
            start = begin - before
        end = finish + behind
    yield max(0, start), end


def _blank(match: re.Match[bytes]) -> bytes:
    return b" " * (match.end() - match.start())


def _find_mails(raw: bytes, spans: list[Span]) -> None:
    last = 0
    for match in _MAIL.finditer(raw):
        at, end = match.span()
        local = raw[max(last, at - 64) : at]
        start = after_escape(raw, at - len(local) + len(local.rstrip(_LOCAL)))
        last = end
        if raw.endswith(_FILES, at, end) or raw[start:at] == b"git":
            continue  # icon@2x.png, git@github.com:…
        url = raw.rfind(b"://", max(0, start - 320), start)
        if url < 0 or _USERINFO.fullmatch(raw, url + 3, start) is None:  # else the end of a password, and a host
            spans.append((start, end, "email"))


def _verified(found: bytes, kind: str) -> str:
    """What `found` is, or nothing."""
    number = found.translate(None, _NO_DIGIT)
    if kind == "resident_id":
        if found[-1] in b"xX":
            number += b"X"
        if _is_resident(number):
            return kind
    return "card" if _is_card(number) else ""


def _is_card(number: bytes) -> bool:
    if _ISSUERS.fullmatch(number) is None:
        return False
    odd, even = number[-1::-2], number[-2::-2].translate(_DOUBLED)
    return (sum(odd) - 48 * len(odd) + sum(even)) % 10 == 0


def _is_resident(number: bytes) -> bool:
    """Eighteen digits with their check digit, or the fifteen of the first generation, with province and birthday."""
    text = number.decode()
    if number[:2] not in _PROVINCES:
        return False
    from stdnum.cn import ric  # late, as below

    try:
        if len(text) == 15:
            return date(1900 + int(text[6:8]), int(text[8:10]), int(text[10:12])) is not None
        return text[-1] == ric.calc_check_digit(text) and ric.get_birth_date(text) is not None
    except ValueError:  # stdnum's own is one
        return False


def _iban_length(found: bytes) -> int:
    """How many of the characters are an IBAN: what follows it may look like one more group."""
    length = _IBAN_LENGTHS.get(found[:2].decode())
    if length is None:
        return 0
    number = found.replace(b" ", b"").decode()
    if len(number) < length or (length < len(number) and b" " not in found):
        return 0
    number = number[:length]
    if int((number[4:] + number[:4]).translate(_AS_DIGITS)) % 97 != 1:
        return 0
    from stdnum import iban  # late: 30 ms, for what few texts hold

    if not iban.is_valid(number):
        return 0
    end = spaces = 0
    while end - spaces < length:
        spaces += found[end] == 0x20
        end += 1
    return end
