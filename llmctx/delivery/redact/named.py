"""Secrets that are told by what stands before them: `api_key=…`, `"client_secret": "…"`, `Authorization: Basic …`.

A name and its value may stand apart in many ways: `--token X`, `<password>X</password>`, a cell of a table, the next
line, `{"name": "API_KEY", "value": "X"}`. `_GLUE` knows what may stand between. What stands behind a name is a secret
only if it looks like one: no word, no name of a variable, no call, no placeholder. How much it must look like one
depends on how much the name tells: a password may be anything, what is behind a mere "key" must be random.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from llmctx.delivery.redact.normal_form import NormalForm
from llmctx.delivery.redact.spans import Span

# -- what may stand between a name and its value -----------------------------------------------------------------------

_CLOSE: Final = r" ?[\"'`\\\])*]{0,4}+"
_WS: Final = r"[ \t]{0,16}+"
_LINES: Final = r"(?:[ \t]{0,16}+\r?\n){0,2}+[ \t]{0,16}+"
_VALUE_OF: Final = r"\"?(?:value|val|default|content|string)[\"'\\]{0,3}+"
_ATTRIBUTE: Final = r"(?: [a-z:]{1,20}=\"[^\"<>]{0,60}\")?"
_GLUE: Final = (
    rf"s?[0-9]?(?:{_CLOSE}(?:(?:[:=|>]{{1,2}}+{_WS}(?:\|{_WS}|<!\[cdata\[|\s{{0,8}}<[a-z:]{{1,20}}>)?"
    rf"|{_WS}(?:[(][^()\n]{{1,30}}[)]{_WS}|for [\w.@-]{{1,40}})?(?:[:=|]{{1,2}}+>?|->){_WS}(?:\|{_WS})?"
    rf"|,{_LINES}[\"'\\ ]{{0,3}}+{_VALUE_OF}{_WS}[:=]|\n{_WS}(?:-{_WS})?{_VALUE_OF}{_WS}[:=])"
    rf"(?P<line>(?:\r?\n){{1,2}}[ \t]{{0,32}}+)?"
    rf"|{_WS}(?:is|was|are|ist|est|es|to)(?::| )(?=[^\s]{{0,40}}[^a-z\s.,;:!?])"
    rf"|[ \t]{{1,16}}+(?:value=|name=[^<>\n]{{0,40}}?value=)|[(](?=[\"'])|[ \t]{{1,4}}+(?=')|,[ \t]{{0,4}}+(?=[\"'])"
    rf"|{_ATTRIBUTE}>(?:\s{{0,8}}<[a-z:]{{1,20}}>|<!\[cdata\[)?|</[a-z:]{{1,20}}>\s{{0,16}}+<[a-z:]{{1,20}}>)"
    rf"|(?P<gap>[\"'`]?(?:[ \t]{{1,16}}+|\r?\n{{1,2}}|[ \t]\?[ \t]))(?=\S{{0,48}}[0-9]))"
)
_VALUE: Final = (
    rf"{_WS}(?P<open>[\"'`\\* ]{{0,6}}+)(?:(?<=\")(?P<quoted>[^\"\n\\]{{4,512}}+)(?=[\\ ]{{0,4}}\")"
    rf"|(?<=')(?P<single>[^'\n\\]{{4,512}}+)(?=[\\ ]{{0,4}}')"
    rf"|(?P<bare>[^\s\"'`\\,;&<>(){{}}\[\]|\x80-\xff]{{4,4096}}+))(?P<behind>.?)"
)


def _named(word: str) -> re.Pattern[bytes]:
    """The end of a name, which is `word`, and what is assigned to it."""
    return re.compile(f"{word}{_GLUE}{_VALUE}".encode("latin-1"))


_NAMES: Final = (  # a word that must be there, a sign (seen in no time), the kind, the whole end of the name
    (b"key", None, "api_key", _named("key(?:_?value|_?base|[ _-]data|s?_secret)?")),
    (b"secret", None, "api_key", _named("secret(?:[_ -]?(?:access)?[_ -]?(?:key|token|id_?value|value|string|text|data)(?:_base)?)?")),
    (b"token", None, "token", _named("token(?:[_ -]?(?:value|secret|string))?")),
    (b"cred", None, "token", _named("credential")),
    (b"appid", b"=", "api_key", _named("appid")),
    (b"auth", None, "token", _named("auth(?:code)?")),
    (b"pass", None, "password", _named("pass(?:w(?:or[dt]|d)(?:_?value|[ _-]?string)?|[ _-]?phrase|[ _-]?code|e)?")),
    (b"pw", None, "password", _named("pwd?")),
    (b"contrase", b"\x80", "password", _named("contrase[n\x80?]a")),
    (b"senha", b":", "password", _named("senha")),
)  # fmt: skip
_KEY_OF: Final = re.compile(
    rb"(?:api|access|secret|account|auth|private|subscription|encryption|signing|shared|storage|licen[sc]e|app|application"
    rb"|service|master|admin|functions?|host|webhook|client|search|deploy|consumer|integration|crypt|cipher|aes|hmac|jwt"
    rb"|openai|anthropic|mistral|azure|google|gemini|claude|cohere|stripe|twilio|[a-z]+ai|bot|developer|dev|server|write|read|instrumentation|security|account|ocp|goog|[?&])[ _.-]?key\Z"
)
_PLAIN_KEY: Final = re.compile(rb"(?:public|primary|foreign|partition|sort|cache|idempotency|routing|object|row|s3|message)[ _.-]?key\Z")
_NO_TOKEN: Final = re.compile(rb"(?:page|next|continuation|sync|cursor|previous|prev|pad|eos|bos|unk|sep|cls|mask)[ _.-]?token\Z")
_FLAG: Final = re.compile(rb"(?<![A-Za-z0-9])--?[a-z][a-z-]{0,30}\Z")
_LOGIN: Final = re.compile(rb"(?:login|user|username|account)[ \t=:]{1,4}\S{1,80}\s{1,12}(?:pass(?:word)?|pwd)\Z")
_SET: Final = re.compile(rb"(?:set(?: -[a-z]{1,3})?|setx|setenv|env|export|add|put|create)[ \t]{1,4}[a-z0-9_.:/-]{0,60}\Z")
_BEFORE: Final = 100
_SOME: Final = 8  # signs that a secret has at least where nothing else is looked at
_MANY, _FEW = 256, 256  # names that are looked at closely: so many, and one more in so many characters

# -- what a value looks like --------------------------------------------------------------------------------------------

_IDENTIFIER: Final = re.compile(
    rb"[A-Za-z_]\w*(?:(?:\.|->|::)[A-Za-z_]\w*)+|[A-Z][A-Z_]+[0-9]?|[a-z]+(?:[A-Z][a-z]+)+[0-9]?|%?[A-Z0-9_]+%"
)
"""`settings.key`, `API_KEY`, `apiKey`."""
_WORDY: Final = re.compile(rb"[A-Za-z]{2,}(?:[_. /:-]{1,2}[A-Za-z]{2,}){0,12}(?:[_.:-]?v?\d{1,4})?(?:[_.-][a-z0-9]{4,10}){0,2}", re.ASCII)
"""`invalid_grant_error_2`, `app-secrets-v2`, `db-creds-7d4f8b9c6d`."""
_SENTENCE: Final = frozenset(
    b"required incorrect invalid wrong expired missing must not too set stored hashed encrypted empty null none correct"
    b" changed reset valid optional needed sent known the a an of in for and or to string str text bool true false int"
    b" integer undefined unset default your my this that secret password passwd token key user admin_password changeme"
    b" hidden redacted masked removed example placeholder test dummy sensitive protected field input type hash".split()
)
_PLACEHOLDER: Final = re.compile(
    rb"(?i:(?:your|my|the|insert|enter|replace|put|add|some|change|example|placeholder|dummy)[-_ ].*|<.*|\$.*|\{.*|%[a-z(].*|\*+.*|[x.#-]{4,}"
    rb"|\[?redacted.*|(?:.)\1*|@[a-z].*|op://.*|env[:.].*|vault:.*|file:.*|arn:.*|projects/.*|https?:.*|[a-z0-9+]{2,12}://.*|~?\.{0,2}/(?:[a-z0-9._-]*[a-z_-][a-z0-9._-]*/?){1,12})".replace(rb"(?:.)\1*", rb"(.)\1*")
)
_UPPER: Final = re.compile(rb"[A-Z]")
_LOWER: Final = re.compile(rb"[a-z]")
_DIGIT: Final = re.compile(rb"[0-9]")
_SPECIAL: Final = re.compile(rb"[^A-Za-z0-9_.\s/-]")
_TIME: Final = re.compile(rb"\d{4}-\d\d-\d\d(?:[T ][0-9:.+Z-]*)?|[0-9.,:/+-]+(?:[a-zA-Z%]{1,3})?")
_ASSIGNS: Final = frozenset((b"(", b"["))


def is_random(value: bytes, least: int = 16) -> bool:
    """Is it what a machine made: of several classes of signs, or long and hexadecimal?"""
    if len(value) < least or b" " in value or _is_innocent(value):
        return False
    if _DIGIT.search(value) is None:
        return len(value) >= 24 and value.isalnum() and _UPPER.search(value) is not None
    if _UPPER.search(value) and _LOWER.search(value):
        return True
    return len(value) >= 20 and _WORDY.fullmatch(value) is None


def _is_innocent(value: bytes) -> bool:
    return (
        _PLACEHOLDER.fullmatch(value) is not None
        or _IDENTIFIER.fullmatch(value) is not None
        or _TIME.fullmatch(value) is not None
    )


def is_secret(value: bytes, quoted: bool, behind: bytes) -> bool:
    """Behind a name that tells of a key or a token."""
    if len(value) < 8 or b" " in value or _is_innocent(value) or _WORDY.fullmatch(value):
        return False
    if _DIGIT.search(value):
        return len(value) >= 12 or quoted or behind in (b"&", b"")
    return len(value) >= 24 and value.isalnum() and _UPPER.search(value) is not None


def is_password(value: bytes, quoted: bool, behind: bytes) -> bool:
    """Behind a name that tells of a password."""
    if _PLACEHOLDER.fullmatch(value) or value.rstrip(b"0123456789!.?").lower() in _SENTENCE:
        return False
    if b" " in value:
        return quoted and _DIGIT.search(value) is not None and len(value) < 64 and _SPECIAL.search(value) is not None
    if not quoted and _IDENTIFIER.fullmatch(value):
        return False
    return (
        quoted
        or behind == b"&"
        or _DIGIT.search(value) is not None
        or (_SPECIAL.search(value) is not None and len(value) >= 6)
        or (len(value) >= 8 and _UPPER.search(value[1:]) is not None and _LOWER.search(value) is not None)
    )


# -- forms of their own --------------------------------------------------------------------------------------------------

_COLON: Final = rb"[\"'`\\*]{0,4}[ \t]{0,4}[:=>]{1,2}[ \t]{0,4}[\"'`\\]{0,4}"
_FORMS: Final = tuple(
    (mark, kind, re.compile(pattern, re.IGNORECASE), likely)
    for mark, kind, pattern, likely in (
        # headers: a scheme and its token, or a list of parameters
        (
            b"authorization",
            "token",
            rb"authorization" + _COLON + rb"((?:[a-z][a-z0-9-]{2,24}[ \t]{1,4})?[\w-]{2,30}=[\"]?[^\s\",]{2,512}(?:\"?,[ \t\r\n]{0,4}[\w-]{2,30}=\"?[^\s\",]{0,512}){1,12})",
            None,
        ),
        (
            b"authorization",
            "token",
            rb"authorization" + _COLON + rb"(?:[a-z][a-z0-9-]{2,24}[ \t]{1,4})?([a-z0-9._~+/=:-]{8,4096}+)(?![ (\[]|[\"'] ?\+)",
            lambda value: _PLACEHOLDER.fullmatch(value) is None and (_DIGIT.search(value) is not None or len(value) >= 24),
        ),
        (
            b"authorization",
            "token",
            rb"authorization" + _COLON + rb"(?:bearer|basic|token|apikey|digest|negotiate|ntlm|bot|key|api-key|splunk|hmac|oauth|jwt|sso-key|sharedkey|deepl-auth-key|zoho-oauthtoken|genie?key)[ \t]{1,4}([a-z0-9._~+/=:-]{6,4096}+)",
            lambda value: _PLACEHOLDER.fullmatch(value) is None and (_DIGIT.search(value) is not None or len(value) >= 16),
        ),
        (b"bearer", "token", rb"\bbearer[ \t]{1,4}[\"'`]?([a-z0-9._~+/=-]{8,4096}+)", lambda value: is_secret(value, True, b"")),
        (
            b"cookie",
            "token",
            rb"cookie2?" + _COLON + rb"((?:[^\s=;,\"'<>]{1,64}=[^\s;\"'<>]{0,4096}(?:; ?)?){1,40})",
            lambda value: re.search(rb"(?i:=(?=[^;=]{0,200}[0-9])[^;]{16,}|(?:sess|sid|token|auth|csrf|jwt)[^=;]{0,20}=[^;]{6,})", value) is not None,
        ),
        (
            b"sess",
            "token",
            rb"(?:phpsessid|jsessionid|asp\.net_sessionid|aspsessionid[a-z]{0,8}|_session|sessid|sessionid|session_?key)[\"'\\]{0,2}[:=][\"'\\]{0,2}([a-z0-9%._~+/-]{16,4096}+)",
            lambda value: is_random(value) and not value.islower(),
        ),
        (b"connect.sid", "token", rb"connect\.sid=([a-z0-9%._~+/-]{16,4096}+)", is_random),
        # command lines
        (
            b"-u",
            "password",
            rb"(?<=[\s\"'])(?:-u|--(?:proxy-)?user)[ \t=]{0,2}[\"']?[^\s:\"'/]{1,80}:([^\s\"']{3,256}+)",
            lambda value: not value.isdigit() and _PLACEHOLDER.fullmatch(value) is None and _is_no_word(value),
        ),
        (b"mysql", "password", rb"(?:mysql|mariadb)[a-z-]{0,12} [^\n]{0,200}?(?<=\s)(?-i:-p)[\"']?([^\s\"']{4,128}+)", None),
        (b"sshpass", "password", rb"sshpass [^\n]{0,40}?-p[ \t]{0,2}[\"']?([^\s\"']{4,128}+)", None),
        (b"redis-cli", "password", rb"redis-cli [^\n]{0,200}?(?<=\s)(?:-a|--pass)[ \t]{1,2}[\"']?([^\s\"']{4,128}+)", None),
        (b"identified", "password", rb"identified (?:with \S{1,60} )?by [\"']([^\"'\n]{4,256}+)", None),
        (b"sudo", "password", rb"(?:echo|printf|<<<) [\"']?([^\s\"']{4,128}+)[\"']?(?:\\n)? ?\| ?sudo", None),
        (b"http -a ", "password", rb"https? -a [^\s:]{1,60}:([^\s\"']{3,128}+)", None),
        (b"snowsql", "password", rb"snowsql [^\n]{0,100}?-p[ \t]{1,2}([^\s\"']{4,128}+)", None),
        (b"private_key_id", "api_key", rb"private_key_id[\"'\\ ]{1,4}:[\"'\\ ]{1,4}([0-9a-f]{40})", None),
        (b"login", "password", rb"login [^\n]{0,200}?(?<=\s)-p[ \t]{1,2}[\"']?([^\s\"']{4,128}+)", lambda value: _PLACEHOLDER.fullmatch(value) is None),
        (b"sqlcmd", "password", rb"sqlcmd [^\n]{0,200}?(?<=\s)(?-i:-P)[ \t]{0,2}[\"']?([^\s\"']{4,128}+)", None),
        (b"ldap", "password", rb"ldap[a-z]{3,10} [^\n]{0,200}?(?<=\s)-w[ \t]{1,2}[\"']?([^\s\"']{4,128}+)", None),
        (b"mongo", "password", rb"mongo[a-z]{0,10} [^\n]{0,200}?(?<=\s)-p[ \t]{1,2}[\"']?([^\s\"']{4,128}+)", None),
        (b"htpasswd", "password", rb"htpasswd -[a-z]{1,5} \S{1,100} \S{1,60} [\"']?([^\s\"']{4,128}+)", None),
        (b"sqlplus", "password", rb"sqlplus[^\n]{0,40}? [\w$]{1,30}/([^\s@\"']{3,128}+)@", None),
        (b"smbclient", "password", rb"-u[ \t]{1,2}[^\s%]{1,60}%([^\s\"']{3,128}+)", None),
        (b"net use", "password", rb"net use [^\n]{0,100}?/user:\S{1,60} ([^\s\"'/]{4,128}+)", None),
        # files
        (b"54", "password", rb"^[\w.*-]{1,100}:(?:54\d\d|6432|6543|25060|\*):[^:\s]{1,64}:[^:\s]{1,64}:([^\s:]{3,256}+)$", None),
        (
            b"thin:",
            "password",
            rb"jdbc:oracle:thin:[^\s/@]{1,60}/([^\s@]{3,128}+)@",
            None,
        ),
        (
            b"value",
            "api_key",
            rb"value[\"']{0,2}\s{0,4}[:=]\s{0,4}[\"']([^\"'\n]{4,1024}+)[\"']\s{0,4},?\s{0,8}[\"']?(?:name|key)[\"']?\s{0,4}[:=]\s{0,4}[\"'][\w.-]{0,40}(?:passw(?:or)?d|secret|token|api.?key|access.?key|pwd)[\"']",
            lambda value: _PLACEHOLDER.fullmatch(value) is None,
        ),
        (b"cred", "password", rb"\bcred(?:ential)?s?[\"']?[ \t]{0,2}[:=]?[ \t]{1,3}[\w.@-]{2,60} ?[:/] ?([^\s\"',;]{4,128}+)", lambda value: is_password(value, False, b"") and _DIGIT.search(value) is not None and not value.isdigit()),
    )
)  # fmt: skip


_OPTION: Final = re.compile(rb" -(?:[pPaAwuUbcn]|-user|-pass|-proxy)")
_COMMANDS: Final = frozenset(
    (b"-u", b"mysql", b"sshpass", b"redis-cli", b"login", b"sqlcmd", b"ldap", b"mongo", b"htpasswd", b"smbclient", b"http -a ", b"snowsql")
)
_GATED: Final = dict.fromkeys(_COMMANDS, b"") | {b"54": b":", b"sqlplus": b"/", b"net use": b"/", b"sudo": b"|", b"private_key_id": b"_", b"thin:": b"/", b"value": b"}", b"connect.sid": b"=", b"sess": b"=", b"cookie": b"=", b"identified": b"'"}
"""What must be there, too, for a form to be looked for: a single sign is seen in no time."""


def _is_no_word(value: bytes) -> bool:
    return not value.isalpha() or not value.islower()


_USERINFO: Final = re.compile(rb"://[^\s/@:\"'<>?#]{0,256}+:(?:(?!\d{1,5}[/?#])([^\s/\"'<>`]{1,256})@|(?!\d{1,5}/)([^\s\"'<>`@]{1,128}+)@)(?=[A-Za-z0-9\[\x80\x81_$*{-])")
_SCHEME: Final = re.compile(rb"(?:https?|wss?|git)\Z", re.IGNORECASE)
_LONE: Final = re.compile(rb"://([A-Za-z0-9_.~-]{20,512}+)(?::|:x-oauth-basic)?@(?=[A-Za-z0-9])")
_SAID_SIGNS: Final = ("密", "令", "凭", "パ", "暗", "비", "암", "ароль")
_SAID: Final = re.compile(
    r"(?:密码|密碼|密钥|密鑰|口令|令牌|凭证|パスワード|暗証番号|비밀번호|암호|[Пп]ароль)[^\n!-~]{0,8}[ ：:=是为:「“\"'`]{0,6}([!-~]{4,128})"
)


class Named:
    """Finds what is named a secret, as kinds api_key, token and password."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._names = [entry for entry in _NAMES if entry[2] in kinds]
        self._forms = [entry for entry in _FORMS if entry[1] in kinds]
        self._passwords = "password" in kinds
        self._tokens = "token" in kinds

    def find(self, view: NormalForm, spans: list[Span]) -> None:
        """Append to `spans` what is found."""
        raw, low = view.raw, view.low
        left = _MANY + len(raw) // _FEW
        for word, gate, kind, pattern in self._names:
            if (gate is None or gate in raw) and word in low:
                match = pattern.search(low)
                while match:
                    end = match.end()
                    left -= 1
                    if left < 0:  # a text full of them: what is named a secret is one
                        _take(kind, match, spans)
                    elif not _consider(raw, low, word, kind, match, spans) and end - match.start() < _BEFORE:
                        end = match.start() + len(word)  # the value may be a name itself
                    match = pattern.search(low, end)
        authorizes = b"uthoriz" in low
        tells = b"cred" in low
        commands = _OPTION.search(raw) is not None
        for mark, kind, form, likely in self._forms:
            if mark in _GATED and not (commands if mark in _COMMANDS else _GATED[mark] in raw):
                continue
            if mark == b"authorization" and not authorizes:
                continue
            if mark == b"cred" and not tells:
                continue
            if mark in low:
                for found in form.finditer(raw):
                    start, end = found.span(1)
                    if likely is None or likely(raw[start:end]):
                        spans.append((start, end, kind))
        if b"://" in raw and b"@" in raw:
            self._find_in_urls(raw, spans)
        if self._passwords and not raw.isascii() and any(sign in view.text for sign in _SAID_SIGNS):
            spans += [
                (*said.span(1), "password")
                for said in _SAID.finditer(view.text)
                if is_password(said[1].encode(), False, b"") and _DIGIT.search(said[1].encode())
            ]

    def _find_in_urls(self, raw: bytes, spans: list[Span]) -> None:
        if self._passwords:
            for match in _USERINFO.finditer(raw):
                start, end = match.span(1)
                if start < 0:  # with a slash in it: in the URL of a page, that is a path
                    start, end = match.span(2)
                    if _SCHEME.search(raw, max(0, match.start() - 8), match.start()):
                        continue
                if raw[start] not in b"$<{*[%":  # a placeholder
                    spans.append((start, end, "password"))
        if self._tokens:
            spans += [(*match.span(1), "token") for match in _LONE.finditer(raw) if is_random(match[1], 20)]


def _take(kind: str, match: re.Match[bytes], spans: list[Span]) -> None:
    for group in ("bare", "quoted", "single"):
        if match.start("gap") < 0 and match.end(group) - match.start(group) >= _SOME and _DIGIT.search(match[group]):
            spans.append((*match.span(group), kind))


def _consider(raw: bytes, low: bytes, word: bytes, kind: str, match: re.Match[bytes], spans: list[Span]) -> bool:
    """Append what `match` has found, if it looks like a secret."""
    start, end = match.span("bare")
    quoted = False
    if start < 0:
        start, end = match.span("quoted")
        if start < 0:
            start, end = match.span("single")
        quoted = True
    else:
        quoted = bool(match["open"])
    value = raw[start:end].rstrip().rstrip(b".:" if quoted else b".:!?" if kind != "password" else b".:")
    behind = match["behind"]
    if len(value) < 4 or (not quoted and behind in _ASSIGNS):
        return False  # code: a call, or an entry of something
    at = match.start()
    name = low[max(0, at - _BEFORE) : at + len(word)]
    if match.start("gap") >= 0:
        likely = _is_behind_gap(name, word, value, quoted, kind)
    elif match.start("line") >= 0:
        likely = behind in (b"", b"\n", b"\r", b'"', b"'", b"`") and (
            is_password(value, quoted, behind) if kind == "password" else is_secret(value, quoted, behind)
        )
    elif word == b"key":
        likely = _is_key(name, value, quoted, behind)
    elif word in _SHORT and low[at : at + 5] not in _LONGER and low[at : at + 3] != b"pwd":
        likely = not value.isdigit() and name[-len(word) - 1 : -len(word)] not in _LETTERS and is_password(value, quoted, behind) and not (quoted and value.isalpha())
    elif word == b"auth":
        likely = is_random(value, 12)
    elif kind == "password":
        likely = is_password(value, quoted, behind)
    else:
        likely = _NO_TOKEN.search(name) is None and is_secret(value, quoted, behind)
    if likely:
        spans.append((start, start + len(value), kind))
    return likely


_SHORT: Final = frozenset((b"pass", b"pw"))
_LONGER: Final = frozenset((b"passw", b"passp", b"passc", b"passe", b"pass "))
_LETTERS: Final = frozenset(bytes([c]) for c in b"abcdefghijklmnopqrstuvwxyz")


def _is_key(name: bytes, value: bytes, quoted: bool, behind: bytes) -> bool:
    if _KEY_OF.search(name):
        return is_secret(value, quoted, behind)
    if _PLAIN_KEY.search(name):
        return False
    return is_random(value, 20) and not value.islower() and _WORDY.fullmatch(value) is None and not value.startswith(b"ssh-")


def _is_behind_gap(name: bytes, word: bytes, value: bytes, quoted: bool, kind: str) -> bool:
    """Nothing but blanks stands between: a command line, a `.netrc`, or a word that is no name at all."""
    if _FLAG.search(name[: -len(word)] + word):
        return not value.startswith(b"-") and _PLACEHOLDER.fullmatch(value) is None and (kind != "api_key" or word != b"key" or is_secret(value, True, b""))
    if kind == "password":
        return _LOGIN.search(name) is not None and is_password(value, True, b"")
    if word == b"auth" or (word == b"key" and not _KEY_OF.search(name)):
        return False
    if _SET.search(name):
        return is_secret(value, True, b"")
    return is_random(value, 20) and not value.startswith((b"ssh-", b"http"))
