"""The table as it stands: which of our columns it has, of which types, and with which unique keys.

The host's table may lack columns of ours, have them in other types, or be written to by rules, triggers and policies.
`fetch_table_shape` asks `pg_catalog`, which every role may read (`information_schema` shows only what a role has rights
to). What has changed under load is seen as a `TableShape` that differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from operator import attrgetter
from typing import Any, Final

import orjson
from sqlalchemy import Table, inspect
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import NoSuchTableError

from llmctx.core.columns import ColumnKind
from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import MigrationsPending
from llmctx.core.record import COLUMNS, IDS, CallRecord, note_changes, of_kind
from llmctx.core.scheduling import yielding
from llmctx.delivery.destination import Row
from llmctx.delivery.destinations.sql import texts_apart
from llmctx.delivery.destinations.sql.charset import characters, storable
from llmctx.delivery.destinations.sql.connection import Connection, Session
from llmctx.delivery.destinations.sql.texts_apart import TextsTable
from llmctx.storage import catalog
from llmctx.storage.convert import (
    Converter,
    Lossy,
    converter,
    discard,
    enum_value,
    is_known,
    lossless,
    only_overflow,
    placeholder,
)
from llmctx.storage.db_errors import sqlstate
from llmctx.storage.distribution import DISTRIBUTED, INSTALLED
from llmctx.storage.sanitize import storable_json
from llmctx.storage.table import call_log_table

_LOOK: Final = catalog.COLUMNS.replace(":table", "$1")  # as the driver itself names a parameter
_LOOK_AT_KEYS: Final = catalog.UNIQUE_KEYS.replace(":table", "$1")
_DIGEST: Final = catalog.DIGEST.replace(":table", "$1")
_DISTRIBUTED: Final = DISTRIBUTED.replace(":table", "$1")
_NATIVE: Final = {
    "Uuid": "uuid", "UtcTime": "timestamp with time zone", "Text": "text", "Double": "double precision",
    "Integer": "integer", "Boolean": "boolean", "Money": "numeric(18,9)", "JSON": "jsonb",
}  # fmt: skip

_OVERFLOW: Final = {f"llmctx_{name}": name for name in IDS}
"""Columns that `llmctx migrate` adds beside ids that are numbers: for those that are none."""
_SHARD: Final = re.compile(r"(?P<name>.+)_\d+")
_CUT: Final = re.compile(r"(?P<name>.+)_[0-9a-f]{8}")
_LONGEST_NAME: Final = 50  # bytes; of a name that is cut at 63, characters of several bytes may leave fewer
_OF_A_KEY: Final = ("23505", "XX000")
_QUOTED: Final = re.compile(r"[\"«„“]\s?([^\"«»„“”]+?)\s?[\"»“”]")
_OTHER_JSON: Final = frozenset(of_kind(ColumnKind.JSON)) - {"attributes"}
"""Columns of JSON whose text is not made beforehand."""


@dataclass(frozen=True, slots=True)
class TableShape:
    """The shape of a table, and the insert for it. Two that are equal want the same insert."""

    table: str
    """Its name as it stands in a statement: quoted, with the schema."""
    types: dict[str, str]
    """The types of those of our columns that it has, as PostgreSQL's `format_type` names them, by column."""
    is_plain: bool = False
    """Nothing stands there that would treat COPY unlike INSERT: no rule, no policy."""
    is_distributed: bool = False
    """Citus has spread it over nodes."""
    keys: frozenset[str] = frozenset()
    """The names of the call's own unique keys."""
    host_keys: frozenset[str] = frozenset()
    """The names of other unique keys."""
    host_key_columns: frozenset[str] = frozenset()
    """Columns of other unique keys."""
    has_host_keys: bool = False
    """There are other unique keys, or such as ON CONFLICT cannot use."""
    computed_columns: frozenset[str] = frozenset()
    """Those of our columns that the database fills by itself."""
    characters: frozenset[str] | None = None
    """All characters that the database can store; None for every one."""
    enum_labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By column whose type is neither known here nor a kind of text: the labels of an enumerated type, else none."""
    texts: TextsTable | None = None
    """The table in which texts are stored; None where they are stored in their rows."""
    digest: str | None = field(default=None, compare=False)
    """Of what the catalogue says of the table: as long as it stays the same, nothing has changed."""
    columns: tuple[str, ...] = field(init=False, compare=False)
    statement: str = field(init=False, compare=False)
    _converters: tuple[tuple[int, str, Converter], ...] = field(init=False, compare=False)
    _get: Callable[[CallRecord], tuple[Any, ...]] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        overflow_columns = [name for name, of in _OVERFLOW.items() if name in self.types and of in self.types]
        names = [*COLUMNS[:-1], *overflow_columns, COLUMNS[-1]]  # `attributes` is the last of them
        columns = tuple(name for name in names if name in self.types)
        put = object.__setattr__
        put(self, "columns", columns)
        quote = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it bare
        quoted = ", ".join(quote.quote(name) for name in columns)
        values = ", ".join(placeholder(at, self.types[name]) for at, name in enumerate(columns, 1))
        passing = "" if self.has_host_keys else " ON CONFLICT DO NOTHING"
        put(self, "statement", f"INSERT INTO {self.table} ({quoted}) VALUES ({values}){passing}")  # noqa: S608
        put(self, "_converters", tuple(self._column_converters()))
        named = [_OVERFLOW.get(name, name) for name in columns if name != "attributes"]
        put(self, "_get", attrgetter(*(named or IDS)))  # `fetch_table_shape` refuses a table that has none

    def with_texts(self, texts: TextsTable | None) -> TableShape:
        """Return the same with `texts` to store texts in, as far as they can stand there."""
        fits = texts is not None and texts_apart.can_hold(self.types, texts)
        return replace(self, texts=texts if fits else None)

    def _column_converters(self) -> Iterator[tuple[int, str, Converter]]:
        for at, name in enumerate(self.columns):
            of = _OVERFLOW.get(name, name)
            if of in _OTHER_JSON and self.types[of] in ("json", "jsonb"):
                yield at, name, storable_json
                continue
            if self.types[of] == _ours()[of]:
                if of != name:  # the id itself is text, and holds them all
                    yield at, name, discard
                continue
            convert = enum_value(self.enum_labels[of]) if of in self.enum_labels else converter(of, self.types[of])
            if of != name:
                yield at, name, only_overflow(convert)
            else:
                yield at, name, lossless(convert) if f"llmctx_{name}" in self.columns else convert

    @property
    def missing_columns(self) -> list[str]:
        """Return the names of our columns that the table lacks."""
        return [name for name in COLUMNS if name not in self.types and name not in self.computed_columns]

    def is_of_the_call(self, problem: Exception) -> bool:
        """Return whether a row was refused because its call is there already."""
        name = getattr(problem, "constraint_name", None) or _quoted_name(problem)
        return name in self.keys or (name not in self.host_keys and self._is_of_a_shard(name))

    def _is_of_a_shard(self, name: str) -> bool:
        """Return whether `name` is of our keys on a shard of Citus's: with its number, and a hash where it is long."""
        if (shard := _SHARD.fullmatch(name)) is None:
            return False
        if shard["name"] in self.keys:
            return True
        cut = _CUT.fullmatch(shard["name"])
        return cut is not None and len(name) >= _LONGEST_NAME and self._begins(cut["name"])

    def _begins(self, name: str) -> bool:
        return any(key.startswith(name) for key in self.keys) and not any(
            key.startswith(name) for key in self.host_keys
        )

    def without_host_keys(self, record: CallRecord) -> CallRecord:
        """Return `record` as far as it meets no key but its call's."""
        nothing: dict[str, Any] = dict.fromkeys(self.host_key_columns.intersection(COLUMNS))
        return replace(record, **nothing)

    @property
    def by_copy(self) -> bool:
        """Return whether COPY does what INSERT does."""
        return self.is_plain and all(map(is_known, self.types.values()))

    def values(self, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
        """Return the values of `rows`, in the order of `columns`, as the table takes them."""
        get = self._get
        if "attributes" in self.types:
            made = [(*get(row.record), row.attributes_json) for row in rows]
        else:
            made = [get(row.record) for row in rows]
        if self._converters:
            made = [self._converted(values, row) for values, row in zip(made, yielding(rows), strict=True)]
        characters = self.characters
        return made if characters is None else [self._encoded(values, characters) for values in yielding(made)]

    def _encoded(self, values: tuple[Any, ...], characters: frozenset[str]) -> tuple[Any, ...]:
        fitted = list(values)
        changed: list[str] = []
        for at, (name, value) in enumerate(zip(self.columns, values, strict=True)):
            if isinstance(value, str) and not value.isascii():
                fitted[at], is_same = storable(name, self.types[name], value, characters)
                if not is_same:
                    changed.append(name)
        if changed:
            diagnostics.count(
                "values_cut",
                "the database's encoding lacks characters in %s of %s: they are stored as question marks.",
                ", ".join(changed),
                self.table,
            )
            if self.types.get("attributes") in ("json", "jsonb"):
                fitted[-1] = storable_json(note_changes(orjson.loads(fitted[-1] or "{}"), changed))
                fitted[-1], _ = storable("attributes", "jsonb", fitted[-1] or "", characters)
        return tuple(fitted)

    def _converted(self, values: tuple[Any, ...], row: Row) -> tuple[Any, ...]:
        fitted = list(values)
        changed: dict[str, Any] = {}
        for at, name, convert in self._converters:
            value = fitted[at]
            if value is not None:
                try:
                    fitted[at] = convert(value)
                except Lossy as lossy:
                    fitted[at] = lossy.instead
                    changed[name] = value
        if changed:
            diagnostics.count(
                "values_cut",
                "values of %s do not fit the columns of %s: they are cut or left out. Run `llmctx migrate`.",
                ", ".join(changed),
                self.table,
            )
            if self.types.get("attributes") in ("json", "jsonb"):
                whole = {name: str(value)[:1024] for name, value in changed.items() if name in IDS}
                attributes = {**(row.record.attributes or {}), **({"llmctx_unfit": whole} if whole else {})}
                fitted[-1] = storable_json(note_changes(attributes, list(changed)))
        return tuple(fitted)


@cache
def _ours() -> dict[str, str]:
    return {column.name: _NATIVE[type(column.type).__name__] for column in call_log_table().c}


async def fetch_table_shape(pool: Connection, table: Table, previous: TableShape | None = None) -> TableShape:
    """Return what the table looks like; `previous`, the last answer, where nothing has changed.

    Raise `MigrationsPending` if there is none.
    """
    quote = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it bare
    name: str = quote.format_table(table)
    async with pool.connection() as connection:
        session = await pool.session(connection)
        if session is None:
            there = await connection.run_sync(_columns_there, table)
            shape = TableShape(name, {column: kind for column, kind in _ours().items() if column in there})
        else:
            found = await session.try_fetch_row(_DIGEST, name)
            digest = None if found is None else str(found["digest"])
            texts = await texts_apart.find_texts_table(session, table)
            if previous is not None and previous.digest is not None and previous.digest == digest:
                return previous if previous.texts == texts else previous.with_texts(texts)
            shape = replace(await _look_at_postgresql(session, name), digest=digest).with_texts(texts)
    pool.is_worn = session is not None
    if not shape.types.keys() >= {"call_id", "created_at"}:  # no table, or another one of that name
        raise MigrationsPending
    return shape


async def _look_at_postgresql(session: Session, name: str) -> TableShape:
    async with session.transaction():
        await session.driver.execute("SET LOCAL quote_all_identifiers = off")  # types are compared by name
        columns = await session.driver.fetch(_LOOK, name)
        keys = await session.driver.fetch(_LOOK_AT_KEYS, name)
    storable_characters = await characters(session)
    listed = await session.try_fetch_row(INSTALLED)
    distributed = await session.try_fetch_row(_DISTRIBUTED, name) if listed and listed["installed"] else None
    of_host = [key for key in keys if not key["own"]]
    ours = [row for row in columns if row["name"] in {**_ours(), **_OVERFLOW} and not row["computed"]]
    return TableShape(
        name,
        {row["name"]: row["type"] for row in ours},
        bool(columns) and columns[0]["plain"],
        is_distributed=bool(distributed and distributed["distributed"]),
        keys=frozenset(key["name"] for key in keys if key["own"]),
        host_keys=frozenset(key["name"] for key in of_host),
        host_key_columns=frozenset(column for key in of_host for column in key["columns"]),
        has_host_keys=bool(of_host) or not all(key["usable"] for key in keys),
        computed_columns=frozenset(row["name"] for row in columns if row["computed"]),
        characters=storable_characters,
        enum_labels={
            row["name"]: tuple(row["labels"]) for row in ours if not is_known(row["type"]) and not row["textual"]
        },
    )


def _columns_there(connection: Any, table: Table) -> set[str]:
    try:
        return {column["name"] for column in inspect(connection).get_columns(table.name, table.schema)}
    except NoSuchTableError:
        raise MigrationsPending from None


def _quoted_name(problem: Exception) -> str:
    """Return the name that the message quotes: Citus names the constraint nowhere else, and calls it XX000 in COPY."""
    quoted = _QUOTED.search(str(getattr(problem, "message", None) or ""))
    return quoted[1] if quoted is not None and sqlstate(problem) in _OF_A_KEY else ""
