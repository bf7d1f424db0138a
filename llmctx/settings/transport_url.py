"""`LLMCTX_TRANSPORT`: the URL of a message broker between the applications and the database, taken apart.

    nats://user:password@host1:4222,host2:4222?prefix=llmctx
    tls://host?creds=/etc/llmctx/app.creds&ca=/etc/llmctx/ca.pem

No error repeats a value, and what is shown has neither user nor password.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from llmctx.core.urls import UrlParts, split_url

_SCHEMES: Final = ("nats", "tls")
_PORT: Final = "4222"
_EACH_WITH_SCHEME: Final = re.compile(r",\s*(?=(?:nats|tls)://)", re.IGNORECASE)
_PREFIX: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_DEFAULT_PREFIX: Final = "llmctx"
_MOST_STREAMS: Final = 64
_GIB: Final = 1024**3
_DAY_S: Final = 86_400
_NUMBERS: Final[Mapping[str, tuple[int, int]]] = {
    "streams": (1, _MOST_STREAMS),
    "replicas": (1, 5),
    "max_bytes": (1024**2, 2**60),
    "max_age": (3600, 36_500 * _DAY_S),
}
_FILES: Final[tuple[str, ...]] = ("creds", "ca", "cert", "key")
_READER: Final = re.compile(r"(?!ship\Z)[a-z][a-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TransportUrl:
    """A broker, as `LLMCTX_TRANSPORT` names it."""

    servers: tuple[str, ...]
    """Each as `nats://host:port` or `tls://host:port`, without users."""
    user: str | None = None
    password: str | None = None
    token: str | None = None
    creds: str | None = None
    """A credentials file of NATS."""
    ca: str | None = None
    """A file of certificates to believe, instead of the system's."""
    cert: str | None = None
    key: str | None = None
    """This client's own certificate and key, where the broker asks for one."""
    prefix: str = _DEFAULT_PREFIX
    """Begins all names: several deployments may share a broker."""
    streams: int = 16
    replicas: int | None = None
    """Copies of each stream; None lets `llmctx migrate --transport` choose by the size of the cluster."""
    max_bytes: int = 16 * _GIB
    """Limit of what waits in all streams together, which the broker sets aside on its disk."""
    readers: tuple[str, ...] = ()
    """Consumers of others beside `llmctx ship`, such as one for an analytical store: each gets every frame."""
    max_age: int = 7 * _DAY_S
    """How long the broker keeps what is not stored, in seconds."""

    def __repr__(self) -> str:
        return f"<TransportUrl {self.shown}>"

    @property
    def is_tls(self) -> bool:
        """Return whether the connection is encrypted from the start, whatever the broker says."""
        return self.servers[0].startswith("tls:") or self.ca is not None or self.cert is not None

    @property
    def shown(self) -> str:
        """Return it without users, passwords and files, for logs."""
        scheme = self.servers[0].partition("://")[0]
        hosts = ",".join(server.partition("://")[2] for server in self.servers)
        return f"{scheme}://{hosts}{'' if self.prefix == _DEFAULT_PREFIX else f'?prefix={self.prefix}'}"

    @property
    def ids(self) -> frozenset[str]:
        """Return what the broker is known by: one id a server, so that servers may come and go one after another."""
        return frozenset(f"{server.partition('://')[2].lower()}/{self.prefix}" for server in self.servers)

    @property
    def journal_key(self) -> str:
        """Return the name of the directory for the journals of rows that go there."""
        return hashlib.sha256(repr(("transport", *sorted(self.ids))).encode()).hexdigest()[:16]


def parse_transport(text: str) -> TransportUrl:
    """Return what `text` names. Raise ValueError, which repeats no value, for what cannot be used."""
    urls = [_split(part) for part in _EACH_WITH_SCHEME.split(text.strip())]
    scheme = urls[0].scheme
    if any(url.scheme != scheme for url in urls):
        raise ValueError("must name all servers with the same scheme, nats:// or tls://")
    hosts = [(host, port) for url in urls for host, port in url.hosts]
    if not all(host for host, _ in hosts):
        raise ValueError("must name a host, as in nats://host:4222")
    if any(port and not 0 < int(port) < 65536 for _, port in hosts):
        raise ValueError("has an invalid port")
    options = {name: unquote(value) for url in urls for name, value in url.parameters}
    user, password, token = _who(next((url for url in urls if url.user is not None), urls[0]))
    return TransportUrl(
        servers=tuple(dict.fromkeys(f"{scheme}://{host}:{port or _PORT}" for host, port in hosts)),
        user=user,
        password=password,
        token=token,
        **{**_texts(options), **_numbers(options)},
    )


def _split(text: str) -> UrlParts:
    parts = split_url(text)
    if parts is None or parts.scheme not in _SCHEMES or not parts.is_plain or parts.path not in ("", "/"):
        raise ValueError("must be a URL such as nats://user:password@host1:4222,host2:4222, or tls://host")
    return parts


def _who(url: UrlParts) -> tuple[str | None, str | None, str | None]:
    """Return user, password and token: a user alone is a token, as NATS has it."""
    if url.user is None:
        return None, None, None
    if url.password is None:
        return None, None, unquote(url.user)
    return unquote(url.user), unquote(url.password), None


def _texts(options: dict[str, str]) -> dict[str, Any]:
    prefix = options.pop("prefix", _DEFAULT_PREFIX)
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("needs a prefix of at most 32 lower case letters, digits, - and _ that begins with a letter")
    files = {name: options.pop(name) for name in _FILES if name in options}
    if "key" in files and "cert" not in files:
        raise ValueError("names a key without a certificate")
    readers = tuple(dict.fromkeys(options.pop("readers").split(","))) if "readers" in options else ()
    if not all(map(_READER.fullmatch, readers)):
        raise ValueError("needs names of readers of at most 32 lower case letters, digits, - and _, other than ship")
    return {"prefix": prefix, "readers": readers, **files}


def _numbers(options: dict[str, str]) -> dict[str, int]:
    numbers = {}
    for name, text in options.items():
        if name not in _NUMBERS:
            raise ValueError(
                f"has an unknown parameter. Choose from {', '.join(('prefix', 'readers', *_FILES, *_NUMBERS))}"
            )
        least, most = _NUMBERS[name]
        if not text.isascii() or not text.isdigit() or not least <= int(text[:20]) <= most:
            raise ValueError(f"needs a {name} from {least} to {most}")
        numbers[name] = int(text)
    return numbers
