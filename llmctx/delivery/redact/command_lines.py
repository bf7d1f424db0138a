"""Passwords in command lines, by the program or the option that takes them: `mysql -pX`, `curl -u user:X`, `echo X | sudo`.

Each is found by what stands right before the password; where that is a mere option, a program that takes a password so
must be in the line before it. Options whose names tell (`--password X`) are found by their names (`named_secrets.py`).
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

from llmctx.delivery.redact.normal_form import SearchText
from llmctx.delivery.redact.secret_values import is_no_placeholder, is_password, is_random
from llmctx.delivery.redact.sieve import widen
from llmctx.delivery.redact.text_spans import Span

_LINE: Final = 200  # characters of a line that are looked at
_OPTION: Final = re.compile(
    rb"[-/](?<=[\s\"'][-/])(?P<name>-?pass:?|p:|[pakw])(?P<gap>[ \t=]{0,2})[\"']?(?!-)(?:pass:)?(?P<value>[^\s\"']{4,128}+)"
)
_PROGRAMS: Final = {  # option and whether a gap stands behind it -> programs that take a password so
    (name, gap): f"(?<![a-z])(?:{programs})[a-z0-9_-]{{0,12}}(?:\\.exe)?[ \\t]"
    for name, gaps, programs in (
        ("p", (False,), "mysql|mariadb|sshpass|sqlcmd|bcp|isql|osql|tsql|7z|7za|rar|unrar|zip"),
        (
            "p",
            (True,),
            "sshpass|sqlcmd|bcp|isql|osql|tsql|zip|login|twine|mosquitto|cqlsh|ipmitool|psexec|mongo|snowsql|influx|lftp|ldap|winexe|net rpc|cadaver|kinit|rdesktop|impala-shell|beeline|vsql|sshfs|rpcclient|rabbitmqadmin|hydra|evil-winrm|crackmapexec|netexec|signtool|usermod|useradd",
        ),
        ("a", (True,), "redis-cli|valkey-cli|snmp"),
        ("-pass", (True,), "redis-cli|valkey-cli"),
        ("k", (True,), "openssl"),
        ("pass", (True,), "openssl"),
        ("w", (True,), "ldap"),
        ("p:", (False, True), "xfreerdp|wfreerdp|schtasks|mstsc"),
        ("pass:", (False, True), "cmdkey"),
    )
    for gap in gaps
}
_TAKES: Final = {(name.encode(), gap): re.compile(programs.encode()) for (name, gap), programs in _PROGRAMS.items()}
_LONGEST: Final = 40  # characters of a program's name
_NEXT: Final = re.compile(rb"[|;\n]")  # another command begins
_OPTIONS: Final = "[ \\t\\r\\n\"'][-/](?:-?pass:?|p:|[pakw])[ \\t=\"']*[^ \\t\\r\\n=\"'-]"
_MANY, _FEW = 256, 512  # options that are looked at: so many, and one more in so many characters
_PORT: Final = re.compile(rb"\d{1,5}")


def _is_login(value: bytes) -> bool:
    return (
        is_no_placeholder(value)
        and not value.isdigit()
        and value[0] != 0x3A
        and not (value.isalpha() and value.islower())
    )


def _is_of_ftp(value: bytes) -> bool:
    return is_password(value, False, b"") and re.search(rb"[^A-Za-z_-]", value) is not None


_FORMS: Final = tuple(  # each begins with its mark
    (mark, kind, re.compile(pattern), likely)
    for mark, kind, pattern, likely in (
        (b"-u", "password", rb"-u(?:(?<=[\s\"']-u)|ser(?<=-user))[ \t=]{0,2}[\"']?[^\s:\"'/]{1,80}:[\"']?([^\s\"']{3,256}+)", _is_login),
        (b"-u ", "password", rb"-u[ \t]{1,2}[^\s%]{1,60}%([^\s\"']{3,128}+)", is_no_placeholder),
        (b"lftp -u ", "password", rb"lftp -u [^\s,]{1,60},([^\s\"']{3,128}+)", is_no_placeholder),
        (b"masterauth ", "password", rb"masterauth [\"']?([^\s\"']{4,128}+)", is_no_placeholder),
        (b"cargo login ", "token", rb"cargo login ([a-z0-9._-]{20,200}+)", is_random),
        (b"pypi-token.", "token", rb"pypi-token\.[\w-]{1,40} ([a-z0-9._-]{20,400}+)", is_random),
        (b"http", "password", rb"https? -a [^\s:]{1,60}:([^\s\"']{3,128}+)", is_no_placeholder),
        (b"htpasswd -", "password", rb"htpasswd -[a-z]{1,5} \S{1,100} \S{1,60} [\"']?([^\s\"']{4,128}+)", is_no_placeholder),
        (b"sqlplus", "password", rb"sqlplus[^\n]{0,40}? [\w$]{1,30}/([^\s@\"']{3,128}+)@", is_no_placeholder),
        (b"net use ", "password", rb"net use [^\n]{0,100}?/user:\S{1,60}(?:\s\s\S{1,60})? ([^\s\"'/*]{4,128}+)", is_no_placeholder),
        (b"net use ", "password", rb"net use [^\n]{0,40}?\\\\\S{1,100} ([^\s\"'/*][^\s\"'/]{3,128}+)(?= /user)", is_no_placeholder),
        (b"net user ", "password", rb"net user \S{1,40} ([^\s\"'/*]{4,128}+) /add", is_no_placeholder),
        (b"convertto-securestring", "password", rb"convertto-securestring(?: -string)?[ \t]{1,4}[\"']([^\"'\n]{4,256}+)", is_no_placeholder),
        (b"vault login ", "token", rb"vault login (?:-[a-z=-]{1,30} ){0,3}([a-z0-9._-]{20,200}+)", is_random),
        (b"wandb login ", "api_key", rb"wandb login (?:-[a-z=-]{1,30} ){0,3}([a-z0-9_-]{20,200}+)", is_random),
        (b"snyk auth ", "token", rb"snyk auth ([a-z0-9._-]{20,200}+)", is_random),
        (b"wpa_passphrase ", "password", rb"wpa_passphrase \S{1,40} [\"']?([^\s\"']{8,64}+)", is_no_placeholder),
        (b"secret set ", "api_key", rb"secret set [^\n]{1,80}?(?:-b|--body)[ =]{1,2}[\"']?([^\s\"']{8,512}+)", is_no_placeholder),
        (b"\nuser ", "password", rb"\nuser [\w.@-]{1,60} ([^\s\"']{4,128}+)(?=\s)", _is_of_ftp),
        *(
            (mark, "password", mark + rb"(?: -n)? [\"']?(?:[\w.-]{1,40}:)?([^\s\"':]{4,128}+)[\"']?(?:\\n)? ?\| ?(?:sudo|chpasswd|passwd|kinit|cryptsetup|(?:docker|podman|nerdctl|helm|oras|crane|skopeo|buildah|az|aws|gh|glab|npm)[ ][^\n|]{0,120}?(?:-stdin|login|--with-token))", is_no_placeholder)
            for mark in (b"echo", b"printf", b"<<<")
        ),
    )
)  # fmt: skip


class CommandLines:
    """Find passwords in command lines, as kinds password, token and api_key."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._forms = [entry for entry in _FORMS if entry[1] in kinds]
        self._passwords = "password" in kinds
        heads = [widen(pattern.pattern) for _, _, pattern, _ in self._forms]
        if self._passwords:
            heads.append(_OPTIONS)
        self.heads = "|".join(heads)
        """Of `low`."""

    def find(self, view: SearchText, spans: list[Span]) -> None:
        """Append to `spans` what is found."""
        raw, low = view.raw, view.low
        for mark, kind, form, likely in self._forms:
            if mark in low:
                for found in form.finditer(low):
                    start, end = found.span(1)
                    if likely(raw[start:end]):
                        spans.append((start, end, kind))
        if self._passwords:
            commands = _Commands(low)
            for option in islice(_OPTION.finditer(low), _MANY + len(low) // _FEW):
                start, end = option.span("value")
                if (
                    commands.take(option.start(), option["name"], bool(option["gap"]))
                    and is_no_placeholder(raw[start:end])
                    and _PORT.fullmatch(raw, start, end) is None
                ):
                    spans.append((start, end, "password"))


class _Commands:
    """The programs of a text; each place is searched once for each option."""

    def __init__(self, low: bytes) -> None:
        self._low = low
        self._seen: dict[tuple[bytes, bool], tuple[int, int]] = {}

    def take(self, at: int, name: bytes, gap: bool) -> bool:
        """Return True if a program in the line before `at` takes a password by this option; `at` never decreases."""
        programs = _TAKES.get((name, gap))
        if programs is None:
            return False
        searched, last = self._seen.get((name, gap), (0, -1))
        for program in programs.finditer(self._low, max(searched - _LONGEST, at - _LINE, 0), at):
            last = program.end()
        self._seen[name, gap] = at, last
        return last >= max(0, at - _LINE) and _NEXT.search(self._low, last, at) is None
