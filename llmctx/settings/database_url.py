"""The URL of the database: what people and hosting companies write, as one of the two async drivers takes it.

libpq's parameters go where asyncpg looks for them: some are arguments of its own, others it reads in a `dsn` alone.
What has no meaning here is left out, and what asyncpg lacks is named in a `ConfigError`. No error repeats a value.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, unquote_plus, urlencode

from llmctx.core.errors import ConfigError
from llmctx.core.urls import UrlParts, split_url

if TYPE_CHECKING:
    from sqlalchemy import URL

KEY: Final = "LLMCTX_DATABASE_URL"
_DRIVERS: Final = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}
_WHAT_TO_WRITE: Final = (
    "Write postgresql+asyncpg://user:password@host:5432/dbname, or sqlite+aiosqlite:///path/to/file.db"
)
_ESCAPE: Final = "In user and password write / as %2F, ? as %3F, @ as %40 and % as %25"

# Each name of libpq, of asyncpg and of SQLAlchemy is in one of these.
_ARGUMENTS: Final = frozenset({
    "host", "port", "passfile", "service", "servicefile", "ssl", "target_session_attrs", "krbsrvname", "gsslib",
})  # fmt: skip
"""Arguments of asyncpg's `connect`, and SQLAlchemy's `host` and `port` of several servers."""
_IN_DSN: Final = frozenset({
    "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword", "sslnegotiation", "ssl_min_protocol_version",
    "ssl_max_protocol_version", "application_name", "options",
})  # fmt: skip
"""What asyncpg reads in a `dsn` alone. It sends what is no option of its own, such as the last two, to the server."""
_ALIASES: Final = {"sslmode": "ssl", "fallback_application_name": "application_name"}
_ELSEWHERE: Final = {"connect_timeout": "connect_timeout_s", "timeout": "connect_timeout_s"}
"""What is a setting of llmctx."""
_WITHOUT_MEANING: Final = frozenset({
    "channel_binding", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
    "sslcompression", "sslsni", "load_balance_hosts", "pgbouncer", "supa", "uselibpqcompat", "statement_cache_size",
    "prepared_statement_cache_size", "max_cached_statement_lifetime", "max_cacheable_statement_size",
})  # fmt: skip
"""Everything here has a deadline, and no statement is cached."""
_HARMLESS_VALUES: Final = {
    "gssencmode": ("disable", "prefer"), "client_encoding": ("utf8", "utf-8", "auto", "unicode"),
    "sslcertmode": ("allow",), "replication": ("false", "off", "no", "0"), "gssdelegation": ("0",),
    "requiressl": ("0",),
}  # fmt: skip
"""Values that ask for what is so anyway."""
_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_CHOICES: Final = {
    "ssl": _MODES,
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "sslnegotiation": ("postgres", "direct"),
}
_OF_SQLITE: Final = frozenset({"timeout", "uri"})


def normal_url(value: str) -> str:
    """Return `value` as a URL of one of the two async drivers; raise `ConfigError` for anything else."""
    if not value.strip():
        raise ConfigError(f"{KEY} is empty. {_WHAT_TO_WRITE}.")
    if value.strip()[0] in "\"'`":  # as docker's --env-file and systemd's Environment= leave them
        raise ConfigError(f"{KEY} begins with a quotation mark, which is part of the value here. Take it out.")
    parts = split_url(value.strip())
    if parts is None:
        raise ConfigError(f"{KEY} is not a database URL. {_WHAT_TO_WRITE}. {_ESCAPE}.")
    driver = _DRIVERS.get(parts.scheme)
    if driver is None:
        near = difflib.get_close_matches(parts.scheme, _DRIVERS, 1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ConfigError(f"{KEY} names {parts.scheme!r}, which llmctx cannot use. {hint}{_WHAT_TO_WRITE}.")
    if parts.has_stray_parameters:
        raise ConfigError(f"{KEY} has parameters behind no question mark. {_WHAT_TO_WRITE}?name=value&name=value.")
    if not parts.is_plain:
        raise ConfigError(f"{KEY} has an @ after its host. {_ESCAPE}. {_WHAT_TO_WRITE}.")
    try:
        url = _sqlite_url(parts) if driver.startswith("sqlite") else _postgresql_url(parts)
    except UnicodeDecodeError:
        raise ConfigError(f"{KEY} has percent-encoded bytes that are not UTF-8. {_ESCAPE}.") from None
    return url.set(drivername=driver).render_as_string(hide_password=False)


def connect_timeout(value: object) -> float | None:
    """Return the seconds that a URL of PostgreSQL gives to a connection attempt; None if it says nothing."""
    parts = split_url(value.strip()) if isinstance(value, str) else None
    if parts is None or parts.is_file:
        return None
    text = next((text for name, text in parts.parameters if name in _ELSEWHERE and text), None)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 300:
        raise ConfigError(f"{KEY}: connect_timeout must be a number of seconds, above 0 and at most 300.")
    return seconds


def application_name(url: URL, otherwise: str = "llmctx") -> str:
    """Return the name under which connections of a normal URL stand in pg_stat_activity: its own, or `otherwise`."""
    dsn = url.query.get("dsn", "")
    parts = split_url(dsn) if isinstance(dsn, str) else None
    names = dict(parts.parameters) if parts is not None else {}
    return unquote_plus(names.get("application_name", otherwise))


def _postgresql_url(parts: UrlParts) -> URL:
    from sqlalchemy.engine import URL  # late: it takes long to import

    named: dict[str, list[str]] = {}
    for name, text in parts.parameters:
        plus = name not in ("user", "password")  # in these libpq knows no "+" for a space, others do
        if text:
            named.setdefault(_decoded(name), []).append(_decoded(text, plus=plus))
    user = _last(named, "user", parts.user)
    password = _last(named, "password", parts.password)
    database = [text for name in ("dbname", "database") for text in named.pop(name, [])]
    hosts = _hosts(parts)
    query = _understood(named)
    database_name = (database[-1] if database else _decoded(parts.path[1:])) or None
    if database_name is None and "service" not in query:
        raise ConfigError(f"{KEY} names no database. {_WHAT_TO_WRITE}.")
    host, port = (hosts[0][0] or None, hosts[0][1]) if len(hosts) == 1 else (None, None)
    if len(hosts) > 1:
        query["host"], query["port"] = ",".join(host for host, _ in hosts), ",".join(str(p or 5432) for _, p in hosts)
    elif host is not None and host.startswith("/"):  # libpq's spelling of a socket
        query.setdefault("host", host)
        host = None
    return URL.create("postgresql", user, password, host, port, database_name, query)


def _last(named: dict[str, list[str]], name: str, written: str | None) -> str | None:
    """Take a parameter out of `named`; what is `written` in front of the host counts without one."""
    texts = named.pop(name, [])
    return texts[-1] if texts else None if written is None else _decoded(written)


def _hosts(parts: UrlParts) -> list[tuple[str, int | None]]:
    """Return hosts and ports; one host without a name is the default."""
    hosts = [(_decoded(host.strip("[]")), int(port) if port else None) for host, port in parts.hosts]
    if any(port is not None and not 0 < port < 65536 for _, port in hosts):
        raise ConfigError(f"{KEY} has an invalid port. {_WHAT_TO_WRITE}. {_ESCAPE}.")
    if len(hosts) > 1 and not all(host for host, _ in hosts):
        raise ConfigError(f"{KEY} has an empty host name. {_WHAT_TO_WRITE}.")
    return hosts


def _understood(named: dict[str, list[str]]) -> dict[str, str | tuple[str, ...]]:
    """Return the parameters as asyncpg takes them; raise `ConfigError` for those that it cannot honour."""
    query: dict[str, str | tuple[str, ...]] = {}
    in_dsn: dict[str, str] = {}
    unknown = list[str]()
    for written, texts in sorted(named.items(), key=lambda item: item[0] in _ALIASES):  # aliases last: they yield
        name, text = _ALIASES.get(written, written), texts[-1]
        if name == "ssl" and text in ("true", "1", "on"):
            text = "require"
        if name in _CHOICES and text not in _CHOICES[name]:
            raise ConfigError(f"{KEY}: {written} must be one of {', '.join(_CHOICES[name])}.")
        if name == "dsn":
            in_dsn.update({key: unquote_plus(value) for key, value in (split_url(text) or _EMPTY).parameters})
        elif name in ("host", "port") and len(texts) > 1:
            query[name] = tuple(texts)
        elif name in _ARGUMENTS:
            query.setdefault(name, text)
        elif name in _IN_DSN:
            in_dsn.setdefault(name, text)
        elif not (name in _WITHOUT_MEANING or name in _ELSEWHERE or text.lower() in _HARMLESS_VALUES.get(name, ())):
            unknown.append(written)
    if unknown:
        raise ConfigError(f"{KEY} has {_unsupported(unknown)}. {_near(unknown)}Take {_them(unknown)} out of the URL.")
    _check_ports(query)
    if in_dsn:
        query["dsn"] = f"postgresql:///?{urlencode(in_dsn)}"
    return query


_EMPTY: Final = UrlParts("", None, None, (), "", ())


def _check_ports(query: dict[str, str | tuple[str, ...]]) -> None:
    """Give every one of several hosts a port: SQLAlchemy takes none without."""
    hosts = query.get("host", "")
    if isinstance(hosts, tuple):
        query["host"] = tuple(host if ":" in host or host.startswith("/") else f"{host}:5432" for host in hosts)
    elif "," in hosts:
        count = hosts.count(",") + 1
        ports = str(query.get("port", "5432")).split(",")
        query["port"] = ",".join(port or "5432" for port in (ports * count if len(ports) == 1 else ports))
    each = _several(query.get("port", ""))
    if any(not (port.isascii() and port.isdigit() and 0 < int(port) < 65536) for port in each):
        raise ConfigError(f"{KEY} has an invalid port. {_WHAT_TO_WRITE}.")
    if isinstance(hosts, str) and len(each) not in (0, 1, hosts.count(",") + 1):
        raise ConfigError(f"{KEY} has a different number of ports and hosts. {_WHAT_TO_WRITE}.")


def _several(text: str | tuple[str, ...]) -> list[str]:
    return [] if not text else text.split(",") if isinstance(text, str) else list(text)


def _unsupported(names: Sequence[str]) -> str:
    kind = "a parameter" if len(names) == 1 else "parameters"
    return f"{kind} that llmctx does not support ({_listed(names)})"


def _near(names: Iterable[str]) -> str:
    """Return what was meant, maybe, where a name is nearly one that is understood."""
    known = [*_ARGUMENTS, *_IN_DSN, *_ALIASES, *_ELSEWHERE, "user", "password", "dbname"]
    near = sorted({match for name in names for match in difflib.get_close_matches(name, known, 1, 0.8)})
    return f"Did you mean {', '.join(near)}? " if near else ""


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _listed(names: Iterable[str]) -> str:
    plain = (name if name.isprintable() and len(name) <= 40 else "a name that is none" for name in names)
    return ", ".join(sorted(plain))


def _sqlite_url(parts: UrlParts) -> URL:
    """Refuse an in-memory database: it exists in one connection only, and the writer has its own."""
    from sqlalchemy.engine import URL

    if parts.hosts != (("", ""),) or parts.user is not None:
        raise ConfigError(f"{KEY} has a host, but SQLite is a file: mind the three slashes. {_WHAT_TO_WRITE}.")
    name = _decoded(parts.path[1:])
    query = {_decoded(key): _decoded(text, plus=True) for key, text in parts.parameters}
    if name in ("", ":memory:", "file:") or name.startswith("file::memory:") or query.get("mode") == "memory":
        raise ConfigError(
            f"{KEY} is an in-memory SQLite database, of which every connection has its own. {_WHAT_TO_WRITE}."
        )
    unknown = [] if name.startswith("file:") else sorted(set(query) - _OF_SQLITE)
    if unknown:
        raise ConfigError(f"{KEY} has {_unsupported(unknown)} for SQLite. Take {_them(unknown)} out of the URL.")
    if not _is_number(query.get("timeout", "0")):
        raise ConfigError(f"{KEY}: timeout must be a number of seconds.")
    return URL.create("sqlite", database=name, query=query)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal() and text.isascii()


def _decoded(text: str, *, plus: bool = False) -> str:
    """Return `text` without percent-encoding; raise UnicodeDecodeError or `ConfigError` if no driver could take it."""
    decoded = (unquote_plus if plus else unquote)(text, errors="strict")
    if "\0" in decoded:
        raise ConfigError(f"{KEY} has a NUL character. {_WHAT_TO_WRITE}.")
    return decoded
