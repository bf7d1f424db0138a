"""What a secret looks like: no word, no name of a variable, no call, no placeholder, but what a machine made."""

from __future__ import annotations

import re
from typing import Final

_IDENTIFIER: Final = re.compile(
    rb"[A-Za-z_]\w{0,39}(?:(?:\.|->|::)[A-Za-z_]\w{0,39})+|[A-Z][A-Z_]+[0-9]?|[a-z]+(?:[A-Z][a-z]+)+[0-9]?|%?[A-Z0-9_]+%"
    rb"|[a-z][a-z0-9]{0,11}(?:_[a-z][a-z0-9]{0,11}){2,12}"
)
"""`settings.key`, `API_KEY`, `apiKey`, `nettle_aes128_set_key`."""
_NUMBERED: Final = re.compile(rb"[A-Za-z]+\.[A-Z][a-z]{2,}\d{1,4}")  # Summer.Rain24
_TYPE: Final = re.compile(
    rb"(?![A-Z0-9]{16})_{0,2}(?:[A-Z]{1,6}[0-9]{1,4}|[A-Z]{1,5}[a-z]{2,24}+|Or|Of|To|In|By|(?<![A-Za-z0-9])[a-z]{2,24}+){2,10}[A-Z]?[0-9]{0,2}"
)
"""`PasswordType`, `PKCS12PrivateKeyTypes`, `LangChain`."""
_WORD: Final = rb"(?:[A-Z]?[a-z]{1,24}|[A-Z]{2,24})"
WORDY: Final = re.compile(
    _WORD + rb"(?:[_. /:-]{1,2}" + _WORD + rb"){0,12}(?:[_.:-]?v?\d{1,4})?(?:[_.-][a-z0-9]{1,10}){0,2}"
)
"""`invalid_grant_error_2`, `app-secrets-v2`, `db-creds-7d4f8b9c6d`."""
_SENTENCE: Final = frozenset(
    b"required incorrect invalid wrong expired missing must not too set stored hashed encrypted empty null none correct"
    b" changed reset valid optional needed sent known the a an of in for and or to string str text bool true false int"
    b" integer undefined unset default your my this that secret password passwd token key user admin_password changeme"
    b" hidden redacted masked removed example placeholder test dummy sensitive protected field input type hash".split()
)
_PASSPHRASE: Final = re.compile(rb"[a-z]{3,9}(?:-[a-z]{3,9}){3,9}")
"""`maple-otter-cobalt-ridge`, as password managers make them."""
_THINGS: Final = (_SENTENCE - {b"correct"}) | frozenset(
    b"secret secrets cred creds credential credentials keys api app apps auth service store vault config database prod"
    b" production dev staging login page reset see ask admin root users from with and for when then".split()
)
"""Words of which the name of a secret is made, or a sentence with hyphens; a passphrase is made of any others."""
_PLACEHOLDER: Final = re.compile(
    rb"(?i:(?:your|my|the|insert|enter|replace|put|add|some|change|example|placeholder|dummy)[-_ ].*"
    rb"|<.*|![a-z]+|\$(?:[a-z_][\w./:>{}()\[\]-]*|[({].*|[0-9])|\{.*|%\(?[a-z][\w.-]*\)?[a-z%]?|\*+.*|[x.#-]{4,}|\[?redacted.*|(.)\1*|@[a-z].*"
    rb"|op://.*|env[:.].*|vault:.*|:[a-z_]+|#\{.*|file:.*|arn:.*|projects/.*|https?:.*|[a-z0-9+]{2,12}://.*)"
    rb"|~?\.{0,2}/(?:[a-z0-9._-]{1,64}+/?+){1,12}+"
)
_UPPER: Final = re.compile(rb"[A-Z]")
_LOWER: Final = re.compile(rb"[a-z]")
DIGIT: Final = re.compile(rb"[0-9]")
_SPECIAL: Final = re.compile(rb"[^A-Za-z0-9_.\s/\x80-]")
_SIGN: Final = re.compile(rb"[!#$%^&*@?~]|[a-z][_-]?[A-Z]|[0-9][A-Za-z]|[a-z][0-9]+[^a-z0-9]")
_TIME: Final = re.compile(rb"\d{4}-\d\d-\d\d(?:[T ][0-9:.+Z-]*)?|[0-9.,:/+-]{1,40}(?:[a-zA-Z%]{1,3})?")


def is_no_placeholder(value: bytes) -> bool:
    """Return True for what does not stand for a value that is elsewhere: `<password>`, `$PASSWORD`, `***`, a path."""
    return _PLACEHOLDER.fullmatch(value) is None


def is_no_figure(value: bytes) -> bool:
    """Return False for a number, a time, or a measure: `0.98`, `12/13`, `3.2s`."""
    return _TIME.fullmatch(value) is None


def is_random(value: bytes, least: int = 16) -> bool:
    """Return True for what a machine made: of several classes of signs, or long and hexadecimal?"""
    if len(value) < least or b" " in value:
        return False
    if DIGIT.search(value) is None:
        return _is_solid(value) and not _is_innocent(value)
    if _is_innocent(value):
        return False
    if _UPPER.search(value) and _LOWER.search(value):
        return True
    return len(value) >= 20 and WORDY.fullmatch(value) is None


def _is_solid(value: bytes) -> bool:
    """Return True for what may be random without a digit."""
    return len(value) >= 24 and value.isalnum() and _UPPER.search(value) is not None


def _is_innocent(value: bytes) -> bool:
    return (
        not is_no_placeholder(value)
        or _IDENTIFIER.fullmatch(value) is not None
        or _TYPE.fullmatch(value) is not None
        or _TIME.fullmatch(value) is not None
    )


def is_secret(value: bytes, quoted: bool, behind: bytes) -> bool:
    """Return True for what is a secret behind a name that tells of a key or a token."""
    if len(value) < 8 or b" " in value:
        return False
    has_digit = DIGIT.search(value) is not None
    likely = (len(value) >= 12 or quoted or behind in (b"&", b"")) if has_digit else _is_solid(value)
    return likely and not _is_innocent(value) and WORDY.fullmatch(value) is None


def is_password(value: bytes, quoted: bool, behind: bytes) -> bool:
    """Return True for what is a secret behind a name that tells of a password."""
    if b" " in value:
        likely = quoted and DIGIT.search(value) is not None and len(value) < 64 and _SPECIAL.search(value) is not None
    else:
        likely = (
            quoted
            or behind == b"&"
            or DIGIT.search(value) is not None
            or (len(value) >= 6 and _SPECIAL.search(value) is not None)
            or (len(value) >= 8 and _UPPER.search(value[1:]) is not None and _LOWER.search(value) is not None)
            or _is_passphrase(value)
        )
    if not likely or _is_of_a_sentence(value) or not is_no_placeholder(value):
        return False
    return (
        quoted
        or behind == b"&"
        or _NUMBERED.fullmatch(value) is not None
        or not (_IDENTIFIER.fullmatch(value) or (DIGIT.search(value) is None and _TYPE.fullmatch(value)))
    )


def _is_passphrase(value: bytes) -> bool:
    return _PASSPHRASE.fullmatch(value) is not None and _THINGS.isdisjoint(value.split(b"-"))


def _is_of_a_sentence(value: bytes) -> bool:
    """Return True for `required`, `wrong!`, `required12`; not for `Test1234` and `Changeme1!`, which people choose."""
    word = value.rstrip(b"0123456789!.?")
    if word.lower() not in _SENTENCE:
        return False
    behind = value[len(word) :]
    return len(DIGIT.findall(behind)) < (1 if b"!" in behind else 3)


def is_strong(value: bytes) -> bool:
    """Return True for what is a password by its look, as no word of a sentence is: signs of several kinds."""
    return (
        len(value) >= 8
        and DIGIT.search(value) is not None
        and _LOWER.search(value) is not None
        and _SIGN.search(value) is not None
        and (_UPPER.search(value) is not None or _SPECIAL.search(value) is not None)
        and WORDY.fullmatch(value) is None
        and not _is_innocent(value)
    )
