"""Texts into a table of their own, in the transaction that stores their rows (`storage/texts_table.py`).

All of a batch is stored so, or nothing of it: it fails as a whole where one of its rows is there already, so a text
never comes back for a row from which it was taken. Whatever fails is stored as without that table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Table

from llmctx.core.record import SNAPSHOTS
from llmctx.delivery.destinations.sql.connection import Session
from llmctx.storage import texts_table
from llmctx.storage.catalog import qualify_name, quote
from llmctx.storage.convert import placeholder

if TYPE_CHECKING:
    from llmctx.delivery.destinations.sql.table_shape import TableShape

_LOOK: Final = texts_table.LOOK_AT_BOTH.replace(":table", "$1").replace(":log", "$2")  # the driver's own names
_KEY: Final = ("call_id", "created_at")
_TYPES: Final = {"call_id": "uuid", "created_at": "timestamp with time zone", **dict.fromkeys(SNAPSHOTS, "text")}

Values = Sequence[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class TextsTable:
    """The table of texts: its name as it stands in a statement, and the columns of texts that it has."""

    name: str
    columns: tuple[str, ...]


async def find_texts_table(session: Session, table: Table) -> TextsTable | None:
    """Return the table of texts beside `table`; None where there is none in which the role may store.

    Nor is it used where triggers see the rows of `table`, which might do something about their texts.
    """
    name = qualify_name(texts_table.name_of(table.name), table.schema)
    found = await session.try_fetch_row(_LOOK, name, qualify_name(table.name, table.schema))
    if found is None or not found["writable"]:
        return None
    columns = tuple(column for column in SNAPSHOTS if column in found["columns"])
    return TextsTable(name, columns) if columns else None


def can_hold(types: Mapping[str, str], texts: TextsTable) -> bool:
    """Return whether what columns of these `types` hold can stand in `texts`."""
    return all(types.get(name) == _TYPES[name] for name in (*_KEY, *texts.columns))


_Pick = Callable[[tuple[Any, ...]], tuple[Any, ...]]


@cache
def _halves(columns: tuple[str, ...], texts: TextsTable) -> tuple[list[str], _Pick, list[str], _Pick]:
    """Return the columns of a row without its texts, those of its texts with its key, and what picks their values."""

    def pick(names: Collection[str]) -> _Pick:
        return itemgetter(*(columns.index(name) for name in names))

    rest, apart = [name for name in columns if name not in texts.columns], [*_KEY, *texts.columns]
    return rest, pick(rest), apart, pick(apart)


async def store(session: Session, shape: TableShape, texts: TextsTable, values: Values) -> None:
    """Store rows that are new, and their texts in `texts`, or nothing; `values` are those of the shape's columns.

    Raises what the database says: also of a row that is there already.
    """
    rest, row, apart, own = _halves(shape.columns, texts)
    held = [one for one in map(own, values) if one.count(None) < len(texts.columns)]
    async with session.transaction():
        await _put(session, shape.table, rest, shape.types, [row(one) for one in values])
        if held:
            await _put(session, texts.name, apart, _TYPES, held)


async def _put(session: Session, table: str, columns: Sequence[str], types: Mapping[str, str], values: Values) -> None:
    if session.is_pooled:  # COPY would leave a prepared statement behind
        names = ", ".join(quote(name) for name in columns)
        places = ", ".join(placeholder(at, types[name]) for at, name in enumerate(columns, 1))
        statement = f"INSERT INTO {table} ({names}) VALUES ({places})"  # noqa: S608  quoted
        await session.driver.executemany(statement, values)
    else:
        await session.copy(table, columns, values)
