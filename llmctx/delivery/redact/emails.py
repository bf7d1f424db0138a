"""Find e-mail addresses, also with international domains and names, quoted names, and "name (at) example (dot) com".

A name is read backwards from its "@", so that a text without one costs nothing.
"""

from __future__ import annotations

import re
from typing import Final

from llmctx.delivery.redact.normal_form import SearchText
from llmctx.delivery.redact.sieve import widen
from llmctx.delivery.redact.text_spans import Span

_LABEL: Final = rb"[A-Za-z0-9\x80\x81](?:[A-Za-z0-9\x80\x81-]{0,62}+)"
_TOP: Final = rb"(?:(?:xn--[A-Za-z0-9-]{2,30}+|[A-Za-z][A-Za-z-]{1,30}+)(?![A-Za-z0-9_(])|\x80{2,12}+|\x81{2})"
_HOST: Final = rb"\[(?:IPv6:[0-9A-Fa-f:.]{2,45}|\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})\]"
_MAIL: Final = re.compile(
    rb"@(?<=[A-Za-z0-9_%+~!#$*=?^{}|\"\x80\x81-]@)(?:(?:" + _LABEL + rb"\.){1,8}" + _TOP + rb"|" + _HOST + rb")"
)
_PLAIN_TOP: Final = (
    rb"(?:com|org|net|edu|gov|info|biz|io|ai|app|dev|tech|cloud|eu|de|fr|uk|nl|ch|pl|se|dk|jp|cn|ru|br|ca|au|co|example"
    rb"|[a-z]{2}(?! [a-z]))(?![a-z0-9_-])"
)
"""What ends an address that is spelled in words alone: "at every dot on the map" is none."""
_SPELLED: Final = tuple(
    re.compile(
        begin
        + rb"(?:[a-z0-9-]{1,62}(?:\.| ?[(\[{<] ?(?:dot|punkt|point) ?[)\]}>] ?| dot )){1,5}[a-z]{2,24}(?![a-z0-9_(])"
    )
    for begin in (
        rb"at(?:(?<=[(\[{<]at)|(?<=[(\[{<] at)) ?[)\]}>] ?",
        rb"@(?:(?<=[(\[{<]@)|(?<=[(\[{<] @)) ?[)\]}>] ?",
        rb" at (?=[a-z0-9-]{1,40} dot (?:[a-z0-9-]{1,40} dot ){0,3}"
        + _PLAIN_TOP
        + rb")(?!(?:the|an?|th[ai][st]|every|each|our) dot )",
    )
)
_PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-\x80"
_USERINFO: Final = re.compile(rb"[^\s/@:\"'<>]{0,256}+:[^\s\"'<>]{0,256}+")
_SERVED: Final = re.compile(
    rb"(?i:https?|ssh|git|s?ftp|wss?|postgres(?:ql)?|mysql|redis|amqp|mongodb|ldap|smb|rsync)\Z"
)
_LOGIN: Final = re.compile(rb"[a-z][a-z_-]{0,24}@(?![^\s/@\"'<>]{0,256}@)")
_FILES: Final = frozenset(
    b".png .jpg .jpeg .gif .svg .webp .css .js .jsx .json .ts .tsx .md .py .pdf .txt .html .xml .yml .yaml .toml"
    b" .service .socket .timer .slice .mount".split()
)


EMAILS: Final = widen(_MAIL.pattern)
"""Of `raw`."""
SPELLED_EMAILS: Final = r"[(\[{<] ?(?:at|@) ?[)\]}>] ?[a-z0-9]| at [a-z0-9-]+ dot "
"""Of `low`."""


def find_emails(view: SearchText, spans: list[Span]) -> None:
    """Append to `spans` the addresses of a text."""
    raw = view.raw
    last = 0
    for match in _MAIL.finditer(raw):
        at, end = match.span()
        start = _start(raw, max(last, at - 64), at)
        last = end
        if start == at or raw[raw.rfind(b".", at, end) : end] in _FILES or raw[start:at] == b"git":
            continue  # icon@2x.png, git@github.com:…
        url = raw.rfind(b"://", max(0, start - 320), start)
        if url == start - 3 and _LOGIN.match(raw, start) and _SERVED.search(raw, max(0, url - 12), url):
            continue  # who logs in, and a host
        if url < 0 or _USERINFO.fullmatch(raw, url + 3, start) is None:  # else the end of a password, and a host
            spans.append((start, end, "email"))


def find_spelled_emails(view: SearchText, spans: list[Span]) -> None:
    """Append to `spans` the addresses that are written "name (at) example (dot) com"."""
    for spelled in _SPELLED:
        _find_spelled(view.raw, view.low, spelled, spans)


def _find_spelled(raw: bytes, low: bytes, spelled: re.Pattern[bytes], spans: list[Span]) -> None:
    last = 0
    for match in spelled.finditer(low):
        first = max(last, match.start() - 68)
        name = raw[first : match.start()].rstrip(b" ([{<")
        start = first + len(name.rstrip(_PLAIN))
        last = match.end()
        if start < first + len(name):
            spans.append((start, last, "email"))


def _start(raw: bytes, first: int, at: int) -> int:
    """Return where the name before the "@" begins."""
    before = raw[at - 1]
    if before == 0x22:  # "odd name"@example.com
        opened = raw.rfind(b'"', first, at - 1)
        quoted = raw[opened + 1 : at - 1]
        if opened < 0 or not quoted.strip() or b"\n" in quoted or raw[opened - 1 : opened].isalnum():
            return at
        return opened
    local = raw[first:at]
    if before == 0x81:
        shorter = local.rstrip(_PLAIN + b"\x81")
        return max(at - len(local) + len(shorter), at - 24)
    kept = local.rstrip(_PLAIN)
    return at - len(local) + len(kept)
