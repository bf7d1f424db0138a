"""The table as it stands, and the insert that fits it.

Somebody's table may lack columns of ours, have them in other types, or be written to by rules, triggers and policies.
It is asked once, through `pg_catalog`, which every role may read (`information_schema` shows only what one has rights
to), and again when a row is refused: what has changed under load is seen as a `TableShape` that differs.

A batch goes in by COPY, in one transaction that fails if one of its rows is there already; then, and whenever
that is likely, by INSERT with a bare ON CONFLICT DO NOTHING. Both want the right to INSERT and no other.

Such an INSERT also passes over a row that meets another unique key of the host's: a sequence that has fallen behind
its table, one call for each trace. Where there are such keys nothing is passed over, and a row that is refused is there
already only if the key that it met is the call's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from operator import attrgetter
from typing import Any, Final, Protocol

import orjson
from sqlalchemy import Table, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import MigrationsPending
from llmctx.core.record import COLUMNS, IDS, CallRecord, ColumnKind, of_kind
from llmctx.core.scheduling import yielding
from llmctx.delivery.writer.charset import characters, storable
from llmctx.delivery.writer.connection import Connection, Session
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
from llmctx.storage.sanitize import storable_json, told
from llmctx.storage.table import call_log_table

_MEETS_A_KEY: Final = ("23505", "23P01")
_LOOK: Final = """
SELECT a.attname AS name,
       pg_catalog.format_type(b.oid, b.mod) AS type,
       a.attgenerated <> '' OR a.attidentity = 'a' AS computed, t.typcategory = 'S' AS texts,
       ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = b.oid) AS labels,
       c.relkind IN ('r', 'p') AND NOT c.relhasrules AND NOT c.relrowsecurity AS plain
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
CROSS JOIN LATERAL (  -- domains are what they are made of, through and through
    WITH RECURSIVE made AS (
        SELECT a.atttypid AS oid, a.atttypmod AS mod
        UNION ALL SELECT t.typbasetype, t.typtypmod
        FROM made JOIN pg_catalog.pg_type t ON t.oid = made.oid AND t.typtype = 'd'
    )
    SELECT made.oid, made.mod FROM made JOIN pg_catalog.pg_type t ON t.oid = made.oid AND t.typtype <> 'd'
) b
JOIN pg_catalog.pg_type t ON t.oid = b.oid
WHERE c.oid = pg_catalog.to_regclass($1)
"""
_LOOK_AT_KEYS: Final = """
WITH RECURSIVE parts AS (
    SELECT pg_catalog.to_regclass($1)::oid AS oid
    UNION SELECT inhrelid FROM pg_catalog.pg_inherits JOIN parts ON inhparent = parts.oid
)
SELECT k.relname AS name, i.indimmediate AS usable, array_remove(array_agg(a.attname::text), NULL) AS columns,
       COALESCE(bool_or(a.attname = 'call_id'), false)
       OR COALESCE(pg_catalog.pg_get_expr(i.indexprs, i.indrelid) ~ '\\mcall_id\\M', false) AS own
FROM pg_catalog.pg_index i
JOIN parts ON parts.oid = i.indrelid
JOIN pg_catalog.pg_class k ON k.oid = i.indexrelid
LEFT JOIN pg_catalog.pg_attribute a
    ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
WHERE i.indisunique OR i.indisexclusion
GROUP BY k.relname, i.indexrelid, i.indrelid, i.indimmediate, i.indexprs
"""
_NATIVE: Final = {
    "Uuid": "uuid", "UtcTime": "timestamp with time zone", "Text": "text", "Double": "double precision",
    "Integer": "integer", "Boolean": "boolean", "Money": "numeric(18,9)", "JSON": "jsonb",
}  # fmt: skip

_ASIDE: Final = {f"llmctx_{name}": name for name in IDS}
"""Columns that `llmctx migrate` adds beside ids that are numbers: for those that are none."""


_OTHER_JSON: Final = frozenset(of_kind(ColumnKind.JSON)) - {"attributes"}
"""Columns of JSON whose text nobody has made beforehand."""


class Item(Protocol):
    """A record, and its attributes as JSON."""

    record: CallRecord
    json: str | None


@dataclass(frozen=True, slots=True)
class TableShape:
    """What the table looks like. Two that are equal want the same insert."""

    table: str
    """As it stands in a statement."""
    types: dict[str, str]
    """Of those of our columns that it has, as PostgreSQL names them; SQLite has none."""
    plain: bool = False
    """Nothing stands there that would treat COPY unlike INSERT: no rule, no policy."""
    keys: frozenset[str] = frozenset()
    """The names of the call's own unique keys."""
    host_key_columns: frozenset[str] = frozenset()
    """Columns of others."""
    has_host_keys: bool = False
    """There are others, or such as ON CONFLICT cannot use."""
    computed: frozenset[str] = frozenset()
    """Those of our columns that the database fills by itself."""
    characters: frozenset[str] | None = None
    """Those that the database can store, where these are not all."""
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Of columns whose type is neither known here nor a kind of text: the values of an enumerated one, else none."""
    columns: tuple[str, ...] = field(init=False, compare=False)
    statement: str = field(init=False, compare=False)
    _converters: tuple[tuple[int, str, Converter], ...] = field(init=False, compare=False)
    _values: Callable[[CallRecord], tuple[Any, ...]] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        overflow_columns = [name for name, of in _ASIDE.items() if name in self.types and of in self.types]
        names = [*COLUMNS[:-1], *overflow_columns, COLUMNS[-1]]  # `attributes` is the last of them
        columns = tuple(name for name in names if name in self.types)
        put = object.__setattr__
        put(self, "columns", columns)
        quote = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it bare
        quoted = ", ".join(quote.quote(name) for name in columns)
        values = ", ".join(placeholder(at, self.types[name]) for at, name in enumerate(columns, 1))
        passing = "" if self.has_host_keys else " ON CONFLICT DO NOTHING"
        put(self, "statement", f"INSERT INTO {self.table} ({quoted}) VALUES ({values}){passing}")  # noqa: S608
        put(self, "_converters", tuple(self._strange()))
        put(self, "_values", attrgetter(*(_ASIDE.get(name, name) for name in columns if name != "attributes")))

    def _strange(self) -> Iterator[tuple[int, str, Converter]]:
        for at, name in enumerate(self.columns):
            of = _ASIDE.get(name, name)
            if of in _OTHER_JSON and self.types[of] in ("json", "jsonb"):
                yield at, name, storable_json
                continue
            if self.types[of] == _ours()[of]:
                if of != name:  # the id itself is text, and holds them all
                    yield at, name, discard
                continue
            convert = enum_value(self.only[of]) if of in self.only else converter(of, self.types[of])
            if of != name:
                yield at, name, only_overflow(convert)
            else:
                yield at, name, lossless(convert) if f"llmctx_{name}" in self.columns else convert

    @property
    def missing(self) -> list[str]:
        return [name for name in COLUMNS if name not in self.types and name not in self.computed]

    def is_of_the_call(self, problem: Exception) -> bool:
        """Whether a row was refused because its call is there already."""
        return getattr(problem, "constraint_name", None) in self.keys

    def without_theirs(self, record: CallRecord) -> CallRecord:
        """`record` as far as it meets no key but its call's."""
        nothing: dict[str, Any] = dict.fromkeys(self.host_key_columns.intersection(COLUMNS))
        return replace(record, **nothing)

    @property
    def by_copy(self) -> bool:
        """Whether COPY does what INSERT does."""
        return self.plain and all(map(is_known, self.types.values()))

    def rows(self, items: Sequence[Item]) -> list[tuple[Any, ...]]:
        """The values of `items`, in the order of `columns`."""
        values = self._values
        if "attributes" in self.types:
            made = [(*values(item.record), item.json) for item in items]
        else:
            made = [values(item.record) for item in items]
        if self._converters:
            made = [self._converted(row, item) for row, item in zip(made, yielding(items), strict=True)]
        return made if self.characters is None else [self._encoded(row, self.characters) for row in yielding(made)]

    def _encoded(self, row: tuple[Any, ...], known: frozenset[str]) -> tuple[Any, ...]:
        fitted = list(row)
        changed: list[str] = []
        for at, (name, value) in enumerate(zip(self.columns, row, strict=True)):
            if isinstance(value, str) and not value.isascii():
                fitted[at], same = storable(name, self.types[name], value, known)
                if not same:
                    changed.append(name)
        if changed:
            diagnostics.count(
                "values_cut",
                "the database's encoding lacks characters in %s of %s: they are stored as question marks.",
                ", ".join(changed),
                self.table,
            )
            if self.types.get("attributes") in ("json", "jsonb"):
                fitted[-1] = storable_json(told(orjson.loads(fitted[-1] or "{}"), changed))
                fitted[-1], _ = storable("attributes", "jsonb", fitted[-1] or "", known)
        return tuple(fitted)

    def _converted(self, row: tuple[Any, ...], item: Item) -> tuple[Any, ...]:
        fitted = list(row)
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
                attributes = {**(item.record.attributes or {}), **({"llmctx_unfit": whole} if whole else {})}
                fitted[-1] = storable_json(told(attributes, list(changed)))
        return tuple(fitted)


@cache
def _ours() -> dict[str, str]:
    return {column.name: _NATIVE[type(column.type).__name__] for column in call_log_table().c}


async def look(link: Connection, table: Table) -> TableShape:
    """See what the table looks like. Raises `MigrationsPending` if there is none."""
    quote = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it bare
    name: str = quote.format_table(table)
    plain, only, computed = False, {}, frozenset[str]()
    known: frozenset[str] | None = None
    keys: dict[str, Any] = {}
    async with link.connection() as connection:
        session = await link.session(connection)
        if session is None:
            there = await connection.run_sync(_columns_there, table)
            types = {column: kind for column, kind in _ours().items() if column in there}
        else:
            async with session.transaction():
                await session.driver.execute("SET LOCAL quote_all_identifiers = off")  # types are compared by name
                found = await session.driver.fetch(_LOOK, name)
                keys = _keys(await session.driver.fetch(_LOOK_AT_KEYS, name))
            known = await characters(session)
            types = {
                row["name"]: row["type"]
                for row in found
                if row["name"] in {**_ours(), **_ASIDE} and not row["computed"]
            }
            plain = bool(found) and found[0]["plain"]
            computed = frozenset(row["name"] for row in found if row["computed"])
            for row in found:
                if row["name"] in types and not is_known(row["type"]) and not row["texts"]:
                    only[row["name"]] = tuple(row["labels"])
    if session is not None:
        await link.close()  # a server's process that has looked up so much stores a tenth slower from then on
    if not types.keys() >= {"call_id", "created_at"}:  # no table, or another one of that name
        raise MigrationsPending
    return TableShape(name, types, plain, computed=computed, characters=known, only=only, **keys)


def _keys(found: Sequence[Any]) -> dict[str, Any]:
    """What `TableShape` wants to know of the unique keys."""
    theirs = [key for key in found if not key["own"]]
    return {
        "keys": frozenset(key["name"] for key in found if key["own"]),
        "host_key_columns": frozenset(column for key in theirs for column in key["columns"]),
        "has_host_keys": bool(theirs) or not all(key["usable"] for key in found),
    }


def _columns_there(connection: Any, table: Table) -> set[str]:
    try:
        return {column["name"] for column in inspect(connection).get_columns(table.name, table.schema)}
    except NoSuchTableError:
        raise MigrationsPending from None


async def store(link: Connection, fit: TableShape, table: Table, items: Sequence[Item], *, by_copy: bool) -> bool:
    """Store `items`, all or none; those that are there already stay as they are. Returns whether there were some.

    Where the host has keys of its own, some may be stored when it raises: given again, they are there already.
    """
    async with link.connection() as connection:
        session = await link.session(connection)
        if session is None:
            await _insert_sqlite(connection, fit, table, items)
            await connection.commit()
            return False
        if fit.has_host_keys:
            await _store_strictly(session, fit, items)
            return False
        rows = fit.rows(items)
        # asyncpg's COPY leaves a prepared statement behind, which a pooler would show to others
        if by_copy and fit.by_copy and not session.pooled:
            try:
                await _copy(session, fit, rows)
            except Exception as problem:
                if not fit.is_of_the_call(problem):  # or it may be a key that has come since the last look
                    raise
            else:
                return False
        await _insert(session, fit, rows)
        return by_copy and fit.by_copy and not session.pooled


async def _store_strictly(session: Session, fit: TableShape, items: Sequence[Item]) -> None:
    """Pass over nothing but what is there already: whoever is refused for another reason is not stored, and raises."""
    rows = fit.rows(items)
    if len(rows) > 1:
        try:
            await (_copy if fit.by_copy and not session.pooled else _insert)(session, fit, rows)
        except Exception as problem:
            if not fit.is_of_the_call(problem):
                raise
        else:
            return
    # those before one that raises are stored, and will be found to be there
    for row, item in zip(rows, items, strict=True):
        try:
            await _insert(session, fit, [row])
        except Exception as problem:
            if fit.is_of_the_call(problem):
                continue
            if sqlstate(problem) not in _MEETS_A_KEY or not await _is_there(session, fit, item):
                raise


async def _is_there(session: Session, fit: TableShape, item: Item) -> bool:
    """Whether the table has this call. A role that may only INSERT learns it by inserting what meets no other key."""
    try:
        await _try(session, fit, [_Bare(fit.without_theirs(item.record), item.json)])
    except Exception as problem:  # noqa: BLE001  whatever else it is, the row's own refusal is passed on
        return fit.is_of_the_call(problem)
    return False


async def attempt(link: Connection, fit: TableShape, table: Table, items: Sequence[Item]) -> None:
    """Insert `items` and take them back. Raises what the database says."""
    async with link.connection() as connection:
        session = await link.session(connection)
        if session is None:
            await _insert_sqlite(connection, fit, table, items)
            await connection.rollback()
            return
        await _try(session, fit, items)


async def _try(session: Session, fit: TableShape, items: Sequence[Item]) -> None:
    with contextlib.suppress(_Back):
        async with session.transaction():
            await session.driver.executemany(fit.statement, fit.rows(items))
            raise _Back


class _Back(Exception):
    """Take it back."""


@dataclass(slots=True)
class _Bare:
    record: CallRecord
    json: str | None


async def _insert(session: Session, fit: TableShape, rows: list[tuple[Any, ...]]) -> None:
    if session.pooled:
        async with session.transaction():
            await session.driver.executemany(fit.statement, rows)
    else:
        await (await session.prepare(fit.statement)).executemany(rows)


async def _copy(session: Session, fit: TableShape, rows: list[tuple[Any, ...]]) -> None:
    schema, _, name = fit.table.rpartition(".")
    await session.driver.copy_records_to_table(
        name.strip('"'), schema_name=schema.strip('"') or None, records=yielding(rows), columns=fit.columns
    )


async def _insert_sqlite(connection: AsyncConnection, fit: TableShape, table: Table, items: Sequence[Item]) -> None:
    rows = [{name: getattr(item.record, name) for name in fit.columns} for item in items]
    if "attributes" in fit.types:
        for row, item in zip(rows, items, strict=True):
            row["attributes"] = None if item.json is None else orjson.loads(item.json)
    await connection.execute(sqlite.insert(table).on_conflict_do_nothing(), rows)
