"""What a failure of the database means, by its SQLSTATE where it has one.

- *reconnect* and *transient*: the database is away, busy, or read-only. Keep, wait with backoff, try again.
- *config*: the table or a column is missing, rights are missing. Keep, say so once, loudly, try again.
- *poison*: a row that the database will never take. The others of its batch must not suffer for it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from sqlalchemy.exc import DBAPIError

from llmctx.errors import MigrationsPending
from llmctx.record import COLUMNS

_RECONNECT: Final = ("08", "57P", "25006", "57014")
_TRANSIENT: Final = ("53", "40", "55")
_CONFIG: Final = ("42", "28", "3D", "3F", "0A")
_SQLITE_NOT_NULL: Final = "NOT NULL constraint failed"
_NO_PARTITION: Final = "no partition of relation"


@dataclass(slots=True, frozen=True)
class Trouble:
    """What a failed statement means. `kind`: reconnect, transient, config or poison."""

    kind: str
    code: str
    text: str


def classify(problem: BaseException) -> Trouble:
    """What a failure of the database means, by its SQLSTATE where it has one."""
    if isinstance(problem, MigrationsPending):
        return Trouble("config", "42P01", "the table is missing or behind")
    original = problem.orig if isinstance(problem, DBAPIError) and problem.orig is not None else problem
    code = sqlstate(original)
    text = (str(original) or type(original).__name__).strip().splitlines()[0][:300]
    if not code:
        return _without_code(original, text)
    if code.startswith(_RECONNECT):
        return Trouble("reconnect", code, text)
    if code.startswith(_TRANSIENT):
        return Trouble("transient", code, text)
    if code.startswith(_CONFIG) or _NO_PARTITION in text or _is_strange_column(code, original, text):
        return Trouble("config", code, text)
    return Trouble("poison", code, text)


def _is_strange_column(code: str, problem: BaseException, text: str) -> bool:
    """Whether a column that is not ours must not be empty: no row would ever be stored, so none is to blame."""
    if code == "23502":
        return getattr(problem, "column_name", None) not in COLUMNS
    return code == _SQLITE_NOT_NULL and text.rpartition(".")[2] not in COLUMNS


def sqlstate(problem: BaseException) -> str:
    """The SQLSTATE of `problem`, from the driver's error or from those around it; empty without one."""
    seen = 0
    current: BaseException | None = problem
    while current is not None and seen < 5:
        code = getattr(current, "sqlstate", None)
        if isinstance(code, str) and code:
            return code
        current, seen = getattr(current, "orig", None) or current.__cause__, seen + 1
    return ""


def _without_code(problem: BaseException, text: str) -> Trouble:
    """SQLite's errors, and those of sockets and drivers, have no SQLSTATE."""
    name = type(problem).__name__
    lowered = text.lower()
    if "no such table" in lowered or "no column named" in lowered or "readonly database" in lowered:
        return Trouble("config", name, text)
    if "unable to open" in lowered or "not a database" in lowered:
        return Trouble("config", name, text)
    if "locked" in lowered or "busy" in lowered:
        return Trouble("transient", name, text)
    if isinstance(problem, (OSError, TimeoutError, asyncio.TimeoutError, EOFError)) or "connection" in lowered:
        return Trouble("reconnect", name, text)
    if text.startswith(_SQLITE_NOT_NULL) and _is_strange_column(_SQLITE_NOT_NULL, problem, text):
        return Trouble("config", name, text)
    if "binding parameter" in lowered:
        return Trouble("poison", name, text)
    if isinstance(problem, (ValueError, TypeError, OverflowError)) or name in ("IntegrityError", "DataError"):
        return Trouble("poison", name, text)
    return Trouble("reconnect", name, text)
