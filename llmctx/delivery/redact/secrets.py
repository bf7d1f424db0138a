"""Secrets of machines: keys of the known makers, tokens, passwords, private keys.

Keys of known makers are told by their beginnings. Others (Mistral, Cohere, Azure, Twilio and many have none) are told
by what stands before them: `api_key=…`, `"client_secret": "…"`, `Authorization: Bearer …`, `postgres://user:…@host`.

Ordinary texts are left within microseconds. A maker's key has no gap, `_LONG` characters at least, and after its first
digit or capital some more: few words are like that, and those alone are searched for beginnings. What stands before
a secret is one of a few words. Every quantifier is bounded, and hardly one can give back what it took, so that a
hostile text costs no more than others.
"""

from __future__ import annotations

import re
from typing import Final

from llmctx.delivery.redact.spans import SearchText, Span, begins

_LONG: Final = 15
# letters, digits and dashes are one word; those that give a key away, digits and capitals, are "B", others "a"
_WORDS: Final = bytes(
    0x42
    if chr(c) in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    else 0x61
    if chr(c) in "abcdefghijklmnopqrstuvwxyz-_"
    else 0x20
    for c in range(256)
)
_DASH: Final = re.compile(b"[-_]")
_TELLING: Final = re.compile(b"B[aB]{8,}+")
_MANY: Final = 100  # words
_HEAD: Final = 16  # characters of a word in which a key begins, unless it begins behind a dash

_ANY: Final = "[A-Za-z0-9_-]"
_SOLID: Final = "[A-Za-z0-9]"
_TOLD: Final = "(?=[a-z_-]{0,24}+[A-Z0-9])"  # a key has digits or capitals; `sk-cube-grid-animation` is a class of CSS

_MAKERS: Final = {
    # OpenAI, Anthropic, Langfuse, OpenRouter, DeepSeek, Moonshot, DashScope, …
    "sk-": rf"(?!sk-)(?:(?:proj|ant|svcacct|admin|lf|or|live|test)-{_ANY}{{8,4096}}+|(?:{_TOLD}|(?={_SOLID}{{20}}))"
    rf"{_ANY}{{16,4096}}+)",
    "pk-lf-": f"{_ANY}{{8,200}}+",
    "sess-": f"{_TOLD}{_SOLID}{{24,400}}+",
    "AIza": f"{_ANY}{{30,60}}+",  # Google
    "GOCSPX-": f"{_ANY}{{20,60}}+",
    "ya29.": f"{_ANY}{{20,2048}}+",
    "AKIA": "[A-Z0-9]{16}(?![A-Za-z0-9])",  # AWS
    "ASIA": "[A-Z0-9]{16}(?![A-Za-z0-9])",
    "gsk_": f"{_SOLID}{{20,200}}+",  # Groq
    "csk-": f"{_SOLID}{{20,200}}+",  # Cerebras
    "hf_": f"{_SOLID}{{20,200}}+",
    "r8_": f"{_SOLID}{{20,200}}+",  # Replicate
    "xai-": f"{_TOLD}{_SOLID}{{20,400}}+",
    "pplx-": f"{_TOLD}{_SOLID}{{20,400}}+",
    "fw_": f"{_TOLD}{_SOLID}{{16,200}}+",  # Fireworks
    "nvapi-": f"{_ANY}{{20,400}}+",
    "tvly-": f"{_ANY}{{16,200}}+",
    "lsv2_": f"{_ANY}{{20,200}}+",  # LangSmith
    "ghp_": f"{_SOLID}{{20,255}}+",
    "gho_": f"{_SOLID}{{20,255}}+",
    "ghu_": f"{_SOLID}{{20,255}}+",
    "ghs_": f"{_SOLID}{{20,255}}+",
    "ghr_": f"{_SOLID}{{20,255}}+",
    "github_pat_": "[A-Za-z0-9_]{20,255}+",
    "glpat-": f"{_ANY}{{16,255}}+",
    "xox": f"[a-z]-{_ANY}{{10,400}}+",  # Slack
    "xapp-": f"{_ANY}{{16,400}}+",
    "sk_": f"(?:live|test)_{_SOLID}{{10,255}}+",  # Stripe
    "rk_": f"(?:live|test)_{_SOLID}{{10,255}}+",
    "whsec_": f"{_SOLID}{{16,255}}+",
    "AC": "[0-9a-f]{32}(?![A-Za-z0-9])",  # Twilio
    "SK": "[0-9a-f]{32}(?![A-Za-z0-9])",
    "npm_": f"{_SOLID}{{30,100}}+",
    "pypi-AgE": f"{_ANY}{{16,1024}}+",
    "LTAI": f"{_SOLID}{{12,40}}+",  # Alibaba Cloud
    "AKID": f"{_TOLD}{_SOLID}{{13,60}}+",  # Tencent Cloud
    "dop_v1_": f"{_SOLID}{{20,100}}+",
    "shpat_": f"{_SOLID}{{20,100}}+",
    "dapi": "[0-9a-f]{32}(?![A-Za-z0-9])",  # Databricks
    "hvs.": f"{_ANY}{{20,400}}+",  # Vault
}
_DOTTED: Final = {
    "SG.": rf"{_ANY}{{16,64}}+\.{_ANY}{{16,128}}+",  # SendGrid
    "eyJ": rf"{_ANY}{{5,8192}}+\.{_ANY}{{4,16384}}+(?:\.{_ANY}{{0,4096}}+)?",  # a JWT
    "sig=": r"[A-Za-z0-9%+/=_-]{20,200}+",  # a signed URL of Azure's
}
_KINDS: Final = {"eyJ": "token"}

_PEM: Final = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----"
    rb"(?:(?:[\s\\]|(?<=\\)[nr]){1,8}+[A-Za-z-]{4,20}: [^\n\\]{1,120}+){0,4}"
    rb"[A-Za-z0-9+/=\s\\]{0,16384}+"
    rb"(?:-----END [A-Z0-9 ]{0,80}-----)?"
)
_PEM_END: Final = re.compile(rb"-----END (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_PEM_BODY: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\ \r\n\t"

_URL_PASSWORD: Final = re.compile(rb"://[^\s/@:\"'<>]{0,256}+:([^\s/@\"'<>]{1,256}+)@")

# what may stand between the name of a secret and the secret; "?" stands for a full-width colon, too
_GAP: Final = r"[0-9]?[\"'\\]{0,3}+[ \t]{0,4}+(?:[:=?]|is )"
_VALUE: Final = (
    r"[\"'\\\]]{0,3}+[ \t]{0,4}+(?:[:=?>]{1,3}+|is )[ \t]{0,4}+"
    r"([\"'\\]{0,3}+)([^\s\"'\\,;&<>(){}\[\]$?|`]{4,4096}+)(.?)"
)


def _named(word: str, before: str = "", suffix: str = "") -> re.Pattern[bytes]:
    """`word`, if it stands behind one of `before`, and what is assigned to it."""
    return re.compile(rf"{word}(?={suffix}{_GAP}){before}{suffix}[0-9]?{_VALUE}".encode())


_KEY_OF: Final = (
    "api",
    "access",
    "secret",
    "account",
    "auth",
    "private",
    "subscription",
    "encryption",
    "signing",
    "shared",
)
_BEFORE_KEY: Final = "(?:" + "|".join([*(rf"(?<={who}.key)|(?<={who}key)" for who in _KEY_OF), "(?<=[?&]key)"]) + ")"
_VALUE_OF_HEADER: Final = r"([\"'\\]{0,3}+)(?:[a-z]{3,12} )?([a-z0-9._~+/=-]{8,4096}+)(.?)"
_COLON: Final = r"[\"'\\]{0,3}+[ \t]{0,4}+[:=]"
_ASSIGNED: Final = (
    (b"key", "api_key", _named("key", _BEFORE_KEY)),
    (b"secret", "api_key", _named("secret", suffix="[a-z_-]{0,16}+")),
    (b"token", "token", _named("token", r"(?<!page.token)(?<!pagetoken)(?<!next.token)(?<!nexttoken)")),
    (b"passw", "password", _named("passw", suffix="(?:or)?d")),
    (b"pwd", "password", _named("pwd")),
    (
        b"authoriz",
        "token",
        re.compile(rf"authoriz(?=ation{_COLON})ation{_COLON}[ \t]{{0,4}}+{_VALUE_OF_HEADER}".encode()),
    ),
    (b"bearer", "token", re.compile(rf"bearer[ \t]{{1,4}}+{_VALUE_OF_HEADER}".encode())),
)
_SAID: Final = re.compile(r"(?:密码|密钥|口令)(?:是|为)?[ :：=是为]{0,4}+([!-~]{4,128}+)")

_A_NAME: Final = re.compile(rb"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[A-Z][A-Z_]+[0-9]?")  # `settings.key`, `API_KEY`
_DIGIT: Final = re.compile(rb"[0-9]")
_NO_PASSWORD: Final = re.compile(rb"(?i:(?:your|my|the)[-_ ].*|str(?:ing)?|none|null|true|false|passw(?:or)?d|[*x.-]+)")


class Credentials:
    """Finds the kinds it is given of api_key, token, password, private_key."""

    KINDS: Final = frozenset({"api_key", "token", "password", "private_key"})

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds
        self._makers = [
            (prefix.encode(), _KINDS.get(prefix, "api_key"), re.compile(f"{begins(re.escape(prefix))}{body}".encode()))
            for prefix, body in (_MAKERS | _DOTTED).items()
            if _KINDS.get(prefix, "api_key") in kinds
        ]
        self._assigned = [entry for entry in _ASSIGNED if entry[1] in kinds]

    def find(self, view: SearchText, spans: list[Span]) -> None:
        """Append to `spans` what is found."""
        raw, kinds = view.raw, self._kinds
        if told := _telling_words(raw):
            for prefix, kind, pattern in self._makers:
                if prefix in told:
                    spans += [(match.start(), match.end(), kind) for match in pattern.finditer(raw)]
            if "private_key" in kinds and b"PRIVATE KEY" in raw:
                _find_private_keys(raw, spans)
        low = view.low
        for word, kind, pattern in self._assigned:
            if word in low:
                _find_assigned(raw, low, kind, pattern, spans)
        if "password" in kinds:
            if b"@" in raw and b"://" in raw:
                for match in _URL_PASSWORD.finditer(raw):
                    if raw[match.start(1)] not in b"$<{*[":  # a placeholder
                        spans.append((*match.span(1), "password"))
            if b"?" in raw and ("密" in view.text or "口令" in view.text):
                spans += [(*said.span(1), "password") for said in _SAID.finditer(view.text) if _has_digit(said[1])]


def _has_digit(text: str) -> bool:
    return _DIGIT.search(text.encode()) is not None


def _telling_words(raw: bytes) -> bytes:
    """The words of `raw` that may be keys, as far as a key may begin in them; all of it, if it is full of them."""
    found = {b"sk-"} if b"sk-" in raw else set()
    words = raw.translate(_WORDS)
    for match in _TELLING.finditer(words):
        if len(found) > _MANY:
            return raw
        start, end = words.rfind(b" ", 0, match.start()) + 1, match.end()
        if end - start >= _LONG:
            # with the few signs before it: `SG.` and the like are not part of the word
            found.add(raw[max(0, start - 5) : end if _DASH.search(raw, start, end) else start + _HEAD])
    return b" ".join(found)


def _find_assigned(raw: bytes, low: bytes, kind: str, pattern: re.Pattern[bytes], spans: list[Span]) -> None:
    likely = _is_password if kind == "password" else _is_secret
    for match in pattern.finditer(low):
        start, end = match.span(2)
        value = raw[start:end].rstrip(b".:")  # the end of a sentence
        behind = match[3]
        if len(value) < 4 or behind in (b"(", b"["):
            continue  # code: a call, or an entry of something
        if likely(value, bool(match[1]), behind):
            spans.append((start, start + len(value), kind))


def _is_secret(value: bytes, quoted: bool, behind: bytes) -> bool:
    if len(value) < 8 or value.isdigit() or _A_NAME.fullmatch(value):
        return False
    if _DIGIT.search(value):
        return len(value) >= 12 or quoted or behind in (b"&", b"")
    return len(value) >= 24 and value.isalnum() and not value.islower()


def _is_password(value: bytes, quoted: bool, behind: bytes) -> bool:
    if _NO_PASSWORD.fullmatch(value) or _A_NAME.fullmatch(value):
        return False
    return quoted or behind == b"&" or _DIGIT.search(value) is not None


def _find_private_keys(raw: bytes, spans: list[Span]) -> None:
    spans += [(*match.span(), "private_key") for match in _PEM.finditer(raw)]
    last = 0
    for match in _PEM_END.finditer(raw):  # the beginning may have been cut off
        start, end = match.span()
        before = raw[max(last, start - 16384) : start]
        spans.append((start - len(before) + len(before.rstrip(_PEM_BODY)), end, "private_key"))
        last = end
