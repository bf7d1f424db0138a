"""Numbers that identify people, by the word that stands before them: national and tax ids, insurances, passports, licences.

One table says for each word in which shapes its numbers are written. A word is looked for with what may stand between it
and its number ("CPF nº:", `"passport_number": "`, "mój PESEL to"); what follows must have one of the shapes.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from llmctx.delivery.redact.normal_form import SearchText, for_sieve
from llmctx.delivery.redact.sieve import ANY_ASCII, sieve, widen
from llmctx.delivery.redact.text_spans import Span

_LONGEST: Final = 32  # characters of a number
_BEFORE: Final = 24  # characters before a word that are looked at
_SIX_DIGITS: Final = re.compile(rb"[0-9](?:[ ./-]{0,2}[0-9]){5,}+")
_REACH: Final = 80  # characters from a word to its number
_ANY: Final = (  # of any country: some letters, digits in groups, a check letter
    r"[a-z]{0,4}[ -]?\d(?:[ ./-]?\d){5,17}(?:[ /-]?[a-z]|\([0-9a]\))?|\d{1,3}[a-z]{1,3}\d{4,12}|[a-z]{2}\d{5}[a-z]{2}\d"
)
_SERIAL: Final = (
    r"(?=(?:[a-z]{0,8}\d){3})[a-z0-9]{8,11}|(?=[a-z]{0,8}\d)[cfghjklmnprtvwxyz0-9]{9,10}"  # the second: no word
)
_NO: Final = "(?:nummer|number|numero|nr|no|num)"
_SHAPES: Final[dict[str, str]] = {  # words in small letters, in which "\x80" is a letter beyond ASCII -> their numbers
    # the Americas
    "itin": r"9\d\d[ -]?[5-9]\d[ -]?\d{4}",
    "ein|fein|employer id|employer identification": r"\d\d-\d{7}",
    "routing|aba|aba routing": r"\d{9}",
    "curp": r"[a-z]{4}\d{6}[hmx][a-z]{5}[a-z0-9]\d",
    "rfc": r"[a-z\x80&]{3,4}[ -]?\d{6}[ -]?[a-z0-9]{3}",
    "nss|cedula|c\x80dula": r"\d(?:[ .-]?\d){5,10}",
    "cpf|pis": r"\d{3}\.?\d{3}\.?\d{3}[-/]?\d\d|\d{3}\.?\d{5}\.?\d\d-?\d",
    "cuit|cuil": r"\d\d-?\d{8}-?\d",
    "rut": r"\d{1,2}\.?\d{3}\.?\d{3}-[\dk]",
    "sin": r"\d{3}[ -]\d{3}[ -]\d{3}",
    "social insurance": r"\d{3}[ -]?\d{3}[ -]?\d{3}",
    # Europe
    "nhs": r"\d{3}[ -]?\d{3}[ -]?\d{4}",
    "utr": r"\d{5} ?\d{5}",
    "ppsn?": r"\d{7}[a-w][a-iw]?",
    "steuer-?(?:id|identifikation|identifikations)|identifikations|idnr": r"\d{2} ?\d{3} ?\d{3} ?\d{3}",
    "steuer": r"\d{2,3}[ /]?\d{3}[ /]?\d{4,5}|\d{2} ?\d{3} ?\d{3} ?\d{3}",
    "sozialversicherungs|rentenversicherungs|sv|svnr|rvnr": (
        r"\d{2} ?\d{6} ?[a-z] ?\d{3}|\d{4}[ -]?\d{6}"
    ),
    "krankenversicherten|krankenversicherungs|kvnr": r"[a-z]\d{9}",
    "personalausweis|ausweis|reisepass|passnummer|f\x80hrerschein|identity card|passport|passeport|pasaporte|passaporto|passaporte|paspoort|paszport": (
        _SERIAL + r"|[a-z]{0,3}[ -]?\d{6,9}[a-z]{0,2}|\d\d[a-z]{2}\d{5}"
    ),
    "ahv|avs|oasi": r"756[.]?\d{4}[.]?\d{4}[.]?\d\d",
    "s\x80cu|s\x80curit\x80 sociale|securite sociale|nir|insee": (
        r"[12] ?\d\d ?\d\d ?\d[\dab] ?\d{3} ?\d{3}(?: ?\d\d)?|[12][ .]\d\d[ .]\d\d[ .]\d[\dab][ .]\d{3}[ .]\d{3}(?:[ .]\d\d)?"
    ),
    "num\x80ro fiscal|spi": r"[0-3]\d(?: ?\d){11}",
    "bsn|burgerservice|sofi": r"\d{9}|\d{4}\.\d\d\.\d{3}",
    "rijksregister|registre national|num\x80ro national|niss|insz": r"\d\d\.?\d\d\.?\d\d[ -]?\d{3}[. ]?\d\d",
    "dni|nie|nif": r"(?:[xyz][ -]?\d{7}|\d{8})[ -]?[a-z]|\d{2}\.?\d{3}\.?\d{3}|\d{9}",
    "contribuinte": r"\d{3} ?\d{3} ?\d{3}",
    "codice fiscale|cod\\. ?fisc\\.?|cf": r"[a-z]{6} ?\d\d[a-z]\d\d ?[a-z]\d{3}[a-z]",
    "partita iva|p\\. ?iva": r"\d{11}",
    "pesel": r"\d{11}",
    "nip": r"\d{3}-?\d{3}-?\d\d-?\d\d",
    "dow\x80d osobisty|dowodu osobistego|dowodu": r"[a-z]{3} ?\d{6}",
    "rodn\x80 \x80\x80slo|rodne cislo|r\\. ?\x80\\.": r"\d{6}/?\d{3,4}",
    "taj": r"\d{3}[ -]?\d{3}[ -]?\d{3}",
    "cnp|jmbg|emso|em\x80o": r"\d{13}",
    "oib|isikukood|asmens kodas|amka": r"\d{11}",
    "afm": r"\d{9}",
    "t\\.c\\.?|tc|tckn|kimlik": r"[1-9]\d{10}",
    "personnummer|samordnings|personnumret": r"(?:19|20)?\d{6}[-+ ]?\d{4,5}",
    "f\x80dsels|fodsels|d-nummer": r"\d{6} ?\d{5}",
    "cpr|kennitala": r"\d{6}[- ]?\d{4}",
    "henkil\x80tunnus|henkilotunnus|hetu": r"\d{6}[-+a-f]\d{3}[0-9a-y]",
    "personas kods": r"\d{6}-?\d{5}",
    # Asia, Africa, Australia
    "aadhaa?r": r"\d{4}[ -]?\d{4}[ -]?\d{4}",
    "pan": r"[a-z]{3}[abcfghljpt][a-z]\d{4}[a-z]",
    "voter id|epic": r"[a-z]{3}\d{7}",
    "cnic|nicop": r"\d{5}-?\d{7}-?\d",
    "nric|fin": r"[stfgm]\d{7}[a-z]|\d{6}-?\d\d-?\d{4}",
    f"mykad|ic {_NO}|kp": r"\d{6}-?\d\d-?\d{4}",
    "nik|ktp": r"\d{16}",
    "cccd|cmnd|c\x80n c\x80\x80c(?: c\x80ng d\x80n)?": r"\d{12}|\d{9}",
    "philsys|umid": r"\d{4}-\d{7}-\d|\d{4}-\d{4}-\d{4}(?:-\d{4})?",
    "sss": r"\d\d-\d{7}-\d",
    "emirates id|eid": r"784-?\d{4}-?\d{7}-?\d",
    "iqama": r"[12]\d{9}",
    "teudat zehut|israeli id": r"\d{9}|\d{8}-\d",
    "thai id|citizen id": r"\d[- ]?\d{4}[- ]?\d{5}[- ]?\d\d[- ]?\d",
    "my number|individual number|mynumber": r"\d{4}[ -]?\d{4}[ -]?\d{4}",
    "bvn|nin": r"\d{11}",
    "ghana card|gha": r"(?:gha-)?\d{9}-\d",
    "tfn|tax file": r"\d{3}[ -]?\d{3}[ -]?\d{2,3}",
    "medicare": r"[2-6]\d{3}[ -]?\d{5}[ -]?\d(?:[ -/]\d)?|[1-9][a-z][a-z0-9]\d-?[a-z][a-z0-9]\d-?[a-z]{2}\d\d",
    "ird": r"\d{2,3}-?\d{3}-?\d{3}",
    # anywhere
    "social security|ssn": r"\d{3}[ .-]?\d\d[ .-]?\d{4}",
    "hkid": r"[a-z]{1,2}\d{6} ?\([0-9a]\)",
    "identity (?:card|document)|national[ _-]?(?:id|identity|identification|insurance)(?: card)?|taiwan id|resident id|citizen (?:id|identity)|personal (?:id|identity)"
    "|government id|sa id|south african id|tax[ _-]?(?:id|identification)|taxpayer (?:id|identification)|fiscal (?:id|code)|id[ _-]card|id[ _-]?" + _NO + "|identity[ _-]?" + _NO: _ANY,
    "driv(?:er|ing)'?s?[ _-]?(?:licen[cs]e|permit)|dl": (
        r"[a-z]{1,2}[ -]?\d{6,14}|[a-z]{5}\d{6}[a-z0-9]{5}|[a-z]\d{3}-\d{4}-\d{4}|\d{7,9}|(?=[a-z]{0,3}\d)(?=[0-9a-z]{0,10}\d{3})[a-z0-9]{10,11}"
    ),
    "medical record|mrn|patient id|health insurance|insurance policy": r"[a-z]{0,4}[ -]?\d{6,12}[a-z]?",
    "bank account|checking account|savings account|account[ _-]" + _NO + "|acct[ _-]" + _NO + "|a/c|kontonummer|kontonr|konto-n"
    "|n\x80mero de cuenta|num\x80ro de compte|conto corrente": r"\d(?:[ -]?\d){6,17}",
}  # fmt: skip
_NUMBERED: Final = (  # what may stand between
    "numbers?|num|numer|numero|n\x80mero|num\x80ro|nummer|no|nr|n|sz\x80m|ids?|card|code|kod|value|is|was|ist|es|est|to|e|\x80r?"
    "|are|on|my|the|of|for|saya|adalah|holder|us|uk|german|french|chinese|indian|new|old|series?|with|und|and"
)
_GAP: Final = rf"(?:[^a-z0-9\n]{{0,5}}(?:{_NUMBERED})(?![a-z0-9\x80])){{0,4}}[^a-z0-9\n]{{0,5}}\n?[^a-z0-9\n]{{0,5}}"
_SOLID: Final = f"{_NO}?"
_NO_DATE: Final = r"(?!(?:19|20)\d\d[-./ ]\d\d?[-./ ]\d\d?(?!\d))(?!\d\d?[-./]\d\d?[-./](?:19|20)\d\d(?!\d))"
_END: Final = r"(?![a-z0-9]|[.,/:-][a-z0-9])"
_THINGS: Final = re.compile(
    rb"(?:order|invoice|tracking|ticket|case|product|item|build|job|run|task|request|transaction|message|event|batch|serial)"
    rb"[ _-]?\Z"
)
_IS_MINE: Final = re.compile(  # "… is my SSN"
    rb"[a-z)]{0,3}(?P<is>) (?:is|was|=|ist|est|es) (?:my|the|his|her|our|their|your|meine?|unsere?|mon|ma|mi|il mio) "
)
_WORD: Final = re.compile(rb"[a-z\x80]+")
_BEGINNING: Final = re.compile("[a-z\x80]{1,3}")


def _by_beginning() -> dict[bytes, list[tuple[str, str]]]:
    """Return words and what their numbers look like by the first three letters of the words."""
    found: dict[bytes, list[tuple[str, str]]] = {}
    for words, shape in _SHAPES.items():
        beginnings: dict[str, list[str]] = {}
        for word in re.split(r"\|(?![^(]*\))", words):
            begins = _BEGINNING.match(word)
            assert begins is not None
            beginnings.setdefault(begins[0], []).append(word)
        for beginning, some in beginnings.items():
            found.setdefault(beginning.encode("latin-1"), []).append(("|".join(some), shape))
    return found


_BY_BEGINNING: Final = _by_beginning()


@cache
def _behind(beginning: bytes) -> list[re.Pattern[bytes]]:
    """Return what a word that begins so looks like with its number."""
    return [
        re.compile(f"(?:{words}){_SOLID}(?![a-z\x80]){_GAP}{_NO_DATE}(?P<it>{shape}){_END}".encode("latin-1"))
        for words, shape in _BY_BEGINNING[beginning]
    ]


@cache
def _before(beginning: bytes) -> list[tuple[re.Pattern[bytes], re.Pattern[bytes]]]:
    """Return what a word that begins so looks like, and a number before it."""
    return [
        (
            re.compile(f"(?:{words}){_SOLID}(?![a-z\x80])".encode("latin-1")),
            re.compile(f"(?<![a-z0-9.-])(?P<it>{shape})\\Z".encode("latin-1")),
        )
        for words, shape in _BY_BEGINNING[beginning]
    ]


_BARE: Final = tuple(  # whose form nothing else has; each begins with a digit, which is found fast
    (letters, re.compile(rb"%b(?![a-z0-9-]|\.[0-9])" % form))  # so many letters stand before that
    for letters, form in (
        (0, rb"756(?<![a-z0-9.-]756)\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}"),  # Switzerland
        (0, rb"784(?<![a-z0-9.-]784)-[0-9]{4}-[0-9]{7}-[0-9]"),  # the Emirates
        (0, rb"[12](?<![a-z0-9.-][12]) [0-9]{2} (?:0[1-9]|1[0-2]) [0-9][0-9ab] [0-9]{3} [0-9]{3} [0-9]{2}"),  # France
        (6, rb"[0-9]{2}(?<=[a-z]{6}..)(?<![a-z0-9][a-z]{6}..)[abcdehlmprst][0-9]{2}[a-z][0-9]{3}[a-z]"),  # Italy
        (4, rb"[0-9]{2}(?<=[a-z]{4}..)(?<![a-z0-9][a-z]{4}..)[0-9]{4}[hm][a-z]{5}[a-z0-9][0-9]"),  # Mexico
    )
)
_BEYOND: Final = {  # words of other scripts -> their numbers
    "护照|護照|通行证|通行證|旅券|パスポート|여권": "[A-Z]{1,2}[0-9]{7,8}|[0-9]{8,9}|[A-Z][0-9]{3}[A-Z][0-9]{4}",
    "身[份分][证證]|居民[证證]|居留[证證]": r"[A-Z][0-9]{9}|[A-Z]{1,2}[0-9]{6}\([0-9A]\)|[0-9]{17}[0-9Xx]",
    "マイナンバー|個人番号": "[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{4}",
    "운전면허": "[0-9]{2}-[0-9]{2}-[0-9]{6}-[0-9]{2}",
    "주민(?:등록)?번호|외국인등록번호": "[0-9]{6}-?[0-9]{7}",
    "社保号|社会保障号|驾驶证|驾照|军官证|軍官證|统一证号": "[A-Z]{0,2}[0-9]{7,18}[Xx]?",
    "银行卡|银行账[号户]|銀行帳[號戶]|口座番号|계좌번호": "[0-9](?:[ -]?[0-9]){6,19}",
    "免許証": "[0-9]{12}",
    "СНИЛС|снилс": "[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{2}",
    "[Пп]аспорт[а-я]{0,2}": "[0-9]{2} ?[0-9]{2}(?: ?№)? ?[0-9]{6}",
    "ИНН|инн|РНОКПП|ІПН|ИПН|ЕГН|ИИН": "[0-9]{10,12}",
    "ת\\.? ?ז\\.?|תעודת זהות|رقم الهوية|الرقم القومي|رقم الإقامة": "[0-9]{9,14}",
    "ΑΜΚΑ|ΑΦΜ": "[0-9]{9,11}",
    "บัตรประชาชน|บัตรประจำตัวประชาชน": "[0-9](?:[ -]?[0-9]){12}",
    "आधार": "[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{4}",
}
_BY_FIRST: Final = {
    first: rf"(?:{words})(?:[^\nA-Za-z0-9]{{0,16}}+|\W{{0,6}}+(?:no|No|NO|id|ID)\W{{0,4}})({number})(?![A-Za-z0-9])"
    for words, number in _BEYOND.items()
    for word in words.split("|")
    for first in (word[0] if word[0] != "[" else word[1:3])
}
_FIRSTS: Final = re.compile(f"[{''.join(_BY_FIRST)}]")


@cache
def _named(first: str) -> re.Pattern[str]:
    return re.compile(_BY_FIRST[first])


_NINO: Final = re.compile(
    rb"(?<![a-z0-9])[a-ceghj-pr-tw-z][a-ceghj-npr-tw-z][ -]?\d\d[ -]?\d\d[ -]?\d\d[ -]?[a-d](?![a-z0-9])"
)
INSURANCE: Final = widen(_NINO.pattern)
INSURANCE_WORDS: Final = (b"insur", b"ni n", b"nino")
"""Words of a text that has such numbers: they may stand in the head of a long list."""
_NAMED: Final = (
    f"(?:^|[{ANY_ASCII}--[0-9a-z]])(?:{'|'.join(map(widen, _SHAPES))})(?:{_SOLID})(?:[{ANY_ASCII}--[0-9a-z]]|$)"
)
_MAY_BE_NAMED: Final = sieve(_NAMED)
DOCUMENTS: Final = f"{_NAMED}[{ANY_ASCII}--[0-9]]*[0-9]|[0-9]{widen(_IS_MINE.pattern)}"
BARE_DOCUMENTS: Final = "|".join("[a-z]{2}" * (letters > 0) + widen(form.pattern) for letters, form in _BARE)
_SHORT_WORDS: Final = ("pan", "cf", "dl")
_LONG_WORDS: Final = (
    "codice", "driv(?:er|ing)", "identity card", "personalausweis", "ausweis", "f\x80hrerschein", "reisepass",
    "pass(?:e?port|aport|nummer)", "pas(?:poort|aporte|zport)",
)  # fmt: skip
_FEW_DIGITS: Final = re.compile(
    "[acdfipr](?<![a-z0-9\x80].)(?:{})(?=[^0-9]{{0,40}}[0-9])".format(
        "|".join(
            f"(?<={word[0]}){word[1:]}" for word in (*(f"{word}(?![a-z0-9])" for word in _SHORT_WORDS), *_LONG_WORDS)
        )
    ).encode("latin-1")
)
DOCUMENTS_WITH_LETTERS: Final = (
    f"(?:^|[{ANY_ASCII}--[0-9a-z]])"
    f"(?:(?:{'|'.join(_SHORT_WORDS)})[{ANY_ASCII}--[0-9a-z]]|{'|'.join(map(widen, _LONG_WORDS))})"
)
"""Of `low`, as those before."""
DOCUMENTS_BEYOND: Final = "|".join(map(widen, dict.fromkeys(_BY_FIRST.values())))
"""Of `text`."""


def find_documents(view: SearchText, spans: list[Span]) -> None:
    """Append to `spans` the numbers of documents in which six digits stand together."""
    low = view.low
    last = 0
    for run in _SIX_DIGITS.finditer(low):
        start, end = run.span()
        first = max(last, start - _REACH)
        if start - first > 1 and _MAY_BE_NAMED(for_sieve(low[first:start])):
            for word in _WORD.finditer(low, first, start):
                _find_behind(low, word.start(), word[0][:3], spans)
        last = start
        if low[end : end + 1] and (mine := _IS_MINE.match(low, end)):
            _find_before(low, mine, spans)


def find_documents_with_letters(view: SearchText, spans: list[Span]) -> None:
    """Append to `spans` the numbers of documents that may have fewer digits in a row."""
    for word in _FEW_DIGITS.finditer(view.low):
        _find_behind(view.low, word.start(), word[0][:3], spans)


def find_bare_documents(view: SearchText, spans: list[Span]) -> None:
    """Append to `spans` the numbers that are told by their form alone."""
    for letters, form in _BARE:
        spans += [(match.start() - letters, match.end(), "resident_id") for match in form.finditer(view.low)]


def find_documents_beyond(view: SearchText, spans: list[Span]) -> None:
    """Append to `spans` the numbers behind words of other scripts."""
    spans += [
        (*match.span(1), "resident_id")
        for first in _FIRSTS.finditer(view.text)
        if (match := _named(first[0]).match(view.text, first.start()))
    ]


def _find_behind(low: bytes, start: int, beginning: bytes, spans: list[Span]) -> None:
    """Append to `spans` the number behind the word that begins at `start`."""
    spans += [
        (*match.span("it"), "resident_id")
        for behind in (_behind(beginning) if beginning in _BY_BEGINNING else ())
        if (match := behind.match(low, start)) and _THINGS.search(low[max(0, start - _BEFORE) : start]) is None
    ]


def _find_before(low: bytes, mine: re.Match[bytes], spans: list[Span]) -> None:
    """Append to `spans` the number that a text calls a person's: "… is my SSN"."""
    end, start = mine.start("is"), mine.end()
    first = max(0, end - _LONGEST)
    word = _WORD.match(low, start)
    for name, number in _before(word[0][:3]) if word and word[0][:3] in _BY_BEGINNING else ():
        if name.match(low, start) and (match := number.search(low[first:end])):
            spans.append((first + match.start("it"), end, "resident_id"))


def find_insured(view: SearchText, spans: list[Span]) -> None:
    """Append to `spans` the insurance numbers of the United Kingdom."""
    spans += [(*match.span(), "resident_id") for match in _NINO.finditer(view.low)]
