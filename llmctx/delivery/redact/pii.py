"""What identifies people by numbers: payment cards, telephone numbers, resident ids, IBANs.

Numbers are taken for what they seem only if their check digits are right, their length and beginning are possible,
and they stand alone: not inside of a longer number, an identifier, a hash or a decimal fraction. What may be one is
told by its shape first: digits, what stands between them, and what stands around. Shapes repeat, so what each may be is
worked out once and remembered; texts without seven digits in a row, blanks and dashes aside, are left at once.
"""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache
from typing import Final

from llmctx.delivery.redact.detectors import Detector
from llmctx.delivery.redact.emails import EMAILS, SPELLED_EMAILS, find_emails, find_spelled_emails
from llmctx.delivery.redact.identity_documents import (
    BARE_DOCUMENTS,
    DOCUMENTS,
    DOCUMENTS_BEYOND,
    DOCUMENTS_WITH_LETTERS,
    INSURANCE,
    INSURANCE_WORDS,
    find_bare_documents,
    find_documents,
    find_documents_beyond,
    find_documents_with_letters,
    find_insured,
)
from llmctx.delivery.redact.network_addresses import (
    ADDRESSES,
    ADDRESSES_BEYOND,
    find_addresses,
    find_addresses_beyond,
)
from llmctx.delivery.redact.normal_form import SearchText
from llmctx.delivery.redact.phones import (
    NO_DIGITS,
    cue_beside,
    has_cues,
    is_dialled_abroad,
    is_expected,
    is_foreign,
    is_written_as_one,
)
from llmctx.delivery.redact.text_spans import Span

_SHAPES: Final = bytes(
    0x30 if chr(c).isdigit() and c < 0x80
    else 0x41 if 0x41 <= c <= 0x5A
    else 0x61 if 0x61 <= c <= 0x7A or c == 0x80
    else 0x2D if c == 0x5F
    else c if chr(c) in " .()/-+\n"
    else 0x24 if chr(c) in "$#"
    else 0x2C
    for c in range(256)
)  # fmt: skip
"""Digits as "0", capitals as "A", small letters as "a", separators as they are, all else as ","."""
_BEGIN: Final = (  # no decimal fraction, no date, no address of a host; the literal comes first: that is fast
    rb"0(?<![0a]0)(?<!0[.]0)(?!0{0,3}[.]0{4,}+(?![.0/-]))(?!000-00-00(?![-0.]))(?!(?<![+]0)0{0,2}(?:[.]0{1,3}){3}(?![.0]))"
)
_DIGITS: Final = (  # four fours are a run of their own: a list of cards is not cut within one
    rb"(?:000(?P<sign>[ -])0000(?P=sign)0000(?P=sign)0000(?!0)(?:(?P=sign)0{1,3}(?!0))?|(?:[ .()/-]{0,3}+0){6,23}0*+)"
)
_RUN: Final = re.compile(_BEGIN + _DIGITS)
_RUN_WITHOUT_CUE: Final = re.compile(_BEGIN + rb"(?:(?<=[+]0)|(?<=[+][(]0)|(?!0{6,9}+(?![ .()/-]{0,3}0)))" + _DIGITS)
"""Where no word announces a telephone number, ten digits and fewer that stand together are none."""
_MANY, _FEW = 512, 256  # what judging candidates may cost: so much, and one more in so many characters
_COSTS: Final = {
    **dict.fromkeys(("resident_id", "cpf", "rrn"), (4, "resident_id")),
    **dict.fromkeys(("national", "abroad", "foreign", "expected"), (1, "phone")),
    "card": (1, "card"),
}
"""Candidate -> what judging it costs, and what it is if it is real; of the others any number is judged."""
_AROUND: Final = 5  # signs before and behind a run that belong to its shape

_SEP: Final = "[ .()/-]{1,3}"
_ALONE: Final = "(?<![0Aa])(?<!0[.])(?<!0[.]-)"
_ENDS: Final = "(?![0Aa])(?![.]0)"
_CARD: Final = (
    f"0000(?:{_SEP}0000){{2}}{_SEP}0{{1,4}}(?:{_SEP}0{{1,3}})?|0000{_SEP}000000{_SEP}0{{4,5}}|0{{6}}{_SEP}0{{7,13}}|0{{8}}{_SEP}0{{8}}"
    f"|0{{13,19}}"
    "|(?<!0[ .-])(?:0(?:[ .-]0){12,18}|00(?:[ .-]00){6,9}|000(?:[ .-]000){4,5}(?:[ .-]0)?)"
)
_RESIDENT: Final = f"0{{6}}(?:{_SEP})?(?:0{{8}}|0000{_SEP}00{_SEP}00|0000{_SEP}0000)(?:{_SEP})?000[0Aa]|0{{15}}"
_CHINESE: Final = (
    f"(?:00(?:{_SEP})?|0000(?:{_SEP})?)?0{{11}}"
    f"|(?<!0[ .-])(?:00{_SEP}|0000{_SEP})?(?:000{_SEP}0000(?:{_SEP})?0000|0000{_SEP}000{_SEP}0000|000{_SEP}00000000|0(?:[ .-]0){{10}})(?![ .-]0)"
)
_KINDS: Final = tuple(
    (least, kind, re.compile(f"(?={_ALONE}(?P<it>{shape}){ends})".encode()))
    for least, kind, shape, ends in (  # of digits
        (12, "card", _CARD, _ENDS),
        (15, "resident_id", _RESIDENT, "(?![0Aa])"),
        (11, "mobile", _CHINESE, _ENDS),
        (9, "ssn", "000-00-0000", _ENDS + "(?!-0)"),
        (11, "cpf", "000[.]000[.]000-00", _ENDS),
        (13, "rrn", "000000-0000000", _ENDS),
    )
)
_FOREIGN: Final = re.compile(rb"\+\(?0(?:[ .()/-]{0,3}0){6,14}(?![0Aa])")
_NATIONAL: Final = re.compile(
    rb"(?<![0Aa$+])(?<!0[ .+/-])(?<!0[.]-)(?<![Aa]-)(?:\(0{1,4} 0{1,3}\)|\(?0{1,7})(?:[)]? ?[ .()/-] ?[(]?0{1,10}){1,6}(?![0Aa])(?![.]0)(?! ?[-/] ?0)"
)
_SOLID: Final = re.compile(rb"(?<![0Aa$])(?<!0[ .+/-])0{7,15}(?![0Aa])(?![ .-]0)")
_ABROAD: Final = 11  # digits at least

_SEVEN_DIGITS: Final = "[0-9](?:[ ._()/-]{0,3}[0-9]){6}"

_DOUBLED: Final = bytes(((2 * (c - 48) - 9) if c > 52 else 2 * (c - 48)) if 48 <= c <= 57 else 0 for c in range(256))
_ISSUERS: Final = re.compile(
    rb"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|(?:5[1-5]|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12,14}"
    rb"|3[47][0-9]{13}|3(?:0[0-5]|09|[68][0-9])[0-9]{11,16}|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"
    rb"|6(?:011|5[0-9]{2}|4[4-9][0-9]|2[0-9]{2})[0-9]{12,15}|(?:50[0-9]{2}|5[6-9][0-9]{2}|6[37][0-9]{2})[0-9]{12,15}"
    rb"|220[0-4][0-9]{12,15}"
)
_FIRST_OF_CARDS: Final = b"23456"
_PROVINCES: Final = frozenset(
    b"11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83".split()
)
_MOBILE: Final = re.compile(rb"(?:(?:00)?86)?1[3-9][0-9]{9}")
_SSN: Final = re.compile(rb"(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}")

_MANY_IBANS, _FEW_IBANS = 256, 512
_IBAN_SHAPE: Final = re.compile(rb"AA00(?<![0Aa]AA00)(?:[ .-]?[A0]){11,33}+")
_PARTED: Final = re.compile(rb"([ ._-])")
_AS_DIGITS: Final = {ord(sign): str(int(sign, 36)) for sign in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}

_DOUBTFUL: Final = frozenset(("card", "national", "abroad", "mobile", "ssn"))
_OTHER_NUMBER: Final = re.compile(
    rb"(?i:(?<![a-z])(?:ean|gtin|isbn|issn|upc|asin|order|invoice|tracking|sku|ref|reference|po|rma|ticket|case|serial|part|item|article|contract|batch|lot"
    rb"|zip|build|version|commit|id|job|run|request|session|user|chat|group|message|model|product|transaction|customer|referenz|kunden|klant|client[ea]?|pedido|factura|serie|commande|facture|dossier|s\x80rie|ordine|fattura|zam\x80wienia|faktury|bestell|rechnungs?|auftrags?"
    rb"|artikel|serien|sendungs?|vertrags?|vorgangs?|bestel|factuur|ordre|sipari\x80)"
    rb"(?:[ _-]?(?:no|nr|num|number|nummer|id|code))?)[ .:#=\"'|-]{1,4}\Z"
)
_OTHER_BEYOND: Final = re.compile(
    "(?:订单|訂單|运单|快递|物流|工单|合同|发票|流水|序列|批次|商品|产品|单据|凭证|条形|注文|請求書|追跡|製造|伝票|주문|송장|일련|заказа|сч[её]та|договора|серийный)"
    r"[^\s\d]{0,3}(?: номер)?\W{0,4}\Z"
)
"""What says that a number is of another kind."""
_BETWEEN: Final = b" .:#=\"'|-"
_VALUES: Final = frozenset(b"=/?&#")
_IN_UUID: Final = re.compile(rb"[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-")
"""What stands before the last group of a UUID."""

Candidate = tuple[str, int, int]
"""What a part of a run may be, and where in it that stands."""


class Personal:
    """Find the wanted kinds of email, card, phone, resident_id, iban, ip."""

    KINDS: Final = frozenset({"email", "card", "phone", "resident_id", "iban", "ip"})

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds
        self.detectors: list[Detector] = []
        if "email" in kinds:
            self.detectors.append(Detector("at", find_emails, EMAILS))
            self.detectors.append(Detector("words", find_spelled_emails, SPELLED_EMAILS))
        if "resident_id" in kinds:
            self.detectors.append(Detector("words", find_documents_with_letters, DOCUMENTS_WITH_LETTERS))
            self.detectors.append(Detector("words", find_bare_documents, BARE_DOCUMENTS))
            self.detectors.append(Detector("beyond", find_documents_beyond, DOCUMENTS_BEYOND))
            self.detectors.append(Detector("digits", find_documents, DOCUMENTS, view="low"))
            self.detectors.append(Detector("digits", find_insured, INSURANCE, view="low", words=INSURANCE_WORDS))
        if "ip" in kinds:
            self.detectors.append(Detector("words", find_addresses, ADDRESSES))
            self.detectors.append(Detector("beyond", find_addresses_beyond, ADDRESSES_BEYOND))
        if kinds & {"card", "phone", "resident_id"}:
            self.detectors.append(Detector("digits", self._find_numbers, _SEVEN_DIGITS))
        if "iban" in kinds:
            self.detectors.append(Detector("digits", _find_ibans))
            self.detectors.append(Detector("digits", _find_small_ibans, words=(b"iban",)))

    def _find_numbers(self, view: SearchText, spans: list[Span]) -> None:
        raw, kinds = view.raw, self._kinds
        shapes = raw.translate(_SHAPES)
        left = _MANY + len(raw) // _FEW
        real: dict[str, int] = {}
        cues = "phone" in kinds and has_cues(view)
        for run in (_RUN if cues else _RUN_WITHOUT_CUE).finditer(shapes):
            begin, finish = run.span()
            first = begin - _AROUND if begin > _AROUND else 0
            known = (-1, -1)
            for kind, start, end in _candidates(shapes[first : finish + _AROUND], cues):
                start, end = first + start, first + end
                if kind == "card" and raw[start] not in _FIRST_OF_CARDS:
                    continue
                if (known[0] <= start and end <= known[1]) or (start < begin and b"0" in shapes[start:begin]):
                    continue  # within what was found, or digits before the run are of a hexadecimal word: a UUID
                cost, usual = _COSTS.get(kind, (0, ""))
                if left > 0 or not cost:
                    left -= cost
                    verdict = _judged(view, kind, start, end)
                    real[kind] = real.get(kind, 0) + (3 if verdict else -1)
                elif real.get(kind, 0) > 0:  # a text full of them: they are real, if a quarter of their kind was
                    verdict = usual
                else:
                    verdict = _judged(view, kind, start, end) if kind == "card" else ""
                if verdict in kinds:
                    spans.append((start, end, verdict))
                    known = (start, end)


def _find_ibans(view: SearchText, spans: list[Span]) -> None:
    _find_ibans_in(view.raw, spans)


def _find_small_ibans(view: SearchText, spans: list[Span]) -> None:
    """Find those in small letters, which only a text that speaks of them has."""
    if b"aa00" in view.raw.translate(_SHAPES):
        _find_ibans_in(view.raw.upper(), spans)


def _find_ibans_in(raw: bytes, spans: list[Span]) -> None:
    shapes = raw.translate(_SHAPES)
    if b"AA00" in shapes:
        left, real = _MANY_IBANS + len(raw) // _FEW_IBANS, 0
        for match in _IBAN_SHAPE.finditer(shapes):
            start, end = match.span()
            left -= 1
            if left < 0:
                if real > 0:
                    spans.append((start, end, "iban"))
            elif length := _iban_length(raw[start:end]):
                spans.append((start, start + length, "iban"))
                real += 1
            else:
                real -= 1


def _judged(view: SearchText, kind: str, start: int, end: int) -> str:
    """Return what the number between `start` and `end` is, or nothing."""
    raw = view.raw
    number = raw[start:end]
    if kind == "expected":
        cue = cue_beside(view, start, end)
        if not cue or not is_expected(number, cue == "strong"):
            return ""
        return "" if cue == "weak" and _is_named_otherwise(view, start) else "phone"
    verdict = _verified(number, kind)
    if verdict == "phone" and _IN_UUID.fullmatch(raw, max(0, start - 10), start):
        return ""
    if verdict and kind in _DOUBTFUL:
        if kind in ("national", "abroad") and start and raw[start - 1] in _VALUES:
            return ""
        if _is_named_otherwise(view, start):
            return ""
    return verdict


def _is_named_otherwise(view: SearchText, start: int) -> bool:
    """Return whether the words before a number say that it is of another kind."""
    before = view.raw[max(0, start - 24) : start]
    last = before.rstrip(_BETWEEN)[-1:]
    if last.isalpha():
        return _OTHER_NUMBER.search(before) is not None
    return not before.isascii() and _OTHER_BEYOND.search(view.text[max(0, start - 24) : start]) is not None


@lru_cache(16384)
def _candidates(shape: bytes, cues: bool) -> tuple[Candidate, ...]:
    """Return what a run may be, with `_AROUND` signs on both sides; `cues`: also what is one behind a word only."""
    found: list[Candidate] = []
    digits = shape.count(b"0")
    for least, kind, pattern in _KINDS:
        if digits >= least:
            found += [(kind, *match.span("it")) for match in pattern.finditer(shape)]
    if b"+" in shape:
        found += [("foreign", *match.span()) for match in _FOREIGN.finditer(shape)]
    for match in _NATIONAL.finditer(shape):
        found += [(kind, *match.span()) for kind in (("national", "expected") if cues else ("national",))]
    for match in _SOLID.finditer(shape):
        start, end = match.span()
        if cues:
            found.append(("expected", start, end))
        if end - start >= _ABROAD:
            found.append(("abroad", start, end))
    return tuple(found)


def _verified(found: bytes, kind: str) -> str:
    """Return the kind of `found`, or ""."""
    number = found.translate(None, NO_DIGITS)
    if kind == "foreign":
        return "phone" if is_foreign(found) else ""
    if kind == "national":
        return "phone" if is_written_as_one(found) else ""
    if kind == "abroad":
        return "phone" if is_dialled_abroad(number) else ""
    if kind == "mobile":
        return "phone" if _MOBILE.fullmatch(number) else ""
    if kind == "ssn":
        return "resident_id" if _SSN.fullmatch(found) else ""
    if kind in ("cpf", "rrn"):
        return "resident_id" if _is_sound(number, kind) else ""
    if kind == "resident_id":
        if found[-1] in b"xX":
            number += b"X"
        return kind if _is_resident(number) else ""
    return "card" if _is_card(number) else ""


def _is_sound(number: bytes, kind: str) -> bool:
    """Return whether the check digits of a Brazilian or Korean number are right."""
    from stdnum.br import cpf  # late, as below
    from stdnum.kr import rrn

    return bool((cpf if kind == "cpf" else rrn).is_valid(number.decode()))


def _is_card(number: bytes) -> bool:
    if _ISSUERS.fullmatch(number) is None:
        return False
    odd, even = number[-1::-2], number[-2::-2].translate(_DOUBLED)
    return (sum(odd) - 48 * len(odd) + sum(even)) % 10 == 0


def _is_resident(number: bytes) -> bool:
    """Return whether these are the 18 digits of a Chinese resident id, or 15 of the first generation.

    Check digit, province and birthday must be right.
    """
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
    """Return how many of the characters are an IBAN: what follows it may look like one more group."""
    groups = _PARTED.split(found) if _PARTED.search(found) else [found]
    while groups:
        number = b"".join(groups[::2]).decode()
        if len(number) < 15:
            return 0
        turned = number[4:] + number[:4]
        if int(turned.translate(_AS_DIGITS)) % 97 == 1:
            from stdnum import iban  # late: 30 ms, for what few texts hold

            if iban.is_valid(number, check_country=False):
                return sum(map(len, groups))
        groups = groups[:-2]
    return 0
