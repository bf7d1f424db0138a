"""The meaning of a database's failures, by SQLSTATE where they have one.

- *reconnect*: the connection is of no use: the server has gone, or may only be read. Drop the pool, wait, try again.
- *transient*: the database is busy or full. Wait with backoff, try again.
- *config*: the table or a column is missing, rights are missing. Keep, say so once, loudly, try again.
- *poison*: seems to follow the row; whatever PostgreSQL itself raises that is not known to be something else, for a
  trigger may raise any code.

The last two say what to look into, not what is to blame: `delivery/bisect.py` finds out whether it is the rows or the
table.

Poolers and distributed servers have codes of their own, and report outages under such as stand for something else:
`XX000` is what Supabase, Neon and Yugabyte say, `08P01` what pgbouncer says. No row is to blame for what a server says
of itself: a row that such a failure follows waits, and lets the others pass.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from sqlalchemy.exc import DBAPIError

from llmctx.core.errors import ConfigError, MigrationsPending
from llmctx.core.failure import Failure, Kind

# 24, 26, 34 and 42P05: a pooler has moved us to another server, which does not know our statement, or knows another's;
# 03, 0B, 2D and 3B: or into another transaction; F0: a server is being started; XX001 and XX002: its files are damaged
_RECONNECT: Final = (
    "08", "57P", "25", "26", "34", "24", "42P05", "03", "2D", "3B", "0B", "F0", "XX001", "XX002", "OC", "CR", "YB",
)  # fmt: skip
_TRANSIENT: Final = ("53", "40", "55", "57", "58", "72", "HV00N", "HV00L", "HV00M", "HV000")
_CONFIG: Final = ("42", "28", "3D", "3F", "0A", "0L", "0P")
_OF_ROWS: Final = ("02", "21", "22", "23", "27", "38", "39", "44", "54", "P0")
_CROWDED: Final = r"too many (?:clients|connections)|(?:no more|max(?:imum)?)[ a-z]* (?:clients?|connections?)"
_OF_SERVERS: Final = re.compile(
    r"shutting down|starting up|read-?only|not (?:the )?(?:leader|primary)|no (?:leader|primary)|unavailable"
    rf"|unreachable|{_CROWDED}"
    r"|connections? (?:allowed|limit|refused|reset|closed|lost)|pool(?:er)? |time[d-]? ?-?out|login has been failing"
    r"|tenant or user not found|circuit ?breaker|failover|restart transaction|retry|could(?: not|n'?t) connect"
    r"|broken pipe|(?:compute|remote|worker) node|econn(?:refused|reset)"
    r"|connection marked as essential|active placements|connection error",
    re.IGNORECASE,
)
"""Words of servers and poolers about themselves. Read only where the code is of no known class: rows may be quoted."""
_OF_NODES: Final = re.compile(
    r"(?:^|/)(?:connection_management|remote_(?:transaction|commands)|placement_connection"
    r"|transaction_(?:management|recovery)|cdb\w+|(?:pg_)?yb\w+)\.c$|\.go$"
)
"""Files of distributed servers (Citus, Greenplum, Yugabyte; all of CockroachDB) that deal with other nodes: what they
raise without a code of their own is of no row."""
_NO_CONNECTION: Final = re.compile(rf"{_CROWDED}|connection limit|remaining connection slots", re.IGNORECASE)
_REMEDIES: Final = {
    "28": "correct user and password, in LLMCTX_DATABASE_URL or in the file that it names",
    "3D000": "create the database, or correct LLMCTX_DATABASE_URL",
    "42501": "GRANT INSERT on the table to this role: `llmctx doctor` has the statement",
    "42P01": "run `llmctx migrate`",
    "42703": "run `llmctx migrate`",
}
"""What to do about failures of kind *config*, by SQLSTATE."""
_BY_STATEMENT: Final = "statement pooling mode"
"""pgbouncer's words where each statement may meet another server: no driver that prepares statements can work there."""
_NO_PARTITION: Final = "no partition of relation"


def classify(problem: BaseException) -> Failure:
    """Return what a failure of the database means, by its SQLSTATE where it has one."""
    if isinstance(problem, MigrationsPending):
        return Failure("config", "42P01", "the table is missing or behind", remedy=_REMEDIES["42P01"])
    if isinstance(problem, ConfigError):
        return Failure("config", "ConfigError", str(problem))
    original = problem.orig if isinstance(problem, DBAPIError) and problem.orig is not None else problem
    code = sqlstate(original)
    driver = original.__cause__ if getattr(original.__cause__, "sqlstate", None) else original  # SQLAlchemy wraps it
    # asyncpg cannot end a transaction whose connection has gone, and says so: why it has gone was said before
    said = (original.__context__ if type(original).__name__ == "InterfaceError" else None) or original
    text = (str(said) or type(said).__name__).strip().splitlines()[0][:300]
    file = getattr(driver, "server_source_filename", None) or ""
    is_servers = getattr(driver, "server_source_function", None) is not None and _OF_NODES.search(file) is None
    kind = _kind(code, text, is_servers=is_servers) if code else _kind_without_code(original, text.lower())
    remedy = next((remedy for starts, remedy in _REMEDIES.items() if kind == "config" and code.startswith(starts)), "")
    is_deferrable = _lacks_partition(code, driver, text)
    return Failure(kind, code or type(original).__name__, text, _name(driver), is_deferrable, remedy)


def _kind(code: str, text: str, *, is_servers: bool) -> Kind:
    """Return what `code` means; `is_servers` where the error names the function of PostgreSQL's that raised it."""
    if pools_by_statement(text):
        return "config"
    kinds: dict[Kind, tuple[str, ...]] = {"reconnect": _RECONNECT, "transient": _TRANSIENT, "config": _CONFIG}
    kind: Kind = next((kind for kind, starts in kinds.items() if code.startswith(starts)), "poison")
    if kind == "poison" and not code.startswith(_OF_ROWS):
        if not is_servers:
            return "reconnect"  # a pooler's own word, or about nodes: it has seen no row
        if _OF_SERVERS.search(text):
            return "transient"
    return kind


def pools_by_statement(text: str) -> bool:
    """Return whether a failure with this text means that a pooler gives each statement a server of its own."""
    return _BY_STATEMENT in text


def lacks_connections(code: str, text: str) -> bool:
    """Return whether a failure with this code and text means that a server or a pooler has no connection left."""
    return code == "53300" or (not code.startswith(_OF_ROWS) and _NO_CONNECTION.search(text) is not None)


def _name(problem: BaseException | None) -> str:
    about = [
        str(value)
        for field in ("table_name", "column_name", "constraint_name")
        if (value := getattr(problem, field, None))
    ]
    return " ".join([type(problem).__name__, *about])


def _lacks_partition(code: str, problem: BaseException | None, text: str) -> bool:
    # the server may speak any language, but its functions have one name
    where = getattr(problem, "server_source_function", None)
    return code == "23514" and (where == "ExecFindPartition" or _NO_PARTITION in text)


def sqlstate(problem: BaseException) -> str:
    """Return the SQLSTATE of `problem`, from the driver's error or from those around it; empty without one."""
    seen = 0
    current: BaseException | None = problem
    while current is not None and seen < 5:
        code = getattr(current, "sqlstate", None) or getattr(current, "pgcode", None)
        if isinstance(code, str) and code:
            return code
        current, seen = getattr(current, "orig", None) or current.__cause__, seen + 1
    return ""


_WORDS: Final[tuple[tuple[Kind, tuple[str, ...]], ...]] = (
    ("config", ("no such table", "no column named", "readonly database", "unable to open", "not a database")),
    ("transient", ("locked", "busy", "disk is full")),
)


def is_no_host_name(problem: BaseException) -> bool:
    """Return whether Python could not even look up a host, such as "db..example" or one with a part of 64 letters."""
    return isinstance(problem, UnicodeError) and "'idna' codec" in str(problem)


def _kind_without_code(problem: BaseException, text: str) -> Kind:
    """Judge the errors of SQLite, sockets and drivers, which have no SQLSTATE."""
    for kind, words in _WORDS:
        if any(word in text for word in words):
            return kind
    # UnicodeDecodeError: of a server that tells what ails it in another encoding; ours go out, and are encoded
    if isinstance(problem, (OSError, TimeoutError, asyncio.TimeoutError, EOFError, UnicodeDecodeError)) or (
        is_no_host_name(problem)
    ):
        return "reconnect"
    refusals = isinstance(problem, (ValueError, TypeError, ArithmeticError, RecursionError))
    named = type(problem).__name__ in ("IntegrityError", "DataError")
    return "poison" if refusals or named or "binding parameter" in text else "reconnect"
