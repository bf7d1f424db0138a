"""URLs that hold passwords: taken apart as people write them, and shown without what is secret.

Passwords are typed as they are, `app:p@w@host`. The last `@` before the path ends the user; where a part of a password
may have ended up as port, path or parameter, nothing of the URL is shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_URL: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?]*)(/[^?]*)?(?:\?(.*))?", re.IGNORECASE | re.DOTALL)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_SPEC: Final = re.compile(r"(\[[0-9a-fA-F:.%]*\]|[^:\[\]]*)(?::([0-9]*))?")
_STRAY: Final = re.compile(r"[;&\s][^;&=]*=")
_FILES: Final = ("sqlite", "unix")
# Parameters without a secret; "@" may still tell of one that was not escaped.
_HARMLESS: Final = frozenset({
    "application_name", "channel_binding", "connect_timeout", "db", "dbname", "host", "mode", "passfile", "port",
    "service", "servicefile", "ssl", "sslmode", "sslrootcert", "target_session_attrs", "timeout", "uri",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class UrlParts:
    """The parts of a URL, still percent-encoded. `hosts` holds each host with its port; both may be empty."""

    scheme: str
    user: str | None
    password: str | None
    hosts: tuple[tuple[str, str], ...]
    path: str
    parameters: tuple[tuple[str, str], ...]

    @property
    def is_file(self) -> bool:
        return self.scheme.partition("+")[0] in _FILES

    @property
    def has_stray_parameters(self) -> bool:
        """Return True if parameters stand behind no "?", as other databases' drivers take them: `db;password=…`."""
        places = (self.path, *(host for host, _ in self.hosts))
        return not self.is_file and any(_STRAY.search(place) for place in places)

    @property
    def is_plain(self) -> bool:
        """Return True if no part of a password can stand outside of the user's part."""
        if self.has_stray_parameters:
            return False
        if self.is_file:
            return all("@" not in name for name, _ in self.parameters)
        has_user = self.user is not None  # then only a name can go on with a password that has a "?" in it
        rest = [name if has_user else f"{name}{value}" for name, value in self.parameters if name != "user"]
        return all("@" not in text for text in (self.path, *rest))


def split_url(text: str) -> UrlParts | None:
    """Return the parts of `text`, None if it is no URL."""
    match = _URL.fullmatch(text)
    if match is None or _CONTROL.search(text):
        return None
    scheme, authority, path, query = match.groups(default="")
    who, at, where = authority.rpartition("@")
    user, colon, password = who.partition(":")
    specs = [_SPEC.fullmatch(spec) for spec in where.split(",")]
    hosts = tuple((spec[1], spec[2] or "") for spec in specs if spec is not None)
    if len(hosts) < len(specs):
        return None
    parameters = tuple((name, value) for name, _, value in (part.partition("=") for part in query.split("&") if part))
    return UrlParts(scheme.lower(), user if at else None, password if colon else None, hosts, path, parameters)


def shown_url(text: str) -> str:
    """Return `text` without its passwords, for output and logs; nothing of what cannot be read. Never raises."""
    parts = split_url(text)
    if parts is None or not parts.is_plain:
        return "<not a database URL>"
    user = "" if parts.user is None else f"{_hidden_user(parts)}@" if parts.password is None else f"{parts.user}:***@"
    hosts = ",".join(f"{host}:{port}" if port else host for host, port in parts.hosts)
    shown = [f"{name}={value}" for name, value in parts.parameters if name in _HARMLESS]
    query = "&".join([*shown, "***"] if len(shown) < len(parts.parameters) else shown)
    return f"{parts.scheme}://{user}{hosts}{parts.path}{'?' if query else ''}{query}"


def _hidden_user(parts: UrlParts) -> str:
    """Return the user of a URL without a password. Redis has passwords alone, which are written as users by mistake."""
    return str(parts.user) if parts.scheme.startswith("postgres") else "***"
