"""Addresses of hosts that belong to a person, by the words before them: `my ip is …`, `X-Forwarded-For: …`."""

from __future__ import annotations

import re
from typing import Final

from llmctx.delivery.redact.normal_form import SearchText
from llmctx.delivery.redact.sieve import widen
from llmctx.delivery.redact.text_spans import Span

_ADDRESS: Final = rb"(\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|[0-9a-f]{1,4}(?::[0-9a-f]{0,4}){2,7})(?![\w.])"
_NAMED: Final = (
    re.compile(
        rb"(?:(?:client|user|remote|peer|visitor)(?:_?ip(?:_?addr(?:ess)?)?|[_-]?addr(?:ess)?)|x-forwarded-for|x-real-ip|(?:cf|true|x)-(?:connecting|client)-ip)"
        rb"[\"']?[ \t]{0,2}[:=][ \t\"']{0,3}" + _ADDRESS
    ),
    re.compile(
        rb"(?:my|'s|their|client|home|meine|mi|mon|user|customer|visitor) (?:public |home |own )?"
        rb"ip(?:[ -]?v?[46])?(?:[ -]addresse?)?(?: (?:is|ist|es|est|was)|:| =)? {0,2}" + _ADDRESS
    ),
)
_BEYOND: Final = re.compile(
    r"(?:我的|本机|用户|客户端)\s?ip\s?(?:地址)?\s?[是为:：]?\s?([0-9]{1,3}(?:\.[0-9]{1,3}){3})(?![0-9.])",
    re.IGNORECASE,
)
ADDRESSES: Final = "|".join(widen(pattern.pattern) for pattern in _NAMED)
"""Of `low`."""
ADDRESSES_BEYOND: Final = f"(?i:{widen(_BEYOND.pattern)})"
"""Of `text`."""


def find_addresses(view: SearchText, spans: list[Span]) -> None:
    """Append to `spans` the addresses of a text."""
    for pattern in _NAMED:
        spans += [(*match.span(1), "ip") for match in pattern.finditer(view.low)]


def find_addresses_beyond(view: SearchText, spans: list[Span]) -> None:
    """Append to `spans` the addresses behind words of other scripts."""
    spans += [(*match.span(1), "ip") for match in _BEYOND.finditer(view.text)]
