"""The table as it stands: an adopted one has other types than ours, lacks columns of ours, and has columns of its own.

Everything that reads rows or changes them later asks here once, and is then the same for a fresh table and for
a host's own. Times without a zone are UTC. `column_expr` gives a column that may be missing, `equals` compares an id
with one of any type. Texts may stand in a table of their own (`texts_table.py`): `column_expr` finds them there.

An adopted table may keep one id in two columns: numbers stand in its own, other ids in the text column that
`llmctx migrate` has put beside it. Only this module knows: `column_expr` is the id, whichever column holds it,
`is_missing` that neither does, `id_values` says into which a value goes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import column as named_column
from sqlalchemy.dialects.postgresql import DOMAIN, OID
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

from llmctx.core.errors import MigrationsPending, NotACallLog
from llmctx.core.record import IDS, SNAPSHOTS, SPECS
from llmctx.core.text import is_storable
from llmctx.settings import Settings
from llmctx.storage import texts_table
from llmctx.storage.catalog import qualify_name
from llmctx.storage.convert import Lossy, to_column
from llmctx.storage.engine import describe_database
from llmctx.storage.host_types import as_id, as_kind, as_text, is_text
from llmctx.storage.sanitize import storable_id
from llmctx.storage.table import UtcTime, call_log_table

UNFIT: Final = "llmctx_unfit"
"""The key of `attributes` under which the writer keeps ids that do not fit their columns."""
_PLACE: Final = "place"
_KINDS: Final = {spec.name: spec.kind for spec in SPECS}
_NEEDED: Final = {spec.name for spec in SPECS if spec.required}


class NaiveUtc(TypeDecorator[datetime]):
    """A time without a zone in the table, which is UTC; aware on both ways here."""

    impl = sa.DateTime(timezone=False)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class _Tid(UserDefinedType[tuple[int, int]]):
    """Page and line of a row in PostgreSQL."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "tid"


async def reflect(connection: AsyncConnection, settings: Settings) -> sa.Table:
    """Return the call log as it stands. Raises `MigrationsPending` or, for another kind of table, `NotACallLog`."""
    return await connection.run_sync(_reflect, settings)


def _reflect(connection: sa.Connection, settings: Settings) -> sa.Table:
    inspector = sa.inspect(connection)
    name, schema = settings.table, settings.db_schema
    try:
        columns = inspector.get_columns(name, schema)
        key = inspector.get_pk_constraint(name, schema)["constrained_columns"]
    except NoSuchTableError:
        raise MigrationsPending(
            f"There is no table {name} in {describe_database(settings)}. Run `llmctx migrate`."
        ) from None
    if (problem := _unlike_a_call_log({column["name"]: column["type"] for column in columns})) is not None:
        raise NotACallLog(
            f"Table {name} in {describe_database(settings)} is not a call log: {problem}. Nothing was changed. Choose "
            "another name with LLMCTX_TABLE."
        )
    ours = call_log_table(name, schema)
    made = [
        sa.Column(
            column["name"],
            _type(connection.dialect, column["type"], ours.c.get(column["name"])),
            primary_key=column["name"] in key,
            nullable=column["nullable"],
        )
        for column in columns
    ]
    table = sa.Table(name, sa.MetaData(), *made, schema=schema)
    if not key:
        kinds: dict[str, TypeEngine[Any]] = {"rowid": sa.Integer()}
        if connection.dialect.name == "postgresql":
            kinds = {"tableoid": OID(), "ctid": _Tid()}
        table.info[_PLACE] = [named_column(name, kind, _selectable=table) for name, kind in kinds.items()]
    elif connection.dialect.name == "postgresql":
        texts_table.attach(connection, table, qualify_name(texts_table.name_of(name), schema))
    return table


def _unlike_a_call_log(types: Mapping[str, TypeEngine[Any]]) -> str | None:
    """Return what a table with these columns lacks that every question needs; None if it can be read."""
    lacking = _NEEDED - types.keys()
    if lacking:
        return f"it has no {', '.join(sorted(lacking))}"
    created_at = types["created_at"]
    while isinstance(created_at, DOMAIN):
        created_at = created_at.data_type
    return None if isinstance(created_at, sa.DateTime) else "its created_at is no timestamp"


def _type(dialect: Dialect, actual: TypeEngine[Any], declared: sa.Column[Any] | None) -> TypeEngine[Any]:
    """Return our type where it is the same in the database, for the conversions that it does; else the one found."""
    if declared is None:
        return actual
    if isinstance(actual, DOMAIN):
        return _type(dialect, actual.data_type, declared)
    try:
        if declared.type.compile(dialect) == actual.compile(dialect):
            return declared.type
    except Exception:  # noqa: BLE001  a type that SQLAlchemy has no name for
        return actual
    if isinstance(actual, sa.DateTime) and isinstance(declared.type, UtcTime):
        return declared.type if actual.timezone else NaiveUtc()
    return actual


def overflow_column(table: sa.FromClause, name: str) -> sa.ColumnElement[Any] | None:
    """Return the column beside the id `name` for what does not fit there; None where there is none, or need be none."""
    column = table.c.get(name)
    if name not in IDS or column is None or is_text(column):
        return None
    return table.c.get(f"llmctx_{name}")


def held_in(table: sa.FromClause, name: str) -> list[sa.ColumnElement[Any]]:
    """Return the columns in which `name` may stand: none, one, or for an id two."""
    return [column for column in (table.c.get(name), overflow_column(table, name)) if column is not None]


def column_expr(table: sa.FromClause, name: str) -> sa.ColumnElement[Any]:
    """Return the column `name`, or a NULL of its type where the table has none; an id in two columns as text.

    Where the host's column is of another type, its values are read as ours: `host_types.py`. Texts are found wherever
    they stand.
    """
    column, beside = table.c.get(name), overflow_column(table, name)
    if column is None:
        return sa.cast(sa.null(), call_log_table().c[name].type).label(name)
    if beside is not None:
        return sa.func.coalesce(beside, as_text(column), type_=sa.Text()).label(name)
    own = texts_table.text_expr(table, name) if name in SNAPSHOTS else column
    read = as_kind(own, _KINDS[name])
    return own if read is own else read.label(name)


def is_missing(table: sa.FromClause, name: str) -> sa.ColumnElement[bool]:
    """Return whether a row has no `name`, in conditions that indexes know."""
    columns = held_in(table, name)
    return sa.and_(*(column.is_(None) for column in columns)) if columns else column_expr(table, name).is_(None)


def all_columns(table: sa.Table) -> list[sa.ColumnElement[Any]]:
    """Return what the table holds, in its order, each id once."""
    besides = {beside.name for name in IDS if (beside := overflow_column(table, name)) is not None}
    rest = ((name, column) for name, column in table.c.items() if name not in besides)
    return [column_expr(table, name) if name in (*IDS, *SNAPSHOTS) else column for name, column in rest]


def attribute(table: sa.FromClause, *path: str) -> sa.ColumnElement[str | None]:
    """Return what stands in `attributes` under `path`, as text; NULL where the table keeps no JSON there."""
    column = table.c.get("attributes")
    if column is None or not isinstance(column.type, sa.JSON):
        return sa.cast(sa.null(), sa.Text)
    found: sa.ColumnElement[str | None] = column[path].as_string()
    return found


async def count_rows(connection: AsyncConnection, table: sa.FromClause, where: sa.ColumnElement[bool]) -> int:
    """Return how many rows of `table` meet `where`."""
    return await connection.scalar(sa.select(sa.func.count()).select_from(table).where(where)) or 0


def physical_position(table: sa.Table) -> Sequence[sa.ColumnElement[Any]]:
    """Return where a row stands, until it is changed, if the table has no primary key; else nothing."""
    return list(table.info.get(_PLACE, ()))


def lasting_key(table: sa.Table) -> Sequence[sa.Column[Any]]:
    """Return what identifies a row later: the primary key, or call_id and created_at, which may be NULL or double."""
    return list(table.primary_key.columns) or [table.c.call_id, table.c.created_at]


def key_of(table: sa.Table) -> Sequence[sa.ColumnElement[Any]]:
    """Return what tells rows apart: the primary key; or where a row stands, and what stood there when it was read."""
    return [*physical_position(table), *lasting_key(table)]


def is_row(table: sa.Table) -> sa.ColumnElement[bool]:
    """Return the condition that a row is the one of the parameters `key_0`, `key_1`, …"""
    return is_row_with_key(
        table, [sa.bindparam(f"key_{n}", type_=column.type) for n, column in enumerate(key_of(table))]
    )


def is_row_with_key(table: sa.Table, values: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[bool]:
    """Return the condition that a row is the one whose key has `values`."""
    pairs = list(zip(key_of(table), values, strict=True))
    sure = len(physical_position(table)) or len(pairs)  # what is no key may be NULL
    return sa.and_(
        *(column == value for column, value in pairs[:sure]),
        *(column.is_not_distinct_from(value) for column, value in pairs[sure:]),
    )


def key_values(table: sa.Table, row: Any) -> dict[str, Any]:
    """Return the parameters of `is_row` for a mapping with the key's columns."""
    return {f"key_{n}": row[column.name] for n, column in enumerate(key_of(table))}


def id_values(table: sa.Table, name: str, value: str) -> dict[str, Any]:
    """Return the id `value` as it is stored: in its column, or else in the one beside. Raises `Lossy`."""
    column, beside = table.c[name], overflow_column(table, name)
    try:
        return {name: to_column(column, value)}
    except Lossy:
        if beside is None:
            raise
        return {beside.name: value}


def word_values(table: sa.Table, name: str, value: str | None) -> dict[str, Any]:
    """Return a word as the column `name` stores it: nothing where there is none, or it has another meaning."""
    column = table.c.get(name)
    if column is None or not is_text(column):
        return {}
    length = getattr(column.type, "length", None)
    return {} if value is not None and length is not None and len(value) > length else {name: value}


def equals(table: sa.FromClause, name: str, value: str) -> sa.ColumnElement[bool]:
    """Return whether a row's id is `value`, also one that the writer had to shorten, or to keep beside the column."""
    return sa.or_(sa.false(), *(condition for one in _written(value) for condition in _equals(table, name, one)))


def _equals(table: sa.FromClause, name: str, value: str) -> list[sa.ColumnElement[bool]]:
    column = table.c.get(name)
    if column is None:
        return []
    beside = overflow_column(table, name)
    found: list[sa.ColumnElement[bool]] = [] if beside is None else [beside == value]
    try:
        found.append(as_id(column) == to_column(column, value))
    except Lossy as lossy:
        if lossy.instead is not None:
            found.append(column == lossy.instead)
        attributes = table.c.get("attributes")
        # where there is a column beside, nothing is put there; and no index knows what is
        if beside is None and attributes is not None and isinstance(attributes.type, sa.JSON):
            found.append(attributes[UNFIT, name].as_string() == value)
    return found


def _written(value: str) -> list[str]:
    """Return the forms in which the id `value` may stand in a row: the writer's, and as the host wrote it."""
    ours = storable_id(value) or value
    return [ours, value] if ours != value and is_storable(value) else [ours]


def equals_disjoint(table: sa.FromClause, name: str, value: str) -> list[sa.ColumnElement[bool]]:
    """Return `equals` as conditions of which a row meets one at most; an index serves each, in the order of time."""
    column, beside = table.c.get(name), overflow_column(table, name)
    if column is not None and beside is not None:
        value = _written(value)[0]  # a host has no column beside
        with contextlib.suppress(Lossy):
            return [beside == value, sa.and_(as_id(column) == to_column(column, value), beside.is_distinct_from(value))]
    return [sa.or_(sa.false(), *_equals(table, name, one)) for one in _written(value)]


def id_is_in(table: sa.FromClause, name: str, values: Collection[str]) -> sa.ColumnElement[bool]:
    """Return whether a row's id is one of `values`, as `column_expr` has them."""
    column, beside = table.c.get(name), overflow_column(table, name)
    if column is None:
        return sa.false()
    found = [as_id(column).in_(_fitting(column, values))]
    return sa.or_(*found, beside.in_(values)) if beside is not None else found[0]


def _fitting(column: sa.ColumnElement[Any], values: Iterable[str]) -> list[Any]:
    found = []
    for value in values:
        with contextlib.suppress(Lossy):
            found.append(to_column(column, value))
    return found
