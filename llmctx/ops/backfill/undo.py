"""The file that takes a backfill back: a line for each row, written before the row is changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sqlalchemy import Table

from llmctx.core.errors import ConfigError, LlmctxError
from llmctx.core.jsonable import scalar
from llmctx.core.record import IDS
from llmctx.storage.convert import from_json
from llmctx.storage.reflection import lasting_key, overflow_column, physical_position

_KIND: Final = "llmctx backfill"
_HEAD: Final = 4096  # characters of the first line, at most: what is no undo file may have no end of line
COLUMNS: Final = (
    "user_id", "session_id", "llmctx_user_id", "llmctx_session_id", "identity_source", "identity_reason",
)  # fmt: skip


def default_path() -> Path:
    """Return a path in the working directory, named for the time."""
    return Path(f"llmctx-backfill-{datetime.now(UTC):%Y%m%dT%H%M%S}.jsonl")


class UndoFile:
    """Made with the first line. Raises `LlmctxError` if it cannot be written: then nothing is changed."""

    def __init__(self, path: Path, table: Table) -> None:
        self.path = path
        self._table = table
        self._file: Any = None

    def note(self, rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]]) -> None:
        """Keep the key, the new and the old values of `rows`, on disk when this returns."""
        try:
            if self._file is None:
                fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                self._file = os.fdopen(fd, "w", encoding="utf-8")
                self._file.write(_line({"undo": _KIND, "table": self._table.fullname, "at": datetime.now(UTC)}))
            passing = len(physical_position(self._table))
            for key, new, old in rows:
                self._file.write(_line({"key": list(key.values())[passing:], "set": new, "was": old}))
            self._file.flush()
            os.fdatasync(self._file.fileno())
        except OSError as problem:
            raise LlmctxError(
                f"The undo file {self.path} cannot be written: {os.strerror(problem.errno or 0)}. The rows of this "
                "step were not changed. Name another one with --undo-file."
            ) from problem

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, default=scalar) + "\n"


def lines(path: Path, table: Table) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Yield key parameters, what was set, and what was there before. Raises `ConfigError` for any other file.

    A last line that is torn was never acted upon.
    """
    try:
        with path.open(encoding="utf-8") as file:
            head = _read(file.readline(_HEAD))
            if head is None or head.get("undo") != _KIND:
                raise ConfigError(f"{path} is not an undo file of `llmctx backfill`. Nothing was changed.")
            if head.get("table") != table.fullname:
                raise ConfigError(
                    f"{path} is for table {head.get('table')}, not {table.fullname}. Nothing was changed."
                )
            for text in file:
                told = _read(text)
                if told is None:
                    continue
                columns = lasting_key(table)
                if not {"key", "set", "was"} <= told.keys() or len(told["key"]) != len(columns):
                    raise ConfigError(f"{path} does not fit the table: has its primary key changed?")
                pairs = zip(columns, told["key"], strict=True)
                try:
                    key = {f"key_{n}": from_json(column, value) for n, (column, value) in enumerate(pairs)}
                    new, old = (_typed(table, _where_now(table, told[name])) for name in ("set", "was"))
                except (ValueError, TypeError, ArithmeticError, AttributeError):
                    raise ConfigError(f"{path} does not fit the table: has a column's type changed?") from None
                yield key, new, old
    except OSError as problem:
        raise ConfigError(f"{path}: {problem.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not an undo file of `llmctx backfill`. Nothing was changed.") from None


def _read(text: str) -> dict[str, Any] | None:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _where_now(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` by today's columns: what stood beside a number is in the column itself since that became text."""
    found = dict(values)
    for name in IDS:
        beside = f"llmctx_{name}"
        if beside in found and name in table.c and overflow_column(table, name) is None:
            found[name] = found[beside]
            if beside not in table.c:
                del found[beside]
    return found


def _typed(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` as the columns have them; a name that the table has not stays, for the caller to refuse."""
    return {name: from_json(table.c[name], value) if name in table.c else value for name, value in values.items()}
