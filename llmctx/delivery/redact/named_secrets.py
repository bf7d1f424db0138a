"""Secrets that are recognized by the name before them: `api_key=…`, `"client_secret": "…"`, `Authorization: Basic …`.

A name and its value may stand apart in many ways: `--token X`, `<password>X</password>`, a cell of a table, the next
line, `{"name": "API_KEY", "value": "X"}`. `_GLUE` knows what may stand between. What stands behind a name is a secret
only if it looks like one: no word, no name of a variable, no call, no placeholder. How much it must look like one
depends on how much the name tells: a password may be anything, what is behind a mere "key" must be random.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Final

from llmctx.delivery.redact.normal_form import SearchText
from llmctx.delivery.redact.secret_values import (
    is_no_figure,
    is_no_placeholder,
    is_password,
    is_random,
    is_secret,
    is_strong,
)
from llmctx.delivery.redact.sieve import widen
from llmctx.delivery.redact.text_spans import Span

# -- what may stand between a name and its value -----------------------------------------------------------------------

_CLOSE: Final = r"(?: ?[\"'`\\\])*]){0,5} ?"
_WS: Final = r"[ \t]{0,16}+"
_LINES: Final = r"(?:[ \t]{0,16}+\r?\n){0,2}+[ \t]{0,16}+"
_VALUE_OF: Final = r"\"?(?:value|val|default|content|string)[\"'\\]{0,3}+"
_ATTRIBUTE: Final = r"(?: [a-z:]{1,20}=\"[^\"<>]{0,60}\")?"
_ATTRIBUTES: Final = r"[\"']?(?: [a-z:-]{1,20}(?:=(?:\"[^\"<>]{0,60}\"|'[^'<>]{0,60}'|[^\s\"'<>]{1,60}))?){0,6} (?:value|content)=(?=[\"'])"
_ACCESSORS: Final = r" ?\{[^{}\n]{1,24}\}[ \t]{0,4}="  # of C#
_IDEOGRAPHS: Final = r"\x81{1,2}[ \t]{0,2}(?=[!#-+./0-9:;=?-_a-z{}~-]{6})"  # "API_KEY是…"
_IS: Final = r"[ \t]{1,4}+(?:is|was|are|ist|est|es|(?P<be>(?:should|must|has to|will|can) be|from \S{1,200} to|auf|a|en|naar|na)|(?:(?:has been|have been|had been|was|is)[ ](?:now[ ])?)?(?:set|changed|reset)[ ]to|to|lautet|je|l?\x80|\x80r)(?::[ \t]?|[ ])"
_TELLS: Final = r"[^\s]{0,40}(?:[^a-z\s.,;:!?]|[!?][a-z])"
_GAP: Final = (
    r"[\"'`*]{0,3}(?:[ \t]{0,2}[(](?:(?=\S{16})|(?<=[ \t][(])(?=[^\s()]{6,64}[)]))|[ \t]{1,16}+(?:<<<[ \t]?|--?[ \t]|--value[ =])?"
    r"|(?:\r?\n){1,2}[ \t]{0,16}+(?:```[a-z]{0,12}\r?\n)?|[ \t]?\?\s{0,3}(?:[a-z]{1,12}:[ ])?(?:it(?:'s| is)[ ])?)"
)
_NUMBER: Final = r"\S{0,48}[0-9]"
_TYPE: Final = r"(?:[ \t]{1,4}|[ \t]{0,4}:[ \t]{0,4})(?:&(?:'static )?)?(?:str|string|text|char|secretstr|bytes|any)(?:\[\]|\?|[ \t]\|[ \t][a-z]{4,9})?[ \t]{0,4}="
_BLOCK: Final = (
    r"[ \t]?\{\s{0,16}(?:[a-z]{1,16}[ \t]{0,8}=[ \t]?[^\n]{0,120}\n\s{0,16}){0,4}(?:default|value)[ \t]{0,16}="
)
_SIGNS: Final = (
    rf"(?:{_CLOSE}(?:{_TYPE}{_WS}|{_BLOCK}{_WS}|(?:(?:[:=|>]{{1,2}}+(?:(?<=\|\|)=)?|\?\??=){_WS}(?:\|{_WS}|<!\[cdata\[|\s{{0,8}}<[a-z:]{{1,20}}>)?"
    rf"|{_WS}(?:[(][^()\n]{{1,30}}[)]{_WS}|(?:for|of|f\x80r|vo[nm]|de[lrs]?|du|d[ao]|van|till?)(?:[ ][\w.@\x80-]{{1,40}}){{1,3}})?(?:[:=|]{{1,2}}+(?:>|(?<=\|\|)=)?|->|<-|\?\??=){_WS}(?:\|{_WS}|[&!][a-z_-]{{1,20}}[ ]|\{{\s{{0,8}}{_VALUE_OF}{_WS}:)?"
    rf"|,{_LINES}[\"'\\ ]{{0,3}}+{_VALUE_OF}{_WS}[:=]|\n{_WS}(?:-{_WS})?{_VALUE_OF}{_WS}[:=])"
    rf"(?P<line>(?:[|>]?[-+0-9]{{0,2}}[ \t]{{0,2}})?(?:\r?\n){{1,2}}[ \t]{{0,32}}+(?:-[ ])?)?"
    rf"|[ \t]{{1,16}}+(?:value=|name=[^<>\n]{{0,40}}?value=)|[(](?=[\"'])|[ \t]{{1,4}}+(?=')|(?P<comma>,[ \t]{{0,4}}+)(?=[\"'])|(?P<cell>,[ \t]{{0,4}}+)(?=[a-z0-9+/=_.-]{{20}})"
    rf"|{_ATTRIBUTES}|{_ACCESSORS}|\}} ?= ?(?=[\"'])|{_IDEOGRAPHS}|{_ATTRIBUTE}>(?:\s{{0,8}}<[a-z:]{{1,20}}>|<!\[cdata\[)?|</[a-z:]{{1,20}}>\s{{0,16}}+<[a-z:]{{1,20}}(?:[ ][^<>\n]{{1,80}})?>(?:\s{{0,8}}<[a-z:]{{1,20}}>)?))"
)
_PLURAL: Final = "s?[0-9]?"
_OF: Final = r"(?:[ ](?:for|of|to|del?|von|vom|f\x80r|du|des|do|da|you|we)(?:[ ][a-z0-9\x80.@'-]{1,20}){1,3}?)?"  # "the password of the router is"
_GLUE: Final = rf"{_PLURAL}(?:{_SIGNS}|{_CLOSE}{_OF}{_IS}(?={_TELLS})|(?P<gap>{_GAP})(?={_NUMBER}))"
_MADE_BY: Final = r"(?:(?:[a-z_.]{0,16}secret[a-z]{0,8}[(]|[a-z]{1,2}|@)(?=[\"']))?"  # SecretStr('…'), N'…', b"…"
_VALUE: Final = (
    rf"{_WS}{_MADE_BY}(?P<open>[\"'`\\* ]{{0,6}}+)(?:(?<=\")(?P<quoted>[^\"\n\\]{{4,512}}+)(?=[\\ ]{{0,4}}\")"
    rf"|(?<=')(?P<single>[^'\n\\]{{4,512}}+)(?=[\\ ]{{0,4}}')"
    rf"|(?P<bare>[^\s\"'`\\,;&<>(){{}}\[\]|\x81-\xff]{{4,4096}}+))(?P<behind>.?)"
)


_ASSIGNED: Final = re.compile(f"{_GLUE}{_VALUE}".encode("latin-1"))
"""What follows the end of a name, if something is assigned to it."""
_COUNTED: Final = re.compile(rb"s?(?:_|[\\\"']{0,3}[ ]?[:=][ ]?[0-9]{1,9}(?![0-9a-z._:+/=-]))")
"""What follows a name that is none: `"prompt_tokens": 512`, `tokens_per_minute`. Provider's answers are full of them."""


_BETWEEN_SIGNS: Final = (
    r"(?:[ \t]*(?:\([^()\n]*\)|(?:for|of|f\x02r|vo[nm]|de[lrs]?|du|d[ao]|van|till?)(?: [^ \t\n:=|>]+)(?: [^ \t\n:=|>]+)?(?: [^ \t\n:=|>]+)?)?[ \t]*(?:[:=|>]|->|<-|\?\??=)|[ \t]+(?:value=|name=|[\"'])|\([\"']"
    r"|[ \t]+(?:&?(?:'static )?)?(?:str|string|text|char|secretstr|bytes|any)[^\n=]*=|,\s*[\"'\\ ]*(?:[\"']|value|val|default|content|string)"
    r"|[\"']?(?: [a-z:-]+[^<>]*)? (?:value|content)=|\s+(?:-[ \t]*)?\"?(?:value|val|default|content|string)|[ \t]?\{|\} ?= ?[\"']|\x03|(?: [a-z:]+=\"[^\"<>]*\")?>|</)"
)
_BETWEEN_WORDS: Final = (
    "(?: (?:for|of|to|del?|von|vom|f\x02r|du|des|do|da|you|we) [^\\n]*)?[ \\t]+(?:is|was|are|ist|est|es|(?:should|must|has to|will|can) be|(?:[a-z]+ )*(?:set|changed|reset) to|(?:from [^ \\n]+ )?to|auf|a|en|naar|na|lautet|je|l?\x02r?)(?::| )"
    "[ \\t]*[^ \\t\\r\\n]*[^a-z \\t\\r\\n.,;:]"
)
_MACHINE_MADE: Final = "(?:[^0-9]*[0-9]|[^a-z]*[a-z]{24})"


def _heads(named: Iterable[tuple[str, str]]) -> str:
    """Return the sieve's pattern for names, each with its kind, and for what is assigned to them."""
    ends: dict[str, list[str]] = {}
    for kind, end in named:
        ends.setdefault("" if kind == "password" else _MACHINE_MADE, []).append(widen(end))
    return "|".join(
        rf"(?:{'|'.join(some)}){_PLURAL}(?:[ \"'`\\\])*]*(?:{_BETWEEN_SIGNS}{made}|{_BETWEEN_WORDS}|,[ \t]*[a-z0-9+/=_.-]{{20}})"
        r"|[\"'`*]*[ \t\r\n?(]+(?:<<<[ \t]?|--?[ \t]|--value[ =]|```[a-z]*\r?\n|(?:[a-z]+: )?(?:it(?:'s| is) )?)?[^ \t\r\n]*[0-9])"
        for made, some in ends.items()
    )


_FOREIGN: Final = (  # names of passwords in other languages, and of a network's
    "kennwort", "zugangscode", "mdp", "wachtwoord", "senha", "clave", "parola", "passord", "l\x80senord", "losenord", "adgangskode", "salasana", "has\x80o", "haslo",
    "heslo", "geslo", "parol\x80", "slapta\x80odis", "lykilor\x80", "wagwoord", "pasahitza", "contrasinal", "jelsz\x80", "lozinka", "parool", "\x80ifre", "\x80ifrem", "sifre", "sifrem", "m\x80t kh\x80u", "sandi", "katalaluan", "psk", "wifi key", "wi-fi key", "wlan-schl\x80ssel",
)  # fmt: skip
_Name = tuple[bytes, bytes | None, str, re.Pattern[bytes]]
_NAMES: Final = (  # a word that must be there, a sign (seen in no time), the kind, the end of the name
    (b"key", None, "api_key", "key(?:_?value|_?base|[ _-]data|s?_secret|[ _-]?(?:hex|b64|pem|string|bytes))?"),
    (b"secret", None, "api_key", "secret(?:[_ -]?(?:access)?[_ -]?(?:key|token|id_?value|value|string|text|data)(?:_base)?)?"),
    (b"token", None, "token", "token(?:[_ -]?(?:value|secret|string))?"),
    (b"cred", None, "token", "credential"),
    (b"appid", b"=", "api_key", "appid"),
    (b"auth", None, "token", "auth(?:code)?"),
    (b"pass", None, "password", "pass(?:w(?:or[dt]|d)(?:_?value|[ _-]?string)?|[ _-]?phrase|[ _-]?code|e)?"),
    (b"pw", None, "password", "pwd?"),
    (b"contrase", None, "password", "contrase(?:[n\x80?]|ny)a"),
    (b"api", None, "api_key", (
        r"api(?:(?<=cl\x80 api)|(?<=cl\x80 d'api)|(?<=\x80{4} api)|(?<=c[lh]ave api)|(?<=c[lh]ave d[ea] api)|(?<=chiave api)|(?<=klucz api)"
        r"|(?<=kunci api)|(?<=cheie api)|(?<=kh\x80a api)"
        r"|[ -]?(?:schl\x80ssel|schluessel|sleutel|nyckel|n\x80kkel|n\x80gle|kulcs|kl\x80\x80|anahtar\x80|avain|\x80{1,8}))"
    )),
    (b"geheimschl", None, "api_key", "geheimschl(?:\x80|ue)ssel"),
    (b"jeton d", None, "token", "jeton d'acc\x80s"),
    (b"secr", None, "api_key", "secr(?:(?<=cl\x80 secr)\x80te|eta(?<=c[lh]ave secreta))"),
    (b"segreta", None, "api_key", "segreta(?<=chiave segreta)"),
    (b"anahtar", None, "api_key", "anahtar(?<=gizli anahtar)"),
)  # fmt: skip
_KEY_OF: Final = re.compile(
    rb"(?:api|access|secret|account|auth|private|subscription|encryption|signing|shared|storage|licen[sc]e|app|application"
    rb"|service|master|admin|functions?|host|role|webhook|client|search|deploy|consumer|integration|crypt|cipher|aes|hmac|jwt"
    rb"|openai|anthropic|mistral|azure|google|gemini|claude|cohere|stripe|twilio|[a-z]+ai|groq|deepseek|qwen|dashscope|kimi|moonshot|glm|zhipu|tavily|serper|deepl|kaggle|github|gitlab|notion|slack|sendgrid|supabase|pinecone|perplexity|openrouter|replicate|wandb|langsmith|datadog|cloudflare|bot|developer|dev|server|write|read|instrumentation|security|account|ocp|goog|[?&])[ _.-]?key\Z"
)
_PLAIN_KEY: Final = re.compile(
    rb"(?:public|primary|foreign|partition|sort|cache|idempotency|routing|object|row|s3|message)[ _.-]?key\Z"
)
_NO_TOKEN: Final = re.compile(
    rb"(?:page|next|continuation|sync|cursor|previous|prev|pad|eos|bos|unk|sep|cls|mask)[ _.-]?token\Z"
)
_CELL: Final = re.compile(rb"(?:^|[\n;,])[ \t]{0,4}[\"']?[a-z0-9_. -]{0,60}\Z")
_CALL: Final = re.compile(rb"[(\[] ?[\"'][a-z0-9_.-]{0,60}\Z")
_FLAG: Final = re.compile(rb"(?<![A-Za-z0-9])--?[a-z][a-z-]{0,30}\Z")
_LOGIN: Final = re.compile(
    rb"(?:login|user(?:name)?|account|benutzer(?:name)?|utilisateur|identifiant|usuario|utente)[ \t=:]{1,4}\S{1,80}[,;]?\s{1,12}(?:and |und |et |y )?"
    rb"(?:pass(?:wor[dt])?|pwd?|kennwort|mdp|clave)\Z"
    rb"|(?<![a-z])(?:nmcli|netsh|ipmitool|mysqladmin)[ \t][^\n]{1,80}pass(?:word)?\Z"
)
_WORD_CLAVE: Final = re.compile(rb"palabras?[ _]clave\Z")
_SET: Final = re.compile(
    rb"(?:set(?: -[a-z]{1,3})?|setx|setenv|env|export|add|put|create)[ \t]{1,4}[a-z0-9_.:/-]{0,60}\Z"
)
_AMPERSAND: Final = re.compile(rb"(?:&[^\s\"'`\\,;&<>(){}\[\]|=:]{1,64}+(?=[\s\"'.,;&]|\Z))?")
"""What follows in a password, where no form is sent."""
_BEFORE: Final = 100
_QUALIFIED: Final = 24  # characters of a name and what stands before it in one with it
_OF_FLAG: Final = 34
_PLAINLY_ASSIGNED: Final = (
    rb"[\"'\\\])*]{0,3}+[ \t]{0,2}+[:=]{1,2}+[ \t]{0,2}+[\"']?([^\s\"'`\\,;&<>(){}\[\]|]{16,4096}+)"
)
_MANY, _FEW = 512, 256  # names that are looked at closely: so many, and one more in so many characters
_ASSIGNS: Final = frozenset((b"(", b"["))


class NamedSecrets:
    """Find named secrets, as kinds api_key, token and password."""

    def __init__(self, kinds: frozenset[str]) -> None:
        names = [entry for entry in _NAMES if entry[2] in kinds]
        self._names = [(word, gate, kind, re.compile(end.encode("latin-1"))) for word, gate, kind, end in names]
        foreign = _FOREIGN if "password" in kinds else ()
        self._foreign: list[_Name] = [
            (word.encode("latin-1"), None, "password", re.compile(f"(?<![a-z\x80]){word}".encode("latin-1")))
            for word in foreign
        ]
        self.heads = _heads((kind, end) for _, _, kind, end in names)
        self.heads_of_foreign = _heads(("password", word) for word in foreign)
        """Both of `low`."""

    def find(self, view: SearchText, spans: list[Span]) -> None:
        """Append to `spans` what is found."""
        _find(view, self._names, spans)

    def find_foreign(self, view: SearchText, spans: list[Span]) -> None:
        """Append to `spans` what is named a password in another language."""
        _find(view, self._foreign, spans)


def _find(view: SearchText, names: list[_Name], spans: list[Span]) -> None:
    raw, low = view.raw, view.low
    left = _MANY + len(raw) // _FEW
    for word, gate, kind, ends in names:
        if gate is None or gate in raw:
            at = low.find(word)
            while at >= 0 and left > 0:
                left -= 1
                end = at + len(word)
                if (
                    (name := ends.match(low, at))
                    and (kind == "password" or _COUNTED.match(low, name.end()) is None)
                    and (match := _ASSIGNED.match(low, name.end()))
                    and (_consider(raw, low, at, word, kind, match, spans) or match.end() - at >= _BEFORE)
                ):
                    end = match.end()  # else the value may be a name itself
                at = low.find(word, end)
            if at >= 0:
                _find_at_once(view, at, word, kind, spans)


def _find_at_once(view: SearchText, at: int, word: bytes, kind: str, spans: list[Span]) -> None:
    """Append to `spans` what is assigned to names from `at` on, and random, of a text that is full of such names."""
    for match in _assigned_to(word).finditer(view.low, at):
        start, end = match.span(1)
        if is_random(view.raw[start:end]):
            spans.append((start, end, kind))


@cache
def _assigned_to(word: bytes) -> re.Pattern[bytes]:
    return re.compile(word + _PLAINLY_ASSIGNED)


def _consider(
    raw: bytes, low: bytes, at: int, word: bytes, kind: str, match: re.Match[bytes], spans: list[Span]
) -> bool:
    """Append what `match` has found, if it looks like a secret."""
    start, end = match.span("bare")
    quoted = False
    if start < 0:
        start, end = match.span("quoted")
        if start < 0:
            start, end = match.span("single")
        quoted = True
    else:
        quoted = b'"' in match["open"] or b"'" in match["open"]
        if kind == "password" and match["behind"] == b"&" and b"=" not in low[match.start() : start]:
            end += len(_AMPERSAND.match(raw, end)[0])  # type: ignore[index]  # it matches nothing, too
    value = raw[start:end].rstrip().rstrip(b".:" if quoted else b".:!?" if kind != "password" else b".:")
    behind = match["behind"]
    if len(value) < 4 or (not quoted and behind in _ASSIGNS):
        return False  # code: a call, or an entry of something
    name = low[max(0, at - _BEFORE) : at + len(word)]
    if match.start("comma") >= 0 and (
        (call := _CALL.search(name)) is None
        or (call[0][0] == 0x5B and not is_random(value) and not (kind == "password" and is_strong(value)))
    ):
        return False
    if match.start("cell") >= 0:  # of a CSV file
        likely = _CELL.search(name) is not None and is_random(value, 20) and value[:1].isalnum()
    elif match.start("gap") >= 0:
        likely = _is_behind_gap(name, word, value, quoted, kind, raw[at - 1 : at + 3] == b"_KEY")
    elif match.start("line") >= 0:
        likely = behind in (b"", b"\n", b"\r", b'"', b"'", b"`") and (
            is_password(value, quoted, behind) if kind == "password" else is_secret(value, quoted, behind)
        )
    elif word == b"key":
        likely = _is_key(name, value, quoted, behind) or (
            raw[at - 1 : at + 3] == b"_KEY" and is_random(value, 20) and _PLAIN_KEY.search(name[-_QUALIFIED:]) is None
        )
    elif word in _SHORT and low[at : at + 5] not in _LONGER and low[at : at + 3] != b"pwd":
        likely = (
            is_no_figure(value)
            and name[-len(word) - 1 : -len(word)] not in _LETTERS
            and is_password(value, quoted, behind)
            and not (quoted and value.isalpha())
        )
    elif word == b"auth":
        likely = is_random(value, 12)
    elif kind == "password" and match.start("be") >= 0:  # "must be 8-64 characters long"
        likely = is_strong(value) or is_random(value, 12)
    elif kind == "password":
        likely = is_password(value, quoted, behind) and (word != b"clave" or _WORD_CLAVE.search(name) is None)
    else:
        likely = is_secret(value, quoted, behind) and _NO_TOKEN.search(name[-_QUALIFIED:]) is None
    if likely:
        spans.append((start, start + len(value), kind))
    return likely


_SHORT: Final = frozenset((b"pass", b"pw"))
_LONGER: Final = frozenset((b"passw", b"passp", b"passc", b"passe", b"pass "))
_LETTERS: Final = frozenset(bytes([c]) for c in b"abcdefghijklmnopqrstuvwxyz")


def _is_key(name: bytes, value: bytes, quoted: bool, behind: bytes) -> bool:
    if not is_secret(value, quoted, behind):
        return False
    name = name[-_QUALIFIED:]
    if _KEY_OF.search(name):
        return True
    return (
        is_random(value, 20)
        and not value.islower()
        and not value.startswith(b"ssh-")
        and _PLAIN_KEY.search(name) is None
    )


def _is_behind_gap(name: bytes, word: bytes, value: bytes, quoted: bool, kind: str, is_variable: bool) -> bool:
    """Return whether `value` is a secret behind mere blanks: in a command line, a `.netrc`, or no secret at all."""
    if b"-" in name[-_OF_FLAG:] and _FLAG.search(name[-_OF_FLAG:]):
        return (
            not value.startswith((b"-", b"id="))
            and is_no_placeholder(value)
            and (kind != "api_key" or word != b"key" or is_secret(value, True, b""))
        )
    if kind == "password":
        return is_password(value, True, b"") and (
            is_strong(value) or _LOGIN.search(name) is not None or _SET.search(name) is not None
        )
    if (
        not is_secret(value, True, b"")
        or word == b"auth"
        or (word == b"key" and not is_variable and not _KEY_OF.search(name[-_QUALIFIED:]))
    ):
        return False
    return (is_random(value, 20) and not value.startswith((b"ssh-", b"http"))) or _SET.search(name) is not None
