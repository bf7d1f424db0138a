"""Tables whose rows belong to calls: an application's messages, with a foreign key to the call log or without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Table, TableClause, column, table, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import quoted_name

from llmctx.storage.texts_table import texts_of


@dataclass(frozen=True, slots=True)
class Dependent:
    """A table whose rows belong to calls: its name for statements, its column, and ours."""

    name: str
    column: str
    call_column: str
    is_indexed: bool = True
    """What belongs to a call is found without reading all of it."""

    @property
    def index_advice(self) -> str:
        """Return what to do where it is not."""
        return (
            f"{self.name} has no index on {self.column}, so every call that goes makes the database read all of it: "
            f"CREATE INDEX CONCURRENTLY ON {self.name} ({self.column});"
        )

    @property
    def table(self) -> TableClause:
        return table(quoted_name(self.name, quote=False), column(self.column))


async def dependents(connection: AsyncConnection, log: Table) -> list[Dependent]:
    """Return the tables with a foreign key to ours; and such as have lost it, and still hold call_ids beside it.

    A table of texts is none of them.
    """
    if connection.dialect.name != "postgresql":
        return []
    preparer = connection.dialect.identifier_preparer
    name = preparer.format_table(log)
    stem = log.name.removesuffix("s").removesuffix("_log")
    texts, like = texts_of(log), f"{stem.replace('_', chr(92) + '_')}%"
    given = {"table": name, "like": like, "texts": "" if texts is None else texts.name}
    found = await connection.execute(text(_DEPENDENTS), given)
    return [Dependent(row.name, row.child, row.ours, row.indexed) for row in found]


_DEPENDENTS: Final = """
WITH ours AS (SELECT oid, relnamespace FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass(:table)),
linked AS (
  SELECT k.conrelid AS oid, c.attname AS child, p.attname AS ours
  FROM pg_catalog.pg_constraint k JOIN ours ON k.confrelid = ours.oid
  JOIN pg_catalog.pg_attribute c ON c.attrelid = k.conrelid AND c.attnum = k.conkey[1]
  JOIN pg_catalog.pg_attribute p ON p.attrelid = k.confrelid AND p.attnum = k.confkey[1]
  WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid <> k.confrelid
), named AS (
  SELECT t.oid, a.attname AS child, a.attname AS ours
  FROM pg_catalog.pg_class t JOIN ours ON t.relnamespace = ours.relnamespace AND t.oid <> ours.oid
  JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attname = 'call_id' AND NOT a.attisdropped
  WHERE t.relkind IN ('r', 'p') AND NOT t.relispartition AND t.relname LIKE :like
    AND t.oid NOT IN (SELECT oid FROM linked) AND t.relname LIKE '%message%' AND t.relname <> :texts
)
SELECT found.oid::pg_catalog.regclass::text AS name, found.child, found.ours, EXISTS (
  SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = found.oid AND a.attnum = i.indkey[0]
  WHERE i.indrelid = found.oid AND a.attname = found.child AND i.indpred IS NULL AND i.indisvalid) AS indexed
FROM (SELECT * FROM linked UNION SELECT * FROM named) AS found ORDER BY 1
"""
