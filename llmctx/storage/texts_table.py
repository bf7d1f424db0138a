"""Texts in a table of their own, by day, so that their end is a DROP: `<table>_messages`, of PostgreSQL alone.

`llmctx migrate --texts-apart` makes it beside a table that llmctx has made. The call log keeps its columns of texts: a
text stands in its row, or under the key of the row in the table of texts. Who stores rows puts texts apart only
together with rows that are certainly new, and otherwise into the row, as older versions do for every row. So both are
read, the row first, and that the table is there is all that there is to know.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.record import SNAPSHOTS
from llmctx.storage.catalog import quote
from llmctx.storage.partition_ddl import Month
from llmctx.storage.table import UtcTime

DAYS_AHEAD: Final = 14
"""Partitions that are made beforehand, after the present day's."""
LOOK: Final = """
SELECT array_agg(a.attname::text ORDER BY a.attnum) AS columns,
       bool_and(NOT c.relhasrules AND NOT c.relrowsecurity
                AND pg_catalog.has_table_privilege(c.oid, 'INSERT')) AS writable
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.oid = pg_catalog.to_regclass(:table) AND c.relkind = 'p'
GROUP BY c.oid HAVING array_agg(a.attname::text) @> ARRAY['call_id', 'created_at']
"""
"""The columns of a table of that name, and whether the role may store there; of texts if `is_one` says so."""
TRIGGERS: Final = """
SELECT tgname::text AS name FROM pg_catalog.pg_trigger
WHERE tgrelid = pg_catalog.to_regclass(:log) AND NOT tgisinternal AND tgtype & 4 <> 0 ORDER BY 1
"""
"""Triggers on INSERT, which would see rows without their texts."""
LOOK_AT_BOTH: Final = f"SELECT columns, writable AND NOT EXISTS ({TRIGGERS}) AS writable FROM ({LOOK}) AS texts"  # noqa: S608
"""The same, and whether it can be used for rows of the call log `:log`."""
_TEXTS: Final = "texts"


def name_of(table: str) -> str:
    """Return the name of the table of texts of the call log `table`.

    Versions that do not know it delete rows of a table with such a name together with their calls, in `erase`.
    """
    return f"{table}_messages"


def is_one(columns: Collection[str]) -> bool:
    """Return whether a table that has `columns`, and the name, is one of texts, and not a team's own."""
    return not set(SNAPSHOTS).isdisjoint(columns)


def index_name(table: str) -> str:
    """Return the name of the index of `table` that finds the texts in its rows."""
    return f"ix_{table}_texts"


def has_texts() -> str:
    """Return the condition of rows that hold texts themselves, as the index has it."""
    return " OR ".join(f"{quote(name)} IS NOT NULL" for name in SNAPSHOTS)


def day(moment: datetime, ahead: int) -> Month:
    """Return the day, of UTC, that comes so many days after that of `moment`."""
    first = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=ahead)
    return Month(first, first + timedelta(days=1), f"{first:%Y_%m_%d}")


def attach(connection: sa.Connection, log: sa.Table, name: str) -> None:
    """Let queries of `log` find the texts that stand apart, if there is a table for them; `name` is for statements."""
    if [column.name for column in log.primary_key.columns] != ["call_id", "created_at"]:
        return
    found = connection.execute(sa.text(LOOK), {"table": name}).first()
    if found is not None and is_one(found.columns):
        log.info[_TEXTS] = sa.Table(
            name_of(log.name),
            sa.MetaData(),
            sa.Column("call_id", log.c.call_id.type, primary_key=True),
            sa.Column("created_at", UtcTime(), primary_key=True),
            *(sa.Column(name, sa.Text()) for name in SNAPSHOTS if name in found.columns),
            schema=log.schema,
        )


def texts_of(log: sa.FromClause) -> sa.Table | None:
    """Return the table of the texts of `log`; None if they all stand in their rows."""
    found: sa.Table | None = getattr(log, "info", {}).get(_TEXTS)
    return found


def _of_row(log: sa.FromClause, texts: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(texts.c.call_id == log.c.call_id, texts.c.created_at == log.c.created_at)


def text_expr(log: sa.FromClause, name: str) -> sa.ColumnElement[Any]:
    """Return the text `name` of a row, wherever it stands. It is fetched for rows and columns that are output alone."""
    column, texts = log.c[name], texts_of(log)
    if texts is None or name not in texts.c:
        return column
    apart = sa.select(texts.c[name]).where(_of_row(log, texts)).correlate(log).scalar_subquery()
    return sa.func.coalesce(column, apart, type_=column.type).label(name)


def any_text_meets(log: sa.FromClause, condition: Any) -> list[sa.ColumnElement[bool]]:
    """Return the condition that one of a row's texts that stand apart meets `condition`; none where none do."""
    texts = texts_of(log)
    if texts is None:
        return []
    met = sa.or_(sa.false(), *(condition(texts.c[name]) for name in SNAPSHOTS if name in texts.c))
    return [sa.select(texts.c.call_id).where(_of_row(log, texts), met).correlate(log).exists()]


async def delete_apart(connection: AsyncConnection, log: sa.Table, keys: Sequence[Mapping[str, Any]]) -> None:
    """Delete those texts of the rows with `keys`, as `reflection.key_values` has them, that stand apart."""
    texts = texts_of(log)
    if texts is not None and keys:
        await connection.execute(sa.delete(texts).where(_has_key(log, texts)), list(keys))


async def replace_apart(
    connection: AsyncConnection, log: sa.Table, key: Mapping[str, Any], new: Mapping[str, Any]
) -> dict[str, Any]:
    """Give texts of the row with `key` that stand apart their `new` values. Return the values for the row itself."""
    texts = texts_of(log)
    if texts is None:
        return dict(new)
    if values := _where_held(texts, new):
        await connection.execute(sa.update(texts).where(_has_key(log, texts)).values(values), dict(key))
    return _where_held(log, new)


def _has_key(log: sa.Table, texts: sa.Table) -> sa.ColumnElement[bool]:
    """Return the condition `reflection.is_row` for the texts of a row."""
    keys = (texts.c[column.name] for column in log.primary_key.columns)
    return sa.and_(*(column == sa.bindparam(f"key_{n}", type_=column.type) for n, column in enumerate(keys)))


def _where_held(table: sa.Table, new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `new` for those columns of `table` that hold a text in the row."""
    return {name: sa.case((table.c[name].is_not(None), value)) for name, value in new.items() if name in table.c}
