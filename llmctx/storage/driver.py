"""asyncpg's `connect` and SQLite's files, as both ways to the database use them: the writer's and that of commands.

asyncpg's key and password files are read outside of the event loop (see `outside_loop`), and password files as libpq
reads them. asyncpg itself, which the application may use as well, stays as it is: these are copies of its functions.
Where it is built in another way than it has been for years, it is its own function.
"""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import os
import re
import types
import warnings
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy.engine import make_url

from llmctx.core.errors import ConfigError, is_shortage
from llmctx.core.threads import outside_loop
from llmctx.settings import Settings
from llmctx.settings.database_url import application_name

_FIELD: Final = re.compile(r"(?:\\.|[^:\\]|\\\Z)*", re.DOTALL)
_MOST_HOSTS: Final = 4
_NEXT_ADDRESS_S: Final = 0.25  # as RFC 8305 recommends
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


def connect_arguments(settings: Settings, name: str = "llmctx") -> dict[str, Any]:
    """Return the arguments of each connection, called `name` unless the URL says otherwise.

    Nothing is cached: a pooler may lend another server each time. Of several hosts each has the whole
    `connect_timeout_s`, as in libpq: the first may be a machine that is off. So may be the first address of a host.
    """
    return {
        "timeout": _MOST_HOSTS * settings.connect_timeout_s,
        "statement_cache_size": 0,  # asyncpg's
        "prepared_statement_cache_size": 0,  # SQLAlchemy's
        "async_creator_fn": _asyncpg_connect(settings.connect_timeout_s),
        "server_settings": {"application_name": application_name(make_url(settings.database_url), name)},
    }


def _asyncpg_connect(host_s: float) -> Any:
    import asyncpg

    utils: Any = asyncpg.connect_utils
    try:
        lookup = _with_globals(utils._read_password_from_pgpass, _read_password_file=read_passfile)
        services = types.SimpleNamespace(ConfigParser=_ServiceFile)
        resolve = _with_globals(
            utils._parse_connect_dsn_and_args,
            _read_password_from_pgpass=lookup,
            configparser=services,
            _dot_postgresql_path=lambda name: _readable(utils._dot_postgresql_path(name)),
        )
        parse = _with_globals(utils._parse_connect_arguments, _parse_connect_dsn_and_args=resolve)
        inner = _with_globals(
            utils._connect,
            _parse_connect_arguments=outside_loop(_explained(parse)),
            _connect_addr=_limited(utils._connect_addr, host_s),
        )
        return _with_globals(asyncpg.connect, connect_utils=types.SimpleNamespace(_connect=inner))
    except AttributeError:
        return asyncpg.connect


def _readable(path: Path | None) -> Path | None:
    """Return None where `path` cannot be read: a server that root has started as another user has root's home."""
    return path if path is not None and os.access(path, os.R_OK) else None


def _limited(connect: Any, seconds: float) -> Any:
    """Return `connect`, of one host, which raises TimeoutError after `seconds`; asyncpg goes on with the next host."""

    async def run(*, loop: asyncio.AbstractEventLoop, **arguments: Any) -> Any:
        async with asyncio.timeout(seconds):
            return await connect(loop=_Loop(loop), **arguments)

    return run


class _Loop:
    """The event loop, as asyncpg sees it: where an address of a host is silent, it tries the next one beside it.

    Otherwise a name whose first address is dead takes all the time there is, each time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, *arguments: Any, **options: Any) -> Any:
        if len(arguments) > 1 and isinstance(self._loop, asyncio.BaseEventLoop):  # others may not know the option
            options["happy_eyeballs_delay"] = _NEXT_ADDRESS_S
        return await self._loop.create_connection(*arguments, **options)


def create_private(file: str | Path) -> None:
    """Create a SQLite file that only its owner may read; SQLite gives its journals the same mode. Never raises."""
    if not str(file).startswith("file:"):
        with contextlib.suppress(OSError, ValueError):  # it is there, or connecting says why it cannot be
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


class _Names(list[str]):
    def __contains__(self, name: object) -> bool:
        if not super().__contains__(name):
            raise configparser.NoSectionError(str(name))
        return True


class _ServiceFile(configparser.ConfigParser):
    """A service file that says when it has no such service, as libpq does; asyncpg would connect to a default."""

    def sections(self) -> list[str]:
        return _Names(super().sections())


def _explained(parse: Any) -> Any:
    """Return `parse` with errors that say where to look; those of its own may quote a file with a password in it."""

    def run(**arguments: Any) -> Any:
        try:
            # asyncpg reads service files for a URL alone, and knows no PGSERVICE
            if "service" in arguments and not arguments.get("dsn"):
                service = arguments["service"] or os.environ.get("PGSERVICE")
                arguments["dsn"] = f"postgresql://?service={quote(service, safe='')}" if service else None
            return parse(**arguments)
        except (ValueError, KeyError, OSError, configparser.Error) as problem:
            is_harmless = type(problem).__name__ == "ClientConfigurationError" and " object at " not in str(problem)
            what = f" ({problem})" if is_harmless else ""
            if "target_session_attrs" in str(problem):  # of which asyncpg's message shows an object of Python's
                what = " (target_session_attrs, or PGTARGETSESSIONATTRS)"
            if "int()" in str(problem):  # asyncpg reads no other numbers; the message quotes the value
                what = " (a port that is no number)"
            if isinstance(problem, OSError):
                if is_shortage(problem):
                    raise
                what = f" (a file of certificates or keys: {problem.strerror})"
            if isinstance(problem, configparser.NoSectionError):
                what = f" (there is no service {problem.section!r} in the service file)"
            raise ConfigError(
                "The database cannot be found: LLMCTX_DATABASE_URL, the PG* variables or the service file hold "
                f"something that asyncpg cannot use{what}. Correct it."
            ) from None

    return run


def _with_globals(function: Any, **changed: Any) -> Any:
    """Return a copy of `function` for which some of its module's names mean something else."""
    copy = types.FunctionType(function.__code__, {**function.__globals__, **changed}, function.__name__)
    copy.__defaults__, copy.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return copy


def read_passfile(path: Path) -> list[tuple[str, ...]]:
    """Return host, port, database, user and password of each line of a password file, with its escapes resolved.

    A backslash makes the next character itself, as in libpq; the password is the rest of its line. A file that others
    may read counts as none.
    """
    try:
        if not path.is_file():
            return []
        if os.name == "posix" and path.stat().st_mode & 0o077:
            warnings.warn(f"password file {str(path)!r} may be read by others: chmod 0600", stacklevel=2)
            return []
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return []
    lines = (_fields(line.removesuffix("\r")) for line in text.split("\n") if line.strip() and not line.startswith("#"))
    return [fields for fields in lines if len(fields) == 5]


def _fields(line: str) -> tuple[str, ...]:
    fields = list[str]()
    while len(fields) < 4:
        field = _FIELD.match(line)
        if field is None or field.end() >= len(line):
            return ()
        fields.append(field[0])
        line = line[field.end() + 1 :]
    return tuple(_ESCAPED.sub(r"\1", field) for field in (*fields, line))
