"""Hands rows out: as JSON lines, CSV, Parquet or a SQLite file, streamed, in constant memory.

Read through a server-side cursor, in one transaction: what is handed out is what was there at its start, whatever is
written meanwhile. The file appears under its name when it is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.util import find_spec
from itertools import chain
from itertools import count as counting
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import orjson
from sqlalchemy import Boolean, ColumnElement, DateTime, Double, Float, Integer, Numeric, String, select
from sqlalchemy.types import TypeDecorator

from llmctx.core.csv_text import csv_line
from llmctx.core.errors import ConfigError, LlmctxError
from llmctx.core.jsonable import scalar
from llmctx.core.text import escape_controls
from llmctx.settings import Settings
from llmctx.storage.engine import engine, explain, probe, read_connection
from llmctx.storage.filters import Filters
from llmctx.storage.reflection import all_columns, count_rows, reflect

Format = Literal["jsonl", "csv", "parquet", "sqlite"]
FORMATS: Final[tuple[Format, ...]] = ("jsonl", "csv", "parquet", "sqlite")
SUFFIXES: Final[dict[str, Format]] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet",
    ".sqlite": "sqlite", ".db": "sqlite", ".sqlite3": "sqlite",
}  # fmt: skip
_FEWEST, _MOST = 20, 500  # rows at a time: one may hold megabytes
_CHARACTERS_AT_ONCE: Final = 2 * 1024 * 1024
_Row = Sequence[Any]
_Columns = Sequence[ColumnElement[Any]]


class Writer(Protocol):
    """A file that takes rows in the order of the columns."""

    def write(self, rows: Sequence[_Row]) -> None: ...


async def count(settings: Settings, filters: Filters) -> int:
    """Return how many rows `export` would hand out now."""
    async with read_connection(settings) as connection:
        table = await reflect(connection, settings)
        return await count_rows(connection, table, filters.clause(table))


async def export(
    settings: Settings,
    filters: Filters,
    to: Path | None,
    form: Format,
    *,
    progress: Callable[[int], None] = lambda more: None,
) -> int:
    """Write the rows that `filters` names to a new file, or to stdout. Returns how many there were.

    Oldest first, month by month; within a month as they came in, which is hardly another order, unless it is about
    a user: to sort what an index has not sorted, the database would write all of it down once more.

    Raises `ConfigError` for what cannot be written, `LlmctxError` where a file is in the way.
    """
    if to is None and form in ("parquet", "sqlite"):
        raise ConfigError(f"{form} cannot be written to a terminal or a pipe: name a file with --to.")
    if form == "parquet" and find_spec("pyarrow") is None:
        raise ConfigError('Parquet needs an extra: pip install "llmctx[parquet]". Or choose jsonl, csv or sqlite.')
    source = engine(settings, patience_s=None)
    done = 0
    try:
        probe(settings)
        async with source.connect() as connection:
            if settings.is_postgresql:
                await connection.execution_options(postgresql_readonly=True, isolation_level="REPEATABLE READ")
            table = await reflect(connection, settings)
            columns = all_columns(table)
            wanted = select(*columns).where(filters.clause(table))
            if not settings.is_postgresql or any((filters.user, filters.session, filters.thread, filters.trace)):
                wanted = wanted.order_by(table.c.created_at, table.c.call_id)
            # what the database refuses, it refuses before anything is written
            async with connection.stream(wanted.execution_options(max_row_buffer=_FEWEST)) as rows:
                with _opened(to, form, table.name, columns) as writer:
                    number = _FEWEST
                    while some := await rows.fetchmany(number):
                        writer.write(some)
                        done += len(some)
                        progress(len(some))
                        seen = some[:: 1 + len(some) // 50]
                        size = sum(len(value) for row in seen for value in row if type(value) is str)
                        number = max(_FEWEST, min(_MOST, 2 * number, _CHARACTERS_AT_ONCE * len(seen) // (size + 1)))
    except Exception as problem:
        raise explain(problem, settings) from problem
    finally:
        await source.dispose()
    return done


@contextmanager
def _opened(to: Path | None, form: Format, name: str, columns: _Columns) -> Iterator[Writer]:
    """Open a writer of a file that gets its name when all is in it; only its owner may read it, for it has prompts."""
    if to is None:
        yield _TEXTS[form](sys.stdout, columns)
        return
    if to.exists():
        raise LlmctxError(f"{to} already exists. Nothing was written: choose another name, or remove it.")
    partial = to.with_name(f".{to.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as problem:
        raise LlmctxError(f"{to} cannot be written: {os.strerror(problem.errno or 0)}.") from problem
    try:
        with contextlib.ExitStack() as stack:
            if form == "sqlite":
                yield stack.enter_context(_Database(partial, name, columns))
            elif form == "parquet":
                yield stack.enter_context(_Parquet(partial, columns))
            else:
                yield _TEXTS[form](stack.enter_context(partial.open("w", encoding="utf-8", newline="")), columns)
        try:
            os.link(partial, to)  # unlike a rename this never takes the place of another file
        except FileExistsError:
            raise LlmctxError(f"{to} was created in the meantime. Nothing was written: choose another name.") from None
        except OSError:  # a file system without links
            partial.rename(to)
    except OSError as problem:
        raise LlmctxError(f"{to} cannot be written: {os.strerror(problem.errno or 0)}.") from problem
    finally:
        partial.unlink(missing_ok=True)


def _flat(value: Any) -> Any:
    value = scalar(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


class _Flattened:
    """Rows whose values are texts and numbers: only columns of other types are looked at."""

    def __init__(self, columns: _Columns) -> None:
        self._others = [n for n, column in enumerate(columns) if not _is_flat(column.type)]

    def __call__(self, rows: Sequence[_Row]) -> Iterator[list[Any]]:
        for row in rows:
            values = list(row)
            for n in self._others:
                if values[n] is not None:
                    values[n] = _flat(values[n])
            yield values


def _is_flat(kind: Any) -> bool:
    exact = isinstance(kind, Numeric) and kind.asdecimal
    return isinstance(kind, (String, Integer, Boolean, Float, Double)) and not exact


class _Lines:
    """One JSON document a line."""

    def __init__(self, file: Any, columns: _Columns) -> None:
        self._file, self._names = file, [str(column.name) for column in columns]  # orjson wants no others

    def write(self, rows: Sequence[_Row]) -> None:
        names = self._names
        text = "".join([_line(dict(zip(names, row, strict=True))) for row in rows])
        self._file.write(escape_controls(text, breaks=True, for_json=True))


def _line(values: dict[str, Any]) -> str:
    try:
        return orjson.dumps(values, default=scalar, option=orjson.OPT_APPEND_NEWLINE).decode()
    except TypeError:  # a number of more than 64 bits, or half of a surrogate pair
        finite = {name: None if value != value else scalar(value) for name, value in values.items()}
        return json.dumps(finite, ensure_ascii=False, default=str) + "\n"


class _Csv:
    """A line of titles, then one a row; NULL is nothing, an empty text is ""."""

    def __init__(self, file: Any, columns: _Columns) -> None:
        self._file, self._flat = file, _Flattened(columns)
        file.write(csv_line(column.name for column in columns))

    def write(self, rows: Sequence[_Row]) -> None:
        self._file.write("".join([csv_line(row) for row in self._flat(rows)]))


_TEXTS: Final[dict[str, Callable[[Any, _Columns], Writer]]] = {"jsonl": _Lines, "csv": _Csv}


class _Database:
    """A SQLite file with one table, of the same name and columns."""

    def __init__(self, path: Path, name: str, columns: _Columns) -> None:
        self._connection, self._flat = sqlite3.connect(path), _Flattened(columns)
        names = list[str]()
        for column in columns:  # SQLite does not tell "ID" from "id"
            taken = {one.lower() for one in names}
            others = (f"{column.name}_{number}" for number in counting(2))
            names.append(next(one for one in chain((column.name,), others) if one.lower() not in taken))
        made = ", ".join(f"{_quoted(one)} {_affinity(column.type)}" for one, column in zip(names, columns, strict=True))
        self._connection.execute(f"CREATE TABLE {_quoted(name)} ({made})")
        marks = ", ".join("?" * len(columns))
        self._statement = f"INSERT INTO {_quoted(name)} VALUES ({marks})"  # noqa: S608  quoted

    def write(self, rows: Sequence[_Row]) -> None:
        self._connection.executemany(self._statement, self._flat(rows))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, problem: object, trace: object) -> None:
        if kind is None:
            self._connection.commit()
        self._connection.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _affinity(kind: Any) -> str:
    kind = kind.impl if isinstance(kind, TypeDecorator) else kind
    if isinstance(kind, (Integer, Boolean)):
        return "INTEGER"
    return "REAL" if isinstance(kind, (Float, Double)) else "TEXT"


class _Parquet:
    """Columns of their own types; JSON and exact numbers as text."""

    def __init__(self, path: Path, columns: _Columns) -> None:
        import pyarrow
        import pyarrow.parquet

        self._arrow = pyarrow
        self._schema = pyarrow.schema([(column.name, self._kind(column.type)) for column in columns])
        self._file = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")

    def _kind(self, kind: Any) -> Any:
        kind = kind.impl if isinstance(kind, TypeDecorator) else kind
        arrow = self._arrow
        if isinstance(kind, Boolean):
            return arrow.bool_()
        if isinstance(kind, Integer):
            return arrow.int64()
        if isinstance(kind, (Float, Double)) and not (isinstance(kind, Numeric) and kind.asdecimal):
            return arrow.float64()
        return arrow.timestamp("us", tz="UTC") if isinstance(kind, DateTime) else arrow.string()

    def write(self, rows: Sequence[_Row]) -> None:
        if rows:
            columns = [
                self._arrow.array([_for_arrow(value) for value in column], field.type)
                for column, field in zip(zip(*rows, strict=True), self._schema, strict=True)
            ]
            self._file.write_table(self._arrow.Table.from_arrays(columns, schema=self._schema))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, problem: object, trace: object) -> None:
        self._file.close()


def _for_arrow(value: Any) -> Any:
    return value if isinstance(value, datetime) else _flat(value)
