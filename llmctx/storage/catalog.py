"""Questions to PostgreSQL's `pg_catalog`, which every role may read: columns, indexes, partitions, references.

Each question takes the table's name, ready for statements, as `:table`. `information_schema` is no substitute: it shows
only what a role has rights to. Ask with `quote_all_identifiers` off, so that types can be compared by their names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

COLUMNS: Final = """
SELECT a.attname::text AS name, pg_catalog.format_type(b.oid, b.mod) AS type, a.attnotnull AS not_null,
       a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS required,
       pg_catalog.col_description(a.attrelid, a.attnum) AS comment, a.attgenerated <> '' AS generated,
       a.attgenerated <> '' OR a.attidentity = 'a' AS computed, t.typcategory = 'S' AS textual,
       ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = b.oid
             ORDER BY e.enumsortorder) AS labels,
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
WHERE c.oid = pg_catalog.to_regclass(:table) ORDER BY a.attnum
"""
INDEXES: Final = """
SELECT c.relname::text AS name, c.oid::pg_catalog.regclass::text AS qualified, i.indisunique AS unique,
       i.indisprimary AS primary, i.indisvalid AS valid, NOT i.indimmediate AS deferrable,
       pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS predicate, m.amname::text AS method,
       i.indexprs IS NOT NULL AS expressions, pg_catalog.pg_get_indexdef(i.indexrelid) AS definition,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, at)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num
             WHERE k.at <= i.indnkeyatts ORDER BY k.at) AS columns
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_am m ON m.oid = c.relam
WHERE i.indrelid = pg_catalog.to_regclass(:table) ORDER BY i.indexrelid
"""
UNIQUE_KEYS: Final = """
WITH RECURSIVE parts AS (
    SELECT pg_catalog.to_regclass(:table)::oid AS oid
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
"""Unique keys and exclusions of a table and of all its partitions; `own` are those that hold call_id."""
DIGEST: Final = """
WITH RECURSIVE parts AS (
    SELECT pg_catalog.to_regclass(:table)::oid AS oid
    UNION SELECT inhrelid FROM pg_catalog.pg_inherits JOIN parts ON inhparent = parts.oid
), told AS (
    SELECT 'd' AS kind, oid, xmin FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
    UNION ALL SELECT 'c', c.oid, c.xmin FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(:table)
    UNION ALL SELECT 'a', a.attnum::text::oid, a.xmin FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = pg_catalog.to_regclass(:table) AND a.attnum > 0
    UNION ALL SELECT 't', t.oid, t.xmin FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = pg_catalog.to_regclass(:table) AND a.attnum > 0
    UNION ALL SELECT 'e', e.oid, e.xmin FROM pg_catalog.pg_enum e
    UNION ALL SELECT 'i', i.indexrelid, i.xmin FROM pg_catalog.pg_index i JOIN parts ON i.indrelid = parts.oid
)
SELECT pg_catalog.md5(pg_catalog.string_agg(kind || oid || ' ' || xmin, ',' ORDER BY kind, oid, xmin::text)) AS digest
FROM told
"""
"""What changes with the columns, types, rules, policies and unique keys of a table and its partitions: cheap enough to
be asked on a connection that is kept.
"""
PARTITIONS: Final = """
SELECT c.oid::pg_catalog.regclass::text AS name, c.relkind = 'p' AS divided,
       pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound, c.reltuples AS rows
FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = pg_catalog.to_regclass(:table)
  AND pg_catalog.to_jsonb(i) -> 'inhdetachpending' IS DISTINCT FROM 'true' ORDER BY 1
"""
FOREIGN_KEYS: Final = """
SELECT k.conname::text AS name, k.conrelid = pg_catalog.to_regclass(:table) AS own,
       k.conrelid::pg_catalog.regclass::text AS child, k.confrelid::pg_catalog.regclass::text AS parent,
       pg_catalog.pg_get_constraintdef(k.oid) AS definition,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)) AS columns
FROM pg_catalog.pg_constraint k
WHERE k.contype = 'f' AND k.conparentid = 0 AND pg_catalog.to_regclass(:table)::oid IN (k.conrelid, k.confrelid)
"""
"""Of the table (`own`), and of others that refer to it."""
OWNER: Final = """
SELECT quote_ident(pg_catalog.pg_get_userbyid(relowner)) FROM pg_catalog.pg_class
WHERE oid = pg_catalog.to_regclass(:table)
"""

quote: Final = postgresql.dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it bare


def qualify_name(name: str, schema: str | None = None) -> str:
    """Return `name`, in `schema`, as it stands in a statement."""
    return f"{quote(schema)}.{quote(name)}" if schema else str(quote(name))


def literal(value: str) -> str:
    """Return `value` as a string in a statement."""
    return "'" + value.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table as it stands."""

    name: str
    type: str
    """As PostgreSQL names it; of a domain, the type that it is made of."""
    required: bool
    """NOT NULL, and nothing but the insert could give it a value."""
    not_null: bool
    comment: str | None
    generated: bool
    """The database computes it from others."""
    labels: Sequence[str]
    """The values of an enumerated type."""
    family: str
    """The type without its length."""
    size: int | None


@dataclass(frozen=True, slots=True)
class Index:
    """An index of a table."""

    name: str
    columns: tuple[str, ...]
    """Of its key; empty when it is over an expression."""
    unique: bool
    primary: bool
    valid: bool
    deferrable: bool
    predicate: str | None
    method: str


def rows(connection: Connection, question: str, table: str, **more: Any) -> Sequence[Row[Any]]:
    """Return the answers to `question` about `table`."""
    return connection.execute(text(question), {"table": table, **more}).all()


async def rows_async(connection: AsyncConnection, question: str, table: str, **more: Any) -> Sequence[Row[Any]]:
    """Return the answers to `question` about `table`."""
    return (await connection.execute(text(question), {"table": table, **more})).all()


def columns_of(connection: Connection, table: str) -> dict[str, Column]:
    """Return the columns of `table` by name, in their order."""
    columns = {}
    for row in rows(connection, COLUMNS, table):
        family, length = re.sub(r"\(.*?\)", "", row.type), re.search(r"\((\d+)", row.type)
        columns[row.name] = Column(
            row.name, row.type, row.required, row.not_null, row.comment, row.generated, row.labels, family,
            int(length[1]) if length else None,
        )  # fmt: skip
    return columns


def indexes_of(connection: Connection, table: str) -> list[Index]:
    """Return the indexes of `table`, sorted by name."""
    return [
        Index(
            row.name, () if row.expressions else tuple(row.columns), row.unique, row.primary, row.valid,
            row.deferrable, row.predicate, row.method,
        )
        for row in sorted(rows(connection, INDEXES, table), key=lambda row: str(row.name))
    ]  # fmt: skip
