"""Tell telephone numbers of all countries from other numbers.

What may be a number is found by its shape (`pii.py`), and judged by what `phonenumbers`, Google's library, knows of the
numbers of every country. A number with a country code stands for itself. One without is hardly told from others: it
must be written as people write the numbers of its country, or stand behind a word like "phone" or "手机".
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Final

from llmctx.delivery.redact.normal_form import SearchText
from llmctx.delivery.redact.sieve import sieve, widen

_REGIONS: Final = (  # whose numbers begin with 0
    "GB", "DE", "FR", "AU", "IT", "JP", "KR", "TW", "NL", "CH", "AT", "BE", "SE", "FI", "IE", "NZ", "TR", "UA", "RO", "IL", "AE", "SA", "EG", "ZA",
    "NG", "KE", "GH", "ZM", "MA", "IN", "PK", "BD", "ID", "MY", "TH", "VN", "PH", "GE", "CN",
)  # fmt: skip
_CODE_SIZES: Final = (2, 1, 3)  # digits of country codes, of which none begins with another
NO_DIGITS: Final = bytes(c for c in range(256) if not 0x30 <= c <= 0x39)

_STRONG: Final = (
    rb"t[e\x80]l(?:[e\x80]?(?:ph|f)on[a-z]{0,3}|efoon|epon|p|em\x80vel|efonnummer)?|[a-z]{0,12}phones?(?:numbers?|nr|num)?|(?:mobile|cell|contact|fax)(?:number|num|no)|mob(?:il[a-z]?|ile)?|m\x80vil|cell?(?:phone|ular[ei]?)?"
    rb"|handy|fax|whatsapp|wechat|viber|sms|hotline|celular|telefax|fon|ph|n[u\x80]m(?:e|\x80)ro|tlf|gsm|natel|puhelin|mobitel|nomor"
    rb"|kom\x80rk[a-z\x80]{1,5}|(?:handy|mobil|ruf|phone|mobiel|telefoon|telefon|puhelin|fax|festnetz)[a-z]{0,3}numm?er[oa]?|contacto?|kontakt|helpline|ll[a\x80]m[ae]n?me|\x80i\x80n tho\x80i"
)
_WEAK: Final = (
    rb"call(?:ed|ing|back)?|reach(?:ed)?|dial(?:ed)?|ring|text(?:ed)?|support|durchwahl"
    rb"|(?:(?<![a-z\x80][ _-])|(?<=(?:my|is|to|at|on) )|(?<=(?:the|his|her|our|new) )|(?<=(?:your|this|home|work|cell|mein) ))num(?:b|m|)er[o]?"
    rb"|ruft?|anrufen|appele[rz]|appelle|joindre|llamar[a-z]{0,3}|ll\x80m[a-z]{2,5}|chiam[a-z]{1,5}|bel|bellen|zadzwo\x80|dzwo\x80|zavolejte|ringa?|hubungi|s\x80t|hp"
)
_PERSONS: Final = re.compile(rb"[^a-z](?:me|us|him|her|them|my|mich|uns|moi|nous|nos|mij|mi|mig)[^a-z]")
_CUE_BEYOND: Final = re.compile(
    "[📞☎📱✆]|电话|電話|手机|手機|联系方式|联系|聯絡|连絡先|連絡先|(?<![单單编編序运運货貨票账帳卡])[号號][码碼]|热线|传真|傳真|座机|微信|致电|拨打|携帯|전화|휴대폰|핸드폰|연락처"
    "|[Тт]ел(?:ефон)?|[Мм]об(?:ильный)?|[Мм]ой [Нн]омер|[Зз]вони|[Пп]озвони|[Фф]акс|[Ττ]ηλ|[Κκ]ιν|هاتف|جوال|موبايل|טלפון|נייד|फ़ोन|फोन|मोबाइल|โทร|เบอร์"
)
_WORDS_BETWEEN: Final = (
    rb"(?:no|nr|num|number|numbers|num\x80ro|is|was|are|at|on|me|us|him|her|them|home|work|office"
    rb"|cell|mobile|direct|line|new|my|the|our|to|or|and|value|string|phone|tel|fax|text|de|ist|est|es|m|s|t|nummer|numero"
    rb"|mich|mig|p\x80|er|an|uns|unter|auf|le|au|al|moi|nous|sur|mi|il|lo|op|til|pod|n|e|o|hp|saya|\x80)"
)
_BETWEEN: Final = rb"(?:[^a-z0-9]|(?<![a-z])" + _WORDS_BETWEEN + rb"(?![a-z]))"
_CUE: Final = re.compile(
    rb"(?<![a-z])(?:(" + _STRONG + rb")|" + _WEAK + rb")(?![a-z])" + _BETWEEN + rb"{0,48}\Z"
    rb"|(?:[a-z_](phone|mobile|fax|telephone)|_(tel|mob|cell))(?![a-z])" + _BETWEEN + rb"{0,48}\Z"
)
_CUE_AFTER: Final = re.compile(
    rb"[\"')]? (?:is|ist|est|es) (?:my|the|his|her|our|their|your|meine?|mon|mi) (?:new |private |work |home |business |direct )?"
    rb"(?:cell|mobile|phone|telephone|whatsapp|handy|fax|number|nummer|telefon|m\x80vil|portable|contact)(?![a-z])"
    rb"|[\"']? \((?:cell|mobile|mob|phone|tel|office|home|work|fax|direct|whatsapp|private?|handy)\)"
)
_GAP: Final = re.compile(_BETWEEN + rb"{0,48}")
_WORD_BETWEEN: Final = re.compile(_WORDS_BETWEEN)
_LETTERS: Final = bytes(range(0x61, 0x7B))
_NOT_LETTER: Final = bytes(c for c in range(256) if not 0x61 <= c <= 0x7A)
_REACH: Final = 48
_LEAST, _LONGEST = 7, 13  # digits that are dialled within a country
_DATE: Final = re.compile(  # or years, the address of a host, a fraction
    rb"\(?(?:19|20)\d\d(?: ?[-/] ?(?:19|20)\d\d\b.*|[-./ ]\d{1,2}[-./ ]\d{1,2}(?:\D.*)?)"
    rb"|\(?\d{1,2}[-./]\d{1,2}[-./](?:19|20)\d\d(?:\D.*)?|\d{1,3}(?:\.\d{1,3}){3}|\d+\.\d+"
)
_AMERICAN: Final = re.compile(rb"(?:1[ .-]?)?(?:\([2-9]\d\d\)[ -]?[2-9]\d\d[-. ]|[2-9]\d\d([-. ])[2-9]\d\d\1)\d{4}")
_WRITTEN: Final = tuple(
    (region, re.compile(form))
    for region, form in (
        ("FR", rb"0[1-9]([ .-])\d\d\1\d\d\1\d\d\1\d\d"),
        ("GB", rb"\(?0[12]\d\)? \d{4} \d{4}|\(?0[12]\d\d\)? \d{3} \d{4}|\(?0[127]\d{3}\)? (?:\d{5,6}|\d{3} \d{3})"),
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


_ANY_FORM: Final = re.compile(b"|".join(b"(?:%s)" % form.pattern.replace(rb"\1", rb"[ .-]") for _, form in _WRITTEN))
_ABROAD: Final = re.compile(rb"00 ?[1-9]\d{0,2}[ ./-]")
_SERVICE: Final = re.compile(rb"[48]00-\d{3}-\d{4}")


class _Country:
    """The numbers of one country as `phonenumbers` knows them: one pattern for all kinds."""

    def __init__(self, region: str) -> None:
        import phonenumbers  # late: 20 ms, for what few texts hold

        known = phonenumbers.PhoneMetadata.metadata_for_region(region)
        assert known is not None
        kinds = (
            known.fixed_line,
            known.mobile,
            known.toll_free,
            known.premium_rate,
            known.shared_cost,
            known.voip,
            known.uan,
        )
        patterns = [kind.national_number_pattern for kind in kinds if kind is not None and kind.national_number_pattern]
        self._prefix = known.national_prefix or ""
        self._pattern = re.compile("|".join(patterns))

    def has(self, digits: str) -> bool:
        if self._prefix and digits.startswith(self._prefix):
            return self._pattern.fullmatch(digits, len(self._prefix)) is not None
        return self._pattern.fullmatch(digits) is not None


_country: Final = cache(_Country)


def is_valid(digits: str, region: str) -> bool:
    """Return whether the country has such numbers. `digits` are those that are dialled within it."""
    return _country(region).has(digits)


@cache
def _lengths(code: str) -> frozenset[int]:
    """Return how many digits may follow a country code; no numbers if there is no such code."""
    import phonenumbers

    lengths: set[int] = set()
    for region in _regions(code):
        known = (
            phonenumbers.PhoneMetadata.metadata_for_nongeo_region(int(code))
            if region == "001"
            else phonenumbers.PhoneMetadata.metadata_for_region(region)
        )
        if known is not None and known.general_desc is not None:
            lengths.update(known.general_desc.possible_length)
    return frozenset(lengths)


def _regions(code: str) -> tuple[str, ...]:
    import phonenumbers

    return phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(int(code), ())


_HAS_CUES: Final = sieve(
    f"(?:^|[^a-z])(?:{widen(_STRONG)}|{widen(_WEAK)})(?:[^a-z]|$)|[a-z_](?:phone|mobile|fax|telephone)|_(?:tel|mob|cell)"
    f"|[0-9](?:{widen(_CUE_AFTER.pattern)})"
)
_HAS_CUES_BEYOND: Final = sieve(widen(_CUE_BEYOND.pattern))


def has_cues(view: SearchText) -> bool:
    """Return True if a text has words in it that may announce a telephone number."""
    return _HAS_CUES(view.sieve_form("low")) or (not view.text.isascii() and _HAS_CUES_BEYOND(view.sieve_form("text")))


def cue_beside(view: SearchText, start: int, end: int) -> str:
    """Return "strong" or "weak" if words that announce a telephone number stand before or behind it, "" if none do."""
    if view.low[end : end + 1] and _CUE_AFTER.match(view.low, end):
        return "strong"
    return _cue_before(view, start)


def _cue_before(view: SearchText, start: int) -> str:
    before = view.low[max(0, start - _REACH) : start]
    begin = len(before.rstrip(NO_DIGITS))  # no other number stands between
    before = before[begin:]
    said = before.rstrip(_NOT_LETTER)
    word = said[len(said.rstrip(_LETTERS)) :]
    is_possible = word and (
        _may_announce(word)
        or said[-len(word) - 1 : -len(word)] == b"\x80"
        or before[len(said) : len(said) + 1] == b"\x80"
    )
    if is_possible and (cue := _CUE.search(before)):
        return "strong" if cue.lastindex or _PERSONS.search(before, cue.start()) else "weak"
    if b"?" in before or not before.isascii():  # an emoji is a "?" there
        for match in _CUE_BEYOND.finditer(view.text, start - len(before), start):
            if _GAP.fullmatch(view.low, match.end(), start):
                return "strong"
    return ""


@lru_cache(4096)
def _may_announce(word: bytes) -> bool:
    """Return whether the last word before a number, of plain letters, may be a cue or stand between one and it."""
    return _CUE.search(b" " + word) is not None or _WORD_BETWEEN.fullmatch(word) is not None


def is_foreign(number: bytes) -> bool:
    """Return True for a number with its country code, "+44 …", of a length that there is."""
    if b"(0)" in number:  # which is not dialled from abroad
        number = number.replace(b"(0)", b"")
    digits = number.translate(None, NO_DIGITS).decode()
    return any(len(digits) - size in _lengths(digits[:size]) for size in _CODE_SIZES)


def is_written_as_one(number: bytes) -> bool:
    """Return True for a number in a form in which people write them in the country that has it."""
    if _ABROAD.match(number):
        return _is_valid_abroad(number.translate(None, NO_DIGITS)[2:].decode())
    if _AMERICAN.fullmatch(number):
        digits = number.translate(None, NO_DIGITS).decode()
        return is_valid(digits, "US") or is_valid(digits, "CA") or _SERVICE.fullmatch(number) is not None
    if _ANY_FORM.fullmatch(number) is None or _DATE.fullmatch(number):
        return False
    digits = number.translate(None, NO_DIGITS).decode()
    return any(form.fullmatch(number) and is_valid(digits, region) for region, form in _WRITTEN)


def is_dialled_abroad(digits: bytes) -> bool:
    """Return True for a number with "00" and its country code that the country has."""
    return digits.startswith(b"00") and _is_valid_abroad(digits[2:].decode())


def _is_valid_abroad(digits: str) -> bool:
    """Return True for the digits of a number with its country code that the country has."""
    return any(
        is_valid(digits[size:], region)
        for size in _CODE_SIZES
        if len(digits) - size in _lengths(digits[:size])
        for region in _regions(digits[:size])
        if region != "001"
    )


def is_expected(number: bytes, strong: bool) -> bool:
    """Return True for what may be a number behind a cue."""
    if _DATE.fullmatch(number):
        return False
    digits = number.translate(None, NO_DIGITS).decode()
    if not strong and digits.encode() == number and digits[:2] != "00":  # "call 1234567890"
        return digits[0] == "0" and len(digits) > 9 and any(is_valid(digits, region) for region in _REGIONS)
    if digits.startswith("00"):
        return _is_valid_abroad(digits[2:])
    return _LEAST <= len(digits) <= _LONGEST
