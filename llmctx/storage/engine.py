"""The way to the database for everything but the writer: an engine from `Settings`, and errors that say what to do.

Migrations and the reading side share it. Its engines keep no pool, but for that of `reader.py`: a command runs a few
statements and ends, and an engine that is used from a second event loop breaks.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from itertools import count, cycle
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from llmctx.core.errors import ConfigError, DatabaseUnavailable, LlmctxError, MigrationsPending
from llmctx.core.text import capitalize
from llmctx.settings import Settings
from llmctx.storage.db_errors import is_no_host_name, lacks_connections, pools_by_statement, sqlstate
from llmctx.storage.driver import connect_arguments, create_private
from llmctx.storage.pg_timestamps import register_codecs

logger: Final = logging.getLogger("llmctx")

READ_PATIENCE_S: Final = 60.0
LOCK_PATIENCE_S: Final = 5.0
_RECYCLE_S: Final = 300
_DETAIL: Final = re.compile(r"\nDETAIL:.*?(?=\nHINT:|\Z)", re.DOTALL)
_CHECK: Final = "Check that it runs and that LLMCTX_DATABASE_URL points to it."

_LOCK: Final = 0x6C6C6D637478  # "llmctx", as PostgreSQL's advisory lock
_HINTS: Final = {
    "rejected SSL upgrade": "Switch SSL on in the server, or ask for less with ?sslmode=prefer in LLMCTX_DATABASE_URL.",
    "target attribute requirement": "Correct target_session_attrs in LLMCTX_DATABASE_URL, or PGTARGETSESSIONATTRS.",
}
"""asyncpg's words -> what to do."""
_OF_OTHER_TYPES: Final = ("42883", "42804", "42846", "22018")
"""What PostgreSQL says where a column of a host's own is compared with what is none of its type."""
_SQLITE: Final = {
    "unable to open database file": "Check that LLMCTX_DATABASE_URL names a file in a folder that exists.",
    "file is not a database": "Correct LLMCTX_DATABASE_URL.",
    "readonly database": "Check who may write to the file and its folder.",
    "database is locked": "Another process held it for too long: try again.",
    "disk I/O error": "Check its disk, and that LLMCTX_DATABASE_URL names a plain file.",
    "disk is full": "Make room on its disk.",
    "image is malformed": "The file is damaged: take a backup, or save what is left with `sqlite3 FILE .recover`.",
}


def engine(
    settings: Settings,
    *,
    patience_s: float | None = READ_PATIENCE_S,
    pool_size: int = 0,
    application_name: str = "llmctx",
) -> AsyncEngine:
    """Return an engine, without a pool unless it has a `pool_size`.

    No statement waits longer than `patience_s`; None waits for ever (migrations).
    """
    arguments: dict[str, Any] = {}
    if settings.is_postgresql:
        arguments = {
            **connect_arguments(settings, application_name),
            "command_timeout": patience_s,
            "prepared_statement_name_func": _names(),
        }
    pool: dict[str, Any] = {"poolclass": NullPool}
    if pool_size:
        pool = {"pool_size": pool_size, "max_overflow": 0, "pool_pre_ping": True, "pool_recycle": _RECYCLE_S}
    made = create_async_engine(settings.database_url, connect_args=arguments, hide_parameters=True, **pool)
    if settings.is_postgresql:
        event.listen(made.sync_engine, "connect", lambda connection, _: connection.run_async(register_codecs))
        event.listen(made.sync_engine, "begin", _plainly)
        event.listen(made.sync_engine, "handle_error", _hide_detail)
    else:
        event.listen(made.sync_engine, "do_connect", lambda *arguments: create_private(arguments[2][0]))
    return made


def _names() -> Callable[[], str]:
    """Return what names prepared statements: never twice, for a pooler may give a session of another client's."""
    return map(f"llmctx_{uuid4().hex}_{{}}".format, count()).__next__


def _hide_detail(context: ExceptionContext) -> None:
    """Take PostgreSQL's DETAIL, which repeats a refused row, out of the message: SQLAlchemy before 2.1 leaves it in."""
    for error in (context.sqlalchemy_exception, context.original_exception):
        if error is not None and error.args and isinstance(error.args[0], str):
            error.args = (_DETAIL.sub("", error.args[0]), *error.args[1:])


@asynccontextmanager
async def read_connection(settings: Settings, *, whole: bool = False) -> AsyncIterator[AsyncConnection]:
    """Yield a connection that only reads, with every failure as one of `errors.py`.

    With `whole`, it is an error where policies would hide some rows from the role.
    """
    file, is_connected = sqlite_file(settings), False
    if file is not None and not file.exists():  # connecting would leave an empty file behind
        raise DatabaseUnavailable(
            f"There is no {describe_database(settings)}. Run `llmctx migrate` to make it, or "
            "correct LLMCTX_DATABASE_URL."
        )
    source = engine(settings)
    if whole and settings.is_postgresql:
        event.listen(source.sync_engine, "begin", _begin)
    try:
        probe(settings)
        async with source.connect() as connection:
            is_connected = True
            if settings.is_postgresql:
                await connection.execution_options(postgresql_readonly=True)
            else:
                await connection.execute(text("PRAGMA query_only = ON"))
            yield connection
    except Exception as problem:
        raise explain(problem, settings, asking=is_connected) from problem
    finally:
        await source.dispose()


@asynccontextmanager
async def write_connection(settings: Settings) -> AsyncIterator[AsyncConnection]:
    """Yield a connection that writes, whose statements may take as long as they need; its user commits.

    No statement waits for a lock longer than `LOCK_PATIENCE_S`, and none is shown only some of the rows: where policies
    would hide some from the role, that is an error. Failures are those of `read_connection`.
    """
    file = sqlite_file(settings)
    if file is not None and not file.exists():
        raise DatabaseUnavailable(f"There is no {describe_database(settings)}. Correct LLMCTX_DATABASE_URL.")
    source = engine(settings, patience_s=None)
    if settings.is_postgresql:
        event.listen(source.sync_engine, "begin", _begin)
    try:
        probe(settings)
        async with source.connect() as connection:
            if not settings.is_postgresql:
                await connection.execute(text("PRAGMA busy_timeout = 30000"))
                await connection.execute(text("PRAGMA secure_delete = ON"))  # what goes is to be gone from the file
                await connection.commit()
            yield connection
    except Exception as problem:
        raise explain(problem, settings) from problem
    finally:
        await source.dispose()


def _plainly(connection: Connection) -> None:
    """Have the catalog say `text`, not `"text"`, whatever a database or a role has set: types are compared by name."""
    connection.exec_driver_sql("SELECT pg_catalog.set_config('quote_all_identifiers', 'off', true)")


def _begin(connection: Connection) -> None:
    """Set limits of the transaction, not of the session, which may be another client's next time."""
    connection.exec_driver_sql(
        "SELECT pg_catalog.set_config('lock_timeout', $1, true), pg_catalog.set_config('row_security', 'off', true)",
        (f"{LOCK_PATIENCE_S:.0f}s",),
    )


async def is_pooled(connection: AsyncConnection) -> bool:
    """Return whether a pooler such as pgbouncer stands between, so that another transaction may meet another server."""
    if connection.dialect.name != "postgresql":
        return False
    driver: Any = (await connection.get_raw_connection()).driver_connection
    return bool(await connection.scalar(text("SELECT pg_catalog.pg_backend_pid()")) != driver.get_server_pid())


async def refuse_lent(connection: AsyncConnection, settings: Settings) -> None:
    """Raise `LlmctxError` where each transaction may meet another server: what is kept for a session is lost there."""
    if not settings.is_postgresql or not await is_pooled(connection):
        return
    ask, met = text("SELECT pg_catalog.pg_backend_pid()"), set()
    async with read_connection(settings) as other:
        await other.commit()
        for number in range(4):
            if number == 2:  # it takes the server that a pool would give us again
                await other.execute(ask)
            met.add(await connection.scalar(ask))
            await connection.rollback()
    if len(met) > 1:
        raise LlmctxError(
            f"{describe_database(settings)} is behind a pooler in transaction mode: this command needs a session of "
            "its own. Put the server's own address, or that of a pool in session mode, into LLMCTX_DATABASE_URL for "
            "this command. Nothing was changed."
        )


def compact(file: Path) -> None:
    """Write a SQLite file anew, without what was deleted; left for another time while another process holds it."""
    with closing(sqlite3.connect(file, timeout=5.0)) as connection, contextlib.suppress(sqlite3.OperationalError):
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def probe(settings: Settings) -> None:
    """Open a SQLite file once, in this thread: where that fails, aiosqlite's own thread would outlive the loop."""
    file = sqlite_file(settings)
    if file is not None:
        create_private(file)
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA schema_version")


def take_turns(connection: Connection) -> None:
    """Wait until no other process of ours migrates. Asking twice is asking once; the end of the connection is the end.

    On PostgreSQL the lock is the connection's, and nothing waits for it inside of a statement: building an index beside
    its writers waits for every statement that runs, and would wait for one that waits for us. On SQLite it is a
    transaction.
    """
    if connection.dialect.name == "postgresql":
        told, within = False, connection.in_transaction()  # the caller's own, which is not ours to end
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}):
            if not within:
                connection.rollback()
            if not told:
                logger.warning("llmctx: waiting for another process that is migrating this database")
                told = True
            time.sleep(0.1)
        if not within:
            connection.commit()
        return
    driver = connection.connection.driver_connection
    if driver is not None and not driver.in_transaction:
        connection.exec_driver_sql("PRAGMA busy_timeout = 30000")
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # the driver itself begins nothing before DDL


def end_turn(connection: Connection) -> None:
    """Let the next one in, also where a pooler keeps the connection."""
    if connection.dialect.name == "postgresql" and not connection.invalidated:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock_all()"))
        connection.commit()


def describe_database(settings: Settings) -> str:
    """Return the database in words, without the password: for messages."""
    url = make_url(settings.database_url)
    if not settings.is_postgresql:
        return f"SQLite file {url.database}"
    return f"PostgreSQL at {_address(url)}" + ("" if url.database is None else f', database "{url.database}"')


def _address(url: URL) -> str:
    hosts = url.query.get("host", url.host or "localhost")
    if "service" in url.query and "host" not in url.query and url.host is None:
        return f'service "{url.query["service"]}"'
    if isinstance(hosts, tuple):
        return ", ".join(hosts)
    ports = url.query.get("port", str(url.port or 5432))
    each = zip(hosts.split(","), cycle(ports.split(",") if isinstance(ports, str) else ports), strict=False)
    return ", ".join(f"socket {host}" if host.startswith("/") else f"{host}:{port}" for host, port in each)


def sqlite_file(settings: Settings) -> Path | None:
    """Return the file of a SQLite database; None for PostgreSQL."""
    database = make_url(settings.database_url).database or ""
    return None if settings.is_postgresql or database.startswith("file:") else Path(database)


def explain(problem: Exception, settings: Settings, *, asking: bool = False) -> Exception:
    """Return `problem` as an error that says what to do, or itself when it is none of the database's.

    `asking`: over a connection of ours that only reads.
    """
    if isinstance(problem, LlmctxError):
        return problem
    if "surrogates not allowed" in str(problem):
        return ConfigError("An argument or a setting holds bytes that are not UTF-8. Correct it.")
    state, database = sqlstate(problem), describe_database(settings)
    said = str(getattr(problem, "orig", None) or problem).strip().partition("\n")[0]
    reason = said.rpartition(": ")[2] if said.startswith("<class") else said  # SQLAlchemy puts the class in front
    if state in {"42P01", "42703"} or reason.startswith(("no such table", "no such column")):
        return MigrationsPending(f"{capitalize(reason)} in {database}. Run `llmctx migrate`.")
    if state == "55P03":
        return LlmctxError(f"Another transaction holds a lock in {database} for too long. Try again.")
    if state == "42501" and "row-level security" in reason:
        return LlmctxError(
            f"{capitalize(reason)} in {database}: this role sees only some of the rows. Use the table's owner, or a "
            "role with BYPASSRLS. Nothing was changed."
        )
    if state == "42501":
        role = make_url(settings.database_url).username
        whom = f"the role {role}" if role else "the role"
        needed = "Grant {} the right (to read: SELECT), or use another role."
        if reason.startswith("must be owner"):
            needed = "{} is not its owner: use the one that is."
        elif reason.startswith("permission denied for schema"):
            needed = "Grant {} USAGE there, and CREATE where it is to make tables, or use another role."
        return LlmctxError(f"{capitalize(reason)} in {database}. {capitalize(needed.format(whom))}")
    if asking and isinstance(problem, TimeoutError):
        return DatabaseUnavailable(
            f"No answer within {READ_PATIENCE_S:.0f} s from {database}. Ask for less, such as with --since, or check "
            "that it runs."
        )
    if not asking and (state == "25006" or "during recovery" in reason):
        return LlmctxError(
            f"{database} may only be read ({reason}). Nothing was changed. Put the primary server, or a role that may "
            "write, into LLMCTX_DATABASE_URL."
        )
    if not settings.is_postgresql and isinstance(problem, (ValueError, TypeError)) and "isoformat" in reason:
        return LlmctxError(f"A row in {database} has a time that cannot be read: {reason}. Correct or delete that row.")
    if isinstance(problem, TypeError) and "unexpected keyword argument" in reason:
        return ConfigError(f"LLMCTX_DATABASE_URL has a parameter that asyncpg does not know: {reason}. Take it out.")
    remedy = _remedy(problem, state, settings)
    if remedy is None:
        known = isinstance(problem, (DBAPIError, sqlite3.Error))
        hint = " `llmctx migrate --plan` says which columns are of another type." if state in _OF_OTHER_TYPES else ""
        return LlmctxError(f"{database} refused: {reason}.{hint}") if known else problem
    if isinstance(problem, TimeoutError):
        reason = f"no answer within {settings.connect_timeout_s:g} s"
    return DatabaseUnavailable(f"Cannot use {database}: {reason or type(problem).__name__}. {remedy}")


def _remedy(problem: Exception, state: str, settings: Settings) -> str | None:
    """Return what to do about a database that is not there; None if it is there and something else went wrong."""
    if state == "3D000":
        name = make_url(settings.database_url).database
        return f"Create it (`createdb {name}`), or correct LLMCTX_DATABASE_URL."
    if pools_by_statement(str(problem)):
        return (
            "Set the pooler's pool_mode to transaction or session, or give LLMCTX_DATABASE_URL the server's own port."
        )
    if state.startswith("28"):
        return "Check user and password in LLMCTX_DATABASE_URL."
    if isinstance(problem, socket.gaierror) or is_no_host_name(problem):
        return "Check the host's name in LLMCTX_DATABASE_URL."
    if lacks_connections(state, str(problem)):
        return "It has no connection left: try again later, or raise its limit."
    if state.startswith("53"):
        return "Give it more of what it lacks, or try again later."
    for said, remedy in _HINTS.items():
        if said in str(problem):
            return remedy
    if isinstance(problem, OSError) or state.startswith(("08", "57P")):
        return _CHECK
    if isinstance(problem, DBAPIError) and problem.connection_invalidated:
        return _CHECK
    return next((remedy for said, remedy in _SQLITE.items() if said in str(problem)), None)
