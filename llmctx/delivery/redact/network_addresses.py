"""Addresses of hosts that belong to a person, by the words before them: `my ip is …`, `X-Forwarded-For: …`."""

from __future__ import annotations

import re
from typing import Final

from llmctx.delivery.redact.normal_form import SearchText
from llmctx.delivery.redact.sieve import widen
from llmctx.delivery.redact.text_spans import Span

_ADDRESS: Final = rb"(\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|[0-9a-f]{1,4}(?::[0-9a-f]{0,4}){2,7})(?![\w.])"
_NAMED: Final = (
    (
        (b"_ip", b"forwarded-for", b"real-ip", b"connecting-ip", b"clientip"),
        re.compile(
            rb"(?:(?:client|user|remote|peer|visitor)_?ip(?:_?addr(?:ess)?)?|x-forwarded-for|x-real-ip|(?:cf|true|x)-(?:connecting|client)-ip)"
            rb"[\"']?[ \t]{0,2}[:=][ \t\"']{0,3}" + _ADDRESS
        ),
    ),
    (
        (b" ip", b"ip-adresse", b"ip address"),
        re.compile(
            rb"(?:my|'s|their|client|home|meine|mi|mon|user|customer|visitor) (?:public |home |own )?"
            rb"ip(?:[ -]?v?[46])?(?:[ -]addresse?)?(?: (?:is|ist|es|est|was)|:| =)? {0,2}" + _ADDRESS
        ),
    ),
)
_BEYOND: Final = re.compile(
    r"(?:我的|本机|用户|客户端)\s?ip\s?(?:地址)?\s?[是为:：]?\s?([0-9]{1,3}(?:\.[0-9]{1,3}){3})(?![0-9.])",
    re.IGNORECASE,
)
ADDRESSES: Final = {
    "low": ["|".join(widen(pattern.pattern) for _, pattern in _NAMED)],
    "text": [f"(?i:{widen(_BEYOND.pattern)})"],
}


def find_addresses(view: SearchText, spans: list[Span]) -> None:
    """Append to `spans` the addresses of a text."""
    low = view.low
    for marks, pattern in _NAMED:
        if any(mark in low for mark in marks):
            spans += [(*match.span(1), "ip") for match in pattern.finditer(low)]
    if not view.raw.isascii():
        spans += [(*match.span(1), "ip") for match in _BEYOND.finditer(view.text)]
