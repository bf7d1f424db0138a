"""Documents that identify people, by the word that stands before their numbers: passports, licences, tax and insurance
numbers; addresses of hosts that are somebody's."""

from __future__ import annotations

import re
from typing import Final

from llmctx.delivery.redact.normal_form import SearchText
from llmctx.delivery.redact.sieve import wider
from llmctx.delivery.redact.text_spans import Span


def _lower(pattern: bytes) -> re.Pattern[bytes]:
    """Compile `pattern` for a text of small letters."""
    return re.compile(re.sub(rb"\\.|[A-Z]", lambda sign: sign[0] if sign[0][:1] == b"\\" else sign[0].lower(), pattern))


_NINO: Final = re.compile(
    rb"(?<![a-z0-9])[a-ceghj-pr-tw-z][a-ceghj-npr-tw-z][ -]?\d\d[ -]?\d\d[ -]?\d\d[ -]?[a-d](?![a-z0-9])"
)
_NAMED: Final = tuple(
    (marks, kind, _lower(pattern))
    for marks, kind, pattern in (
        ((b"ssn", b"social"), "resident_id", rb"(?:ssn|social security(?: (?:number|no\.?|num))?)\W{0,4}(?:(?:is|was|number|no)\W{1,3}){0,2}(\d{3}[ .-]?\d{2}[ .-]?\d{4})(?!\d)"),
        ((b"passport",), "resident_id", rb"passport[^\n]{0,40}?(?<![A-Za-z0-9])([A-Z]{0,2}\d{7,9}[A-Z]?)(?![A-Za-z0-9])"),
        ((b"aadha",), "resident_id", rb"aadha+r[^\n\d]{0,30}(\d{4}[ -]?\d{4}[ -]?\d{4})(?!\d)"),
        ((b"driv",), "resident_id", rb"driv(?:er|ing)[^\n]{0,40}?(?<![A-Za-z0-9])([A-Z]{1,2}\d{6,12}|[A-Z]{5}\d{6}[A-Z0-9]{5})(?![A-Za-z0-9])"),
        ((b"nric", b"fin "), "resident_id", rb"\b(?:nric|fin)\b[^\n\w]{0,4}([STFGM]\d{7}[A-Z])\b"),
        ((b"pesel",), "resident_id", rb"pesel[^\n\d]{0,10}(\d{11})(?!\d)"),
        ((b"steuer",), "resident_id", rb"steuer-?(?:id|nummer|identifikationsnummer)[^\n\d]{0,20}(\d{2} ?\d{3} ?\d{3} ?\d{3})(?!\d)"),
        ((b"tfn", b"tax file"), "resident_id", rb"(?:\btfn\b|tax file)[^\n\d]{0,20}(\d{3}[ -]?\d{3}[ -]?\d{2,3})(?!\d)"),
        ((b"s\x80cu", b"nir "), "resident_id", rb"(?:s\x80cu|\bnir\b)[^\n\d]{0,24}([12] ?\d\d ?\d\d ?\d[\dAB] ?\d{3} ?\d{3}(?: ?\d\d)?)(?!\d)"),
        ((b"_ip", b"forwarded-for", b"real-ip"), "ip", rb"(?:(?:client|user|remote|peer)_ip|x-forwarded-for|x-real-ip)[\"']?[ \t]{0,2}[:=][ \t\"']{0,3}(\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|[0-9a-f]{1,4}(?::[0-9a-f]{0,4}){2,7})(?![\w.])"),
        ((b"social", b"sin ", b"sin:"), "resident_id", rb"(?:social insurance|\bsin\b)[^\n\d]{0,20}(\d{3}[ -]\d{3}[ -]\d{3})(?!\d)"),
        ((b"dni",), "resident_id", rb"\b(?:dni|nie)\b[^\n\w]{0,4}((?:[XYZ]\d{7}|\d{8})-?[A-Z])\b"),
        ((b"ident", b"onal id", b"id card", b"id num", b"hkid"), "resident_id", rb"(?:identity|national id|id card|id number|hkid)[^\n]{0,24}?(?<![A-Za-z0-9])([A-Z]{1,2}\d{6}\([0-9A]\)|[A-Z][1289]\d{8})(?![A-Za-z0-9])"),
        ((b" ip",), "ip", rb"(?:my|'s|their|client) ip(?: ?v?[46])?(?: address)?(?: is|:| =)? {0,2}(\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|[0-9a-f]{1,4}(?::[0-9a-f]{0,4}){2,7})(?![\w.])"),
    )
)  # fmt: skip
_NAMED_BEYOND: Final = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("resident_id", r"(?:护照|護照|通行证|通行證)[^\nA-Za-z0-9]{0,10}([A-Z]{1,2}[0-9]{7,8}|[0-9]{8,9})(?![A-Za-z0-9])"),
        ("resident_id", r"(?:身[份分][证證]|居民證|居留證)[^\nA-Za-z0-9]{0,10}([A-Z][0-9]{9}|[A-Z]{1,2}[0-9]{6}\([0-9A]\))(?![A-Za-z0-9])"),
        ("resident_id", r"(?:パスポート|マイナンバー|여권)[^\nA-Za-z0-9]{0,12}([A-Z]{0,2}[0-9]{7,12}|[0-9]{4} [0-9]{4} [0-9]{4})(?![A-Za-z0-9])"),
        ("ip", r"(?:我的|本机|用户)\s?ip\s?(?:地址)?\s?[是为:：]?\s?([0-9]{1,3}(?:\.[0-9]{1,3}){3})(?![0-9.])"),
    )
)  # fmt: skip
INSURED: Final = [wider(_NINO.pattern)]
INSURANCE: Final = (b"insur", b"ni n", b"nino")
"""Words of a text that has such numbers: they may stand in the head of a long list."""


def find_insured(view: SearchText, spans: list[Span]) -> None:
    """Append to `spans` the insurance numbers of the United Kingdom."""
    spans += [(*match.span(), "resident_id") for match in _NINO.finditer(view.low)]


class IdentityDocuments:
    """Finds what is named, of one kind: resident_id or ip."""

    def __init__(self, kind: str) -> None:
        self._named = [entry for entry in _NAMED if entry[1] == kind]
        self._beyond = [entry for entry in _NAMED_BEYOND if entry[0] == kind]
        self.heads = {
            "low": [wider(entry[2].pattern) for entry in self._named],
            "text": [f"(?i:{wider(pattern.pattern)})" for _, pattern in self._beyond],
        }

    def find(self, view: SearchText, spans: list[Span]) -> None:
        """Append to `spans` what is found."""
        low = view.low
        for marks, kind, pattern in self._named:
            if any(mark in low for mark in marks):
                spans += [(*match.span(1), kind) for match in pattern.finditer(low)]
        if not view.raw.isascii():
            for kind, named in self._beyond:
                spans += [(*match.span(1), kind) for match in named.finditer(view.text)]
