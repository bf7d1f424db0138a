"""Telephone numbers of all countries.

What may be a number is found by its shape (`numbers.py`), and judged by `phonenumbers`, Google's library, which knows the
numbers of every country. A number with a country code stands for itself. One without is hardly told from others: it
must be written as people write them somewhere, or stand behind a word like "phone" or "手机", and there any number will
do that some country has. Judging takes 30 µs: what was judged is remembered, and a text full of numbers is judged by
the first hundreds of them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cache
from typing import Final

from llmctx.delivery.redact.normal_form import NormalForm

_REGIONS: Final = ("GB", "DE", "FR", "AU", "IT", "JP", "KR", "TW", "NL")  # whose numbers begin with 0
_NOT_DIGIT: Final = bytes(c for c in range(256) if not 0x30 <= c <= 0x39)

_STRONG: Final = (
    rb"(?:tele?(?:ph|f)on[a-z]{0,3}|tel|t\x80l\x80phone|phone|mobile?|m\x80vil|mob|cell(?:phone|ular)?|handy|fax|whatsapp|wechat"
    rb"|sms|hotline|celular|fon|ph|portable|numero|num\x80ro)"
)
_WEAK: Final = rb"(?:call(?:ed|ing)?|contact|reach(?:ed)?|dial(?:ed)?|ring|text(?:ed)?|number|helpline|support|callback|kontakt|rufnummer)"
_CUE: Final = re.compile(rb"(?<![a-z])(?<!redacted:)(?:(" + _STRONG + rb")|" + _WEAK + rb")(?![a-z])|[a-z](" + _STRONG + rb")(?![a-z])")
_WORDS: Final = (
    b"tel", b"phone", b"mob", b"cell", b"handy", b"fax", b"whatsapp", b"sms", b"hotline", b"call", b"contact", b"reach",
    b"dial", b"number", b"text", b"nummer", b"vil", b"ph:", b"ph ", b"fon",
)  # fmt: skip
_CUE_BEYOND: Final = re.compile(
    "电话|電話|手机|手機|联系方式|联系|聯絡|号码|號碼|热线|传真|座机|微信|致电|拨打|携帯|전화|휴대폰|연락처|[Тт]ел(?:ефон)?|[Мм]обильный|τηλ|هاتف"
)
_BETWEEN: Final = re.compile(
    rb"(?:[^a-z0-9]|(?<![a-z])(?:no|nr|num|number|numbers|num\x80ro|is|was|are|at|on|me|us|him|her|them|home|work|office|cell|mobile|direct|line"
    rb"|new|my|the|our|to|or|and|value|string|phone|tel|fax|text|de|ist|est|es|m|t|nummer|numero)(?![a-z])){0,48}"
)
_REACH: Final = 48
_LEAST, _LONGEST = 7, 13  # digits that are dialled within a country
_DATE: Final = re.compile(
    rb"(?:19|20)\d\d[-./ ]\d{1,2}[-./ ]\d{1,2}(?:\D.*)?|\d{1,2}[-./]\d{1,2}[-./](?:19|20)\d\d(?:\D.*)?|\d{1,3}(?:\.\d{1,3}){3}|\d+\.\d+"
)
_AMERICAN: Final = re.compile(rb"(?:1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d([-. ]))[2-9]\d\d[-. ]\d{4}")
_WRITTEN: Final = tuple(
    (region, re.compile(form))
    for region, form in (
        ("FR", rb"0[1-9]([ .-])\d\d\1\d\d\1\d\d\1\d\d"),
        ("GB", rb"\(?0[12]\d{1,3}\)? \d{3,4} \d{3,4}|\(?0[127]\d{3}\)? \d{6}|0[127]\d{3} \d{3} \d{3}"),
        ("DE", rb"\(?0[1-9]\d{1,4}\)?(?: ?[/-] ?| )\d{6,9}|0[1-9]\d{1,3} ?/ ?\d{2,4}(?:[ -]\d{2,4}){1,3}"),
        ("CN", rb"\(?0(?:10|2\d|[3-9]\d\d)\)?[- ]?\d{3,4}[ -]?\d{4}"),
        ("CN", rb"[48]00-\d{3}-\d{4}|[48]00-\d{4}-\d{3}"),
        ("JP", rb"0\d{1,3}-\d{2,4}-\d{4}"),
        ("KR", rb"0\d{1,2}-\d{3,4}-\d{4}"),
        ("AU", rb"04\d\d \d{3} \d{3}|\(?0[2378]\)? \d{4} \d{4}"),
        ("BR", rb"\(\d\d\) 9?\d{4}-\d{4}"),
        ("IN", rb"0\d{2,4}-\d{6,8}"),
        ("TW", rb"09\d\d-\d{3}-\d{3}|\(?0\d\)?[- ]\d{4}-\d{4}"),
        ("NL", rb"06[ -]\d{8}|0\d{2,3}-\d{6,7}"),
    )
)


class _Country:
    """What `phonenumbers` knows of the numbers of one country, as one pattern for all kinds of them."""

    def __init__(self, region: str) -> None:
        import phonenumbers  # late: 20 ms, for what few texts hold

        known = phonenumbers.PhoneMetadata.metadata_for_region(region)
        assert known is not None
        kinds = (known.fixed_line, known.mobile, known.toll_free, known.premium_rate, known.shared_cost, known.voip, known.uan)
        patterns = [kind.national_number_pattern for kind in kinds if kind is not None and kind.national_number_pattern]
        self._prefix = known.national_prefix or ""
        self._pattern = re.compile("|".join(patterns))

    def has(self, digits: str) -> bool:
        if self._prefix and digits.startswith(self._prefix):
            return self._pattern.fullmatch(digits, len(self._prefix)) is not None
        return self._pattern.fullmatch(digits) is not None


_country: Final = cache(_Country)


def is_valid(digits: str, region: str) -> bool:
    """Has the country such numbers? `digits` are those that are dialled within it."""
    return _country(region).has(digits)


@cache
def _lengths() -> dict[str, frozenset[int]]:
    """Country code -> how many digits may follow it."""
    import phonenumbers

    found = {}
    for code, regions in phonenumbers.COUNTRY_CODE_TO_REGION_CODE.items():
        lengths: set[int] = set()
        for region in regions:
            known = (
                phonenumbers.PhoneMetadata.metadata_for_nongeo_region(code)
                if region == "001"
                else phonenumbers.PhoneMetadata.metadata_for_region(region)
            )
            if known is not None and known.general_desc is not None:
                lengths.update(known.general_desc.possible_length)
        found[str(code)] = frozenset(lengths)
    return found


class Cues:
    """The places of a text behind which a telephone number is to be expected."""

    def __init__(self, view: NormalForm) -> None:
        low = view.low
        found: list[tuple[int, bool]] = []
        if any(word in low for word in _WORDS):
            found += [(match.end(), match[1] is not None or match[2] is not None) for match in _CUE.finditer(low)]
        if not low.isascii():
            found += [(match.end(), True) for match in _CUE_BEYOND.finditer(view.text)]
            found.sort()
        self._low = low
        self._found = found
        self._ends = [end for end, _ in found]

    def __bool__(self) -> bool:
        return bool(self._found)

    def before(self, start: int) -> tuple[bool, bool]:
        """Does a cue stand before `start`, and is it a strong one?"""
        at = bisect_right(self._ends, start) - 1
        if at < 0 or start - self._ends[at] > _REACH:
            return False, False
        end, strong = self._found[at]
        return _BETWEEN.fullmatch(self._low, end, start) is not None, strong


def is_foreign(number: bytes) -> bool:
    """Is it a number with its country code, "+44 …", of a length that there is? "(0)" is not dialled from abroad."""
    digits = number.replace(b"(0)", b"").translate(None, _NOT_DIGIT).decode()
    known = _lengths()
    return any(len(digits) - size in known.get(digits[:size], ()) for size in (1, 2, 3))


def is_written_as_one(number: bytes) -> bool:
    """A number without a country code, in a form in which people write them where it exists."""
    digits = number.translate(None, _NOT_DIGIT).decode()
    if _AMERICAN.fullmatch(number) and is_valid(digits, "US"):
        return True
    return _DATE.fullmatch(number) is None and any(form.fullmatch(number) and is_valid(digits, region) for region, form in _WRITTEN)


def is_expected(number: bytes, strong: bool) -> bool:
    """A number behind a cue."""
    if _DATE.fullmatch(number):
        return False
    digits = number.translate(None, _NOT_DIGIT).decode()
    if not strong and digits.encode() == number:  # "call 1234567890"
        return digits[0] == "0" and len(digits) > 9 and any(is_valid(digits, region) for region in _REGIONS)
    if digits.startswith("00"):
        return is_foreign(digits[2:].encode())
    return _LEAST <= len(digits) <= _LONGEST
