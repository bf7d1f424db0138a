"""Secrets in formats of their own: headers, connection strings, lines of password files, calls.

There no name stands before the secret, or more stands between: `Authorization: Digest …`, `Login with user / password`,
`mongodb+srv://user:password@host`, `host:5432:db:user:password`. Each format is looked for only where a word that it must
have in it is there.
"""

from __future__ import annotations

import re
from typing import Final

from llmctx.delivery.redact.normal_form import SearchText
from llmctx.delivery.redact.secret_values import DIGIT, is_no_placeholder, is_password, is_random, is_secret
from llmctx.delivery.redact.sieve import widen
from llmctx.delivery.redact.text_spans import Span

_CONNECT: Final = rb"[ ]?\([ ]?[^,()\n]{1,200},[ ]?[\"'][^\"'\n]{1,60}[\"'],[ ]?[\"']([^\"'\n]{4,128}+)[\"']"
_PHRASE: Final = (
    rb"[\"']?(?: is)?[:=]?\s{1,3}[\"'`]?((?:[a-z]{3,8}[ ,]{1,2}){11,23}[a-z]{3,8})(?![ ,]?[a-z])"  # of words
)
_DIGITS: Final = rb"(?: is| ist| est| es| ?:|=){1,2}[ \t]{0,2}[\"'`*]{0,3}(\d{4,8}|\d{3}[ -]\d{3})(?![\d.,/:-]?\d)"
_COLON: Final = rb"[\"'`\\*]{0,4}[ \t]{0,4}[:=>]{1,2}[ \t]{0,4}[\"'`\\]{0,4}"


_OF_A_SESSION: Final = re.compile(
    rb"(?i:=(?=[^;=]{0,200}[0-9])[^;]{16,}|(?:sess|sid|token|auth|csrf|jwt)[^=;]{0,20}=[^;]{6,})"
)


def _are_codes(value: bytes) -> bool:
    """Return True for what is given to somebody for the day on which the second factor is lost."""
    codes = value.replace(b",", b"\n").split()
    return 2 * sum(DIGIT.search(code) is not None for code in codes) > len(codes)


_FORMS: Final = tuple(
    (mark, kind, re.compile(pattern), likely)
    for mark, kind, pattern, likely in (
        # headers: a scheme and its token, or a list of parameters
        (
            b"authorization",
            "token",
            rb"authorization" + _COLON + rb"((?:[a-z][a-z0-9-]{2,24}+[ \t]{1,4})?[\w-]{2,30}+=[\"]?[^\s\",]{2,512}(?:\"?,[ \t\r\n]{0,4}[\w-]{2,30}=\"?[^\s\",]{0,512}){1,12})",
            None,
        ),
        (
            b"authorization",
            "token",
            rb"authorization" + _COLON + rb"(?:[a-z][a-z0-9-]{2,24}+[ \t]{1,4}+)?([a-z0-9._~+/=:-]{8,4096}+)(?![ (\[]|[\"'] ?\+)",
            lambda value: is_no_placeholder(value) and (DIGIT.search(value) is not None or len(value) >= 24),
        ),
        (
            b"authorization",
            "token",
            rb"authorization" + _COLON + rb"(?:bearer|basic|token|apikey|digest|negotiate|ntlm|bot|key|api-key|splunk|hmac|oauth|jwt|sso-key|sharedkey|deepl-auth-key|zoho-oauthtoken|genie?key)[ \t]{1,4}([a-z0-9._~+/=:-]{6,4096}+)",
            lambda value: is_no_placeholder(value) and (DIGIT.search(value) is not None or len(value) >= 16),
        ),
        (b"bearer", "token", rb"bearer(?<![a-z]bearer)[ \t]{1,4}[\"'`]?([a-z0-9._~+/=-]{8,4096}+)", lambda value: is_secret(value, True, b"")),
        (
            b"cookie",
            "token",
            rb"cookie2?(?:" + _COLON + rb"|(?<=--cookie)[ \t=]{1,2}[\"']?|[\"'],\s{0,8}[\"']value[\"']: ?[\"'])((?:[^\s=;,\"'<>]{1,64}+=[^\s;\"'<>]{0,4096}(?:; ?)?){1,40})",
            lambda value: _OF_A_SESSION.search(value) is not None,
        ),
        (
            b"sess",
            "token",
            rb"sess(?:id|ion(?:id|_?key|(?<=_session)))[\"'\\]{0,2}[:=][\"'\\]{0,2}([a-z0-9%._~+/:-]{16,4096}+)",
            lambda value: is_random(value) and (not value.islower() or (value.isalnum() and len(value) >= 32)),
        ),
        (b"connect.sid", "token", rb"connect\.sid=([a-z0-9%._~+/:-]{16,4096}+)", is_random),
        (b"cookie", "token", rb"cookies?(?: value)?(?: is| ist|:)[ \t]{1,2}[\"'`]?([a-z0-9%._~+/:-]{20,4096}+)", lambda value: is_random(value, 20) and not value.islower()),
        (
            b"code",
            "password",
            rb"code(?:(?<=(?:fication|irmation|tication) code)|(?<=security code)|(?<=-time code)|(?<=login code)|(?<=2fa code)|(?<=best\x80tigungscode)|(?<=-time passcode)| de v\x80rification| de verificaci\x80n)" + _DIGITS,
            None,
        ),
        (b"otp", "password", rb"otp(?<![a-z_]otp)(?: code)?" + _DIGITS, None),
        (b"identified", "password", rb"identified (?:with \S{1,60} )?by [\"']([^\"'\n]{4,256}+)", is_no_placeholder),
        *((mark, "password", mark + _CONNECT, is_no_placeholder) for mark in (b"getconnection", b"mysqli", b"mysqli_connect", b"mysql_connect", b"new pdo")),
        (b"private_key_id", "api_key", rb"private_key_id[\"'\\ ]{1,4}:[\"'\\ ]{1,4}([0-9a-f]{40})", None),
        *(
            (
                mark,
                "password",
                mark + begin + rb"\( ?[\"'][^\"'\n]{1,80}[\"'], ?[\"']([^\"'\n]{4,128}+)[\"']",
                lambda value: is_password(value, True, b"") and DIGIT.search(value) is not None,
            )
            for mark, begin in ((b"auth", rb"[a-z_]{0,12}[ =]{0,3}"), (b"login", rb" ?"))
        ),
        (b"$", "password", rb"(\$(?:2[abxy]|[156y]|apr1|argon2(?:id|i|d))\$(?:[a-z0-9=,./$-]|\+){20,256}+)", None),  # what is made of a password
        (b"\"kty", "private_key", rb"\"(?:d|k|p|q|dp|dq|qi)[\"\\]{0,3} ?: ?[\\]{0,2}\"([a-z0-9_-]{20,4096}+)", None),  # of a JWK
        *(
            (mark, "token", mark + rb"[a-z ]{0,20}\"?[:=]?[ \t\"'`]{1,3}((?:[a-z2-7]{4}[ -]){3,15}[a-z2-7]{4})(?![a-z0-9])", lambda value: DIGIT.search(value) is not None)
            for mark in (b"2fa", b"totp", b"authenticator", b"setup key")
        ),
        *(
            (mark, "token", mark + rb"s?(?: \([^()\n]{1,40}\))?:\s{1,4}((?:(?:[-*]|\d{1,2}[.)])?[ \t]{0,2}[a-z0-9]{4,16}(?:[ -][a-z0-9]{4,16}){0,3}(?:[ \t]*[,\n][ \t]*|\Z)){2,20}+)", _are_codes)
            for mark in (b"recovery code", b"backup code")
        ),
        (b"wifi:", "password", rb"wifi:[^\s]{0,120}?;p:((?:\\.|[^;\\\s]){4,63})", None),
        # files
        (b":54", "password", rb":54\d\d:[^:\s]{1,64}:[^:\s]{1,64}:([^\s:]{3,256}+)(?=\s|\Z)", None),
        *(
            (mark, "password", rb":([^\s:/@\"'<>]{3,100}+)" + re.escape(mark), is_no_placeholder)
            for mark in (b"@tcp(", b"@unix(")  # of Go's MySQL driver
        ),
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
            is_no_placeholder,
        ),
        (b"log", "password", rb"log(?<![a-z_]log) ?in (?:with|as|using|mit)[ :]{1,2}[\w.@-]{2,60} ?[:/] ?([^\s\"',;]{4,128}+)", lambda value: is_password(value, False, b"") and DIGIT.search(value) is not None),
        (b"pin", "password", rb"pin(?<![a-z_]pin)(?: ?code| number|\x81{1,2})?(?: is| ist| es| est|:|=|: ?is)[ \t]{0,2}[\"'`]?(\d{4})(?![.,:/-]?\d)", None),
        (b"cv", "card", rb"cv(?<![a-z]cv)[cv]2?(?: code| is|:|=){0,2}[ \t]{0,2}[\"']?(\d{3,4})(?!\d)", None),
        (b"phrase", "private_key", rb"phrase(?<=(?:seed|cret|very|ckup|llet)[ _-]phrase)" + _PHRASE, None),
        (b"mnemonic", "private_key", rb"mnemonic(?:[ _-]phrase)?" + _PHRASE, None),
        *((mark, "password", mark + ending + rb"[\"']?[ \t]{0,2}(?::|=|are|is|sind)?[ \t]{1,3}(?!(?:type|scope|provider|source|mode|id|name|helper|store|file|path|kind|class|grant|format|status)\b)[\w.@-]{2,60} ?[:/] ?([^\s\"',;]{4,128}+)", lambda value: is_password(value, False, b"") and DIGIT.search(value) is not None and not value.isdigit())
            for mark, ending in ((b"cred", rb"(?<![a-z]cred)(?:ential|enciale)?s?"), (b"zugangsdaten", b""), (b"identifiants", b""))),
    )
)  # fmt: skip


_GATES: Final = {
    b":": (b":54",),
    b"/": (b"thin:",),
    b"@": (b"@tcp(", b"@unix("),
    b"_": (b"private_key_id",),
    b"}": (b"value",),
    b"=": (b"connect.sid", b"sess"),
    b"$": (b"$",),
    b"\"": (b"\"kty",),
    b"(": (b"auth", b"login", b"getconnection", b"mysqli", b"mysqli_connect", b"mysql_connect", b"new pdo"),
    b";": (b"wifi:",),
    b" ": (b"log", b"phrase", b"mnemonic", b"identified", b"code", b"otp", b"zugangsdaten", b"identifiants", b"2fa", b"totp", b"authenticator", b"setup key", b"recovery code", b"backup code"),
    b"": (b"authorization", b"bearer", b"cookie", b"cred", b"pin", b"cv"),
}  # fmt: skip
"""What must be there, too, for a form to be looked for: a single sign is seen in no time."""


_USERINFO: Final = re.compile(
    rb"://[^\s/:\"'<>?#]{0,256}+:(?:(?!\d{1,5}[/?#])([^\s/\"'<>`]{1,256})@|(?!\d{1,5}/)([^\s\"'<>`@]{1,128}+)@)(?=[A-Za-z0-9\[\x80\x81_$*{-])"
)
_DOCUMENTED: Final = frozenset((b"password", b"pass", b"passwd", b"pwd", b"pw", b"your_password", b"xxx", b"tiger"))
"""What stands for a password in documentation."""
_SCHEME: Final = re.compile(rb"(?:https?|wss?|git)\Z", re.IGNORECASE)
_LONE: Final = re.compile(rb"://([A-Za-z0-9_.~-]{20,512}+)(?::|:x-oauth-basic)?@(?=[A-Za-z0-9])")
_SAID: Final = re.compile(
    r"(?:密码|密碼|密钥|秘钥|密鑰|金鑰|憑證|(?:API|api) ?(?:キー|키)|口令|令牌|凭证|パスワード|暗証番号|비밀번호|암호|비번|[Пп]арол[ья]|ПАРОЛЬ|[Лл]озинка|รหัสผ่าน|พาสเวิร์ด|كلمة (?:ال)?(?:مرور|سر)"
    r"|رمز (?:ال)?(?:مرور|عبور)|گذرواژه|پاس ورڈ|סיסמ[הא]|पासवर्ड|পাসওয়ার্ড|கடவுச்சொல்|[Κκ]ωδικός|[Пп]арола|პაროლი|գաղտնաբառ)"
    r"(?:[^\n!-~]{0,12}[ ：:=是为「“\"'`*|>-]{0,6}|[\"'`*]{0,4}[:：=]{1,2}[ \t]{0,4}(?:\r?\n){1,2}[ \t]{0,8}|[\"'], ?[\"'][Vv]alue[\"']: ?[\"']| is )"
    r"([!#-&(-;=?-_a-{}~]{4,128})"
)


class CredentialFormats:
    """Find secrets in such formats, as kinds api_key, token and password."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._forms = [
            (sign, [entry for entry in _FORMS if entry[1] in kinds and entry[0] in marks])
            for sign, marks in _GATES.items()
        ]
        self._passwords = "password" in kinds
        self._tokens = "token" in kinds
        self.urls = "|".join(widen(pattern.pattern) for pattern in (_USERINFO, _LONE))
        """Of `raw`."""
        self.heads = "|".join(
            widen(pattern.pattern) if pattern.pattern.startswith(mark) or len(mark) == 1 else re.escape(mark.decode())
            for mark, kind, pattern, _ in _FORMS
            if kind in kinds
        )
        """Of `low`."""

    def find(self, view: SearchText, spans: list[Span]) -> None:
        """Append to `spans` what is found."""
        raw, low = view.raw, view.low
        for sign, forms in self._forms:
            if sign not in raw:
                continue
            absent = b""
            for mark, kind, form, likely in forms:
                if mark == absent:
                    continue
                if mark not in low:
                    absent = mark
                    continue
                for found in form.finditer(low):
                    start, end = found.span(1)
                    if likely is None or likely(raw[start:end]):
                        spans.append((start, end, kind))

    def find_in_urls(self, view: SearchText, spans: list[Span]) -> None:
        """Append to `spans` the passwords and tokens before hosts."""
        raw = view.raw
        if self._passwords:
            for match in _USERINFO.finditer(raw):
                start, end = match.span(1)
                if start < 0:  # with a slash in it: in the URL of a page, that is a path
                    start, end = match.span(2)
                    if _SCHEME.search(raw, max(0, match.start() - 8), match.start()):
                        continue
                if (
                    raw[start] not in b"$<{*[%"
                    and raw[start:end].lower() not in _DOCUMENTED
                    and not raw.startswith(raw[start:end] + b":", match.start() + 3)  # root:root, guest:guest
                ):
                    spans.append((start, end, "password"))
        if self._tokens:
            spans += [(*match.span(1), "token") for match in _LONE.finditer(raw) if is_random(match[1], 20)]


_CODE: Final = re.compile(
    r"(?:验证码|驗證碼|校验码|校驗碼|动态码|動態碼|[认認]証コード|確認コード|인증 ?번호|인증 ?코드|[Кк]од подтверждения)"
    r"(?:[是为為はは은는] ?|[：:][ \t]{0,2}| )[\"'「“]?(\d{4,8})(?!\d)"
)
SAID: Final = f"{widen(_SAID.pattern)}|{widen(_CODE.pattern)}"
_SAID_KEYS: Final = re.compile(
    r"(?:[Тт]окен|[Кк]люч|토큰|키|トークン|秘密鍵|キー|私[钥鑰]|權杖|الوصول|السري|مفتاح|कुंजी|คีย์|אסימון|מפתח|[Κκ]λειδί)(?:[^\n!-~]{0,12}|(?: API| api)?)"
    r"[ ：:=是为「“\"'`*>-]{1,6}([A-Za-z0-9+/=_.-]{20,512})"
)
_HEXADECIMAL: Final = re.compile(rb"[0-9a-f]{32}(?:[0-9a-f]{8}|[0-9a-f]{32})?")
SAID_KEYS: Final = widen(_SAID_KEYS.pattern)
"""Both of `text`."""


def find_said_keys(view: SearchText, spans: list[Span]) -> None:
    """Append to `spans` the tokens and keys behind words of other scripts."""
    for said in _SAID_KEYS.finditer(view.text):
        value = said[1].encode()
        if is_random(value, 20) and (not value.islower() or _HEXADECIMAL.fullmatch(value)):
            spans.append((*said.span(1), "token"))


def find_said(view: SearchText, spans: list[Span]) -> None:
    """Append to `spans` the passwords, and codes of one use, behind words of other scripts."""
    for said in _SAID.finditer(view.text):
        value = said[1].encode()
        if is_password(value, False, b"") and not (
            _FIGURE.fullmatch(value)
            and (_DATE.match(value) or _UNIT.match(view.text, said.end()) or _MEASURED.search(said[0]))
        ):
            spans.append((*said.span(1), "password"))
    spans += [(*said.span(1), "password") for said in _CODE.finditer(view.text)]


_FIGURE: Final = re.compile(rb"[0-9][0-9.,:/~-]*")
_DATE: Final = re.compile(rb"\d{4}[-/.]\d\d?[-/.]\d\d?\b|\d\d?[./]\d\d?[./]\d{4}\b")
_UNIT: Final = re.compile(
    " ?(?:位|个|個|字|文字|桁|秒|分|小时|小時|時間|天|日|次|回|자|개|회|초|분|일|симв|знак|бук|раз|сек|мин|час|дн)"
)
_MEASURED: Final = re.compile("长度|長度|位数|位數|有效|时间|時間|日期|次数|次數|期限|期間|長さ|길이|기간|длин|срок")
"""What tells of figures behind a word for a password that they are of how long it is, or of when it was changed."""
