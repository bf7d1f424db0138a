"""The team's own mapping: a CSV file, or the answer to a query, from one of a row's ids to its user and session."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

from llmctx.core.bounded_read import read_text
from llmctx.core.errors import ConfigError
from llmctx.core.text import counted

KEYS: Final = ("call_id", "run_id", "trace_id", "thread_id", "conversation_id", "session_id")
"""What a row can be found by."""
VALUES: Final = ("user_id", "session_id")
QUERY: Final = "The answer to --map-query"
_READING: Final = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
_MOST_BYTES: Final = 256 << 20
_HOW: Final = (
    "Write one column to find rows by (call_id, run_id, trace_id, thread_id, conversation_id or session_id) and "
    "user_id, session_id or both"
)


class MappingRow(NamedTuple):
    """One line: what to find rows by, and what they get."""

    key: str
    user: str | None
    session: str | None


class Mapping:
    """Lines with their titles. Raises `ConfigError` for titles that make no sense."""

    def __init__(self, titles: Sequence[str], lines: Iterable[Sequence[Any]], origin: str) -> None:
        names = [title.strip().lower() for title in titles]
        strange = [name or '""' for name in names if name not in (*KEYS, *VALUES)]
        if strange or len(set(names)) != len(names):
            raise ConfigError(f"{origin} has the columns {', '.join(names) or 'none'}. {_HOW}.")
        others = [name for name in names if name in KEYS and name != "session_id"]
        keys = others or [name for name in names if name == "session_id"]
        values = [name for name in names if name in VALUES and name not in keys]
        if len(keys) != 1 or not values:
            raise ConfigError(f"{origin} has the columns {', '.join(names)}. {_HOW}.")
        self.key = keys[0]
        self._names = names
        self._lines = lines
        self._origin = origin
        self.blank = 0
        """Lines that say nothing."""

    def __iter__(self) -> Iterator[MappingRow]:
        for number, line in enumerate(self._lines, 2):
            if len(line) != len(self._names):
                raise ConfigError(
                    f"{self._origin}, line {number}: {counted(len(line), 'value')} for "
                    f"{counted(len(self._names), 'column')}. Nothing was changed: correct that line."
                )
            told = dict(zip(self._names, map(_text, line), strict=True))
            key, user = told[self.key], told.get("user_id")
            session = told.get("session_id") if self.key != "session_id" else None
            if key is None or (user is None and session is None):
                self.blank += 1
            else:
                yield MappingRow(plain_id(key) if self.key in ("call_id", "run_id") else key, user, session)


def _text(value: Any) -> str | None:
    text = "" if value is None else str(value)
    return text if text.strip() else None


def plain_id(text: str) -> str:
    """Return a UUID in one spelling; anything else as it is."""
    try:
        return str(UUID(text.strip()))
    except ValueError:
        return text


def from_csv(path: Path) -> Mapping:
    """Read a mapping. Raises `ConfigError` for a file that is missing, empty or no CSV in UTF-8."""
    try:
        text = read_text(path, _MOST_BYTES, "utf-8-sig")
    except OSError as problem:
        raise ConfigError(f"--map {path}: {problem.strerror}.") from None
    except ValueError:  # also a path that no file can have
        raise ConfigError(f"--map {path} is not text in UTF-8.") from None
    try:
        lines = list(csv.reader(text.splitlines(keepends=True), strict=True))
    except csv.Error as problem:
        raise ConfigError(f"--map {path} is not CSV: {problem}.") from None
    if not lines:
        raise ConfigError(f"--map {path} is empty. {_HOW}.")
    return Mapping(lines[0], [line for line in lines[1:] if line], f"--map {path}")


def from_sqlite(file: Path, query: str) -> Mapping:
    """Ask a SQLite file, which nothing in `query` can change. Raises `ConfigError` for what is no query."""

    def may(action: int, *_: object) -> int:
        return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY

    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            connection.set_authorizer(may)
            found = connection.execute(query)
            titles, rows = [title for title, *_ in found.description or ()], found.fetchall()
    except (sqlite3.Error, sqlite3.Warning, ValueError) as problem:
        raise ConfigError(f"--map-query failed: {problem}. It may only read. Nothing was changed.") from None
    if not titles:
        raise ConfigError("--map-query returns no rows: write a query. Nothing was changed.")
    return Mapping(titles, rows, QUERY)
