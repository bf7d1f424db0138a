"""A table as it stands, asked of `pg_catalog`, and what of it was added by llmctx."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from llmctx.storage import catalog
from llmctx.storage.catalog import Column, Index, qualify_name

MARK: Final = "added by llmctx"
"""Begins the comment of a column that llmctx added to a table of the host's."""


@dataclass(frozen=True)
class ExistingTable:
    """A table as it stands."""

    name: str
    schema: str | None
    kind: str
    """PostgreSQL's relkind: r is a table, p a partitioned one."""
    owner: str
    role: str
    """Ours, in this session."""
    is_owner: bool
    closed_schema: str | None
    """Its schema, where the role may make nothing there: indexes, for one."""
    rows: int
    """About."""
    bytes: int
    columns: dict[str, Column]
    indexes: list[Index]
    references: dict[str, str]
    """Column -> the table that a foreign key of it points to."""
    partitions: list[str]
    dependents_by_column: dict[str, list[str]]
    """Column -> views, policies, triggers, … that keep its type from being changed."""
    copying_triggers: dict[str, str]
    """Triggers that copy whole rows somewhere, and their functions."""
    inserting_roles: list[str]
    """Roles that may insert, besides the owner."""
    rules: list[str]
    """Rules on INSERT or UPDATE."""
    checks: dict[str, tuple[str, list[str]]]
    """Check constraint -> what it says, and of which columns."""
    publications: list[str]
    """Publications that send whole rows of it."""
    taken_names: dict[str, str]
    """Names of indexes that other tables have, beginning as ours would -> the table."""
    immutable_reason: str | None
    """Why it can be given no columns, if so."""
    partition_key: str | None = None
    """By what it is partitioned, where no key over call_id and created_at can be because of that."""
    missing_partition: str | None = None
    """A partition that would take in calls of now, as a statement, where there is none."""

    @cached_property
    def sql(self) -> str:
        """Return the table as it stands in a statement."""
        return qualify_name(self.name, self.schema)

    @cached_property
    def marked_columns(self) -> list[Column]:
        """Return the columns that llmctx added, in their order."""
        return [column for column in self.columns.values() if (column.comment or "").startswith(MARK)]

    @property
    def changes_by_column(self) -> dict[str, list[str]]:
        """Return what was done to columns that are not ours: stands in the comment of the first that is."""
        return facts_in(self.marked_columns[0].comment if self.marked_columns else None)

    @property
    def added_indexes(self) -> list[Index]:
        return [index for index in self.indexes if index.name.startswith(f"llmctx_{self.name}_")]

    @cached_property
    def made_by_us(self) -> bool:
        """Return whether llmctx made the whole table."""
        key = (f"pk_{self.name}", ("call_id", "created_at"))
        has_key = any(index.primary and (index.name, index.columns) == key for index in self.indexes)
        return self.kind == "p" and not self.marked_columns and has_key

    def qualify(self, name: str) -> str:
        """Return something of that name in the table's schema, as it stands in a statement."""
        return qualify_name(name, self.schema)


def facts_in(comment: str | None) -> dict[str, list[str]]:
    """Return what the comment of a column says of the columns that are not ours."""
    try:
        facts = json.loads((comment or "")[len(MARK) :] or "{}")
    except ValueError:  # more was written into it
        facts = {}
    known = {kind: facts.get(kind, []) for kind in ("defaults", "nullable")}
    return known | ({"compressed": facts["compressed"]} if facts.get("compressed") else {})


_TABLE: Final = """
SELECT c.oid::bigint AS oid, c.relkind::text AS kind, pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       current_user::text AS role, pg_catalog.pg_has_role(c.relowner, 'USAGE') AS is_owner,
       CASE WHEN NOT pg_catalog.has_schema_privilege(c.relnamespace, 'CREATE')
            THEN c.relnamespace::regnamespace::text END AS closed_schema,
       c.reltuples::float8 AS rows, pg_catalog.pg_total_relation_size(c.oid) AS bytes,
       CASE WHEN c.relispartition THEN 'is itself a partition of another table'
            WHEN c.reloftype <> 0 THEN 'was made OF a type' END AS fixed
FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(:table)
"""
_USES: Final = """
SELECT DISTINCT a.attname::text AS "column", pg_catalog.pg_describe_object(d.classid, d.objid, 0) AS what
FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
LEFT JOIN pg_catalog.pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = :oid
  AND (d.classid IN ('pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_trigger'::regclass, 'pg_proc'::regclass)
       OR f.adnum <> a.attnum)
ORDER BY 1, 2
"""
_TRIGGERS: Final = """
SELECT t.tgname::text AS name, p.oid::regprocedure::text AS function, p.prosrc AS source,
       ARRAY[t.tgnewtable::text, t.tgoldtable::text] AS transition
FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
WHERE t.tgrelid = :oid AND NOT t.tgisinternal ORDER BY 1
"""
_INSERTING: Final = """
SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END
FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
WHERE c.oid = :oid AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner ORDER BY 1
"""
_RULES: Final = """
SELECT rulename::text FROM pg_catalog.pg_rewrite WHERE ev_class = :oid AND ev_type IN ('2', '3') ORDER BY 1
"""
_CHECKS: Final = """
SELECT conname::text AS name, pg_catalog.pg_get_constraintdef(oid) AS says,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = conrelid AND a.attnum = ANY (conkey) ORDER BY a.attnum) AS columns
FROM pg_catalog.pg_constraint WHERE contype = 'c' AND conrelid = :oid ORDER BY 1
"""
_TAKEN: Final = """
SELECT c.relname::text AS name, i.indrelid::regclass::text AS "on" FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid JOIN pg_catalog.pg_class t ON t.oid = :oid
WHERE c.relnamespace = t.relnamespace AND starts_with(c.relname, 'llmctx_' || t.relname || '_') AND i.indrelid <> t.oid
AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indrelid AND h.inhparent = t.oid)
ORDER BY 1
"""
_SENT: Final = """
SELECT DISTINCT p.pubname::text FROM pg_catalog.pg_publication p
JOIN LATERAL pg_catalog.pg_get_publication_tables(p.pubname) t ON t.relid = :oid OR t.relid IN
  (SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = :oid)
LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = t.relid
WHERE pg_catalog.to_jsonb(r) -> 'prattrs' IS NULL OR pg_catalog.to_jsonb(r) -> 'prattrs' = 'null' ORDER BY 1
"""
_PARTITIONED: Final = """
SELECT p.partstrat::text AS how, p.partdefid <> 0 AS has_default,
       CASE WHEN p.partexprs IS NOT NULL OR EXISTS (
                SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = p.partrelid
                AND a.attnum = ANY (p.partattrs::int2[]) AND a.attname NOT IN ('call_id', 'created_at'))
            THEN pg_catalog.pg_get_partkeydef(p.partrelid) END AS key,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs::int2[])) = ARRAY['created_at']
       AND p.partexprs IS NULL AS by_time,
       ARRAY(SELECT pg_catalog.pg_get_partition_constraintdef(inhrelid) FROM pg_catalog.pg_inherits
             WHERE inhparent = p.partrelid) AS conditions
FROM pg_catalog.pg_partitioned_table p WHERE p.partrelid = :oid
"""
_COMMENTS: Final = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_AS_JSON: Final = re.compile(r"\b(?!values\b)\w+\s*\(\s*(?:new|old)\s*(?:\.\s*\*)?\s*\)", re.IGNORECASE)


def copies_rows(source: str, transition: Sequence[str | None]) -> bool:
    """Return whether a trigger's function puts whole rows into another table: with one column more, that fails.

    By NEW.*, by a variable that holds NEW, by EXECUTE … USING NEW, or from a transition table.
    """
    code = _AS_JSON.sub("", _COMMENTS.sub(" ", source)).lower()
    rows = ["new", "old", *re.findall(r"\b(\w+)\s*:?=\s*(?:new|old)\s*;", code)]
    if re.search(rf"\busing\b[^;]*\b(?:{'|'.join(rows)})\b(?!\s*\.\s*\w)", code):
        rows.append(r"\$\d+")
    for name in filter(None, transition):
        tables = rf"\b(?:from|join)\s+\"?{re.escape(name.lower())}\"?"
        if re.search(rf"insert\s+into\b[^;]*\bselect\b(?:[^;]*,|\s+distinct)?\s*\*[^;]*{tables}", code):
            return True
        rows += [re.escape(name.lower()), *re.findall(tables + r"\s+(?:as\s+)?(\w+)", code)]
    whole = rf"(?<![\w.])\(?\s*(?:{'|'.join(rows)})\s*\)?\s*\.\s*\*"
    return re.search(rf"insert\s+into\b[^;]*\b(?:values|select)\b[^;]*?{whole}", code) is not None


def inspect_table(connection: Connection, name: str, schema: str | None) -> ExistingTable | None:
    """Return the table of that name, if there is one. Changes nothing."""
    sql = qualify_name(name, schema)
    # until the transaction ends the catalog says `text`, and not `"text"`: types and conditions are compared by name
    connection.execute(text("SELECT pg_catalog.set_config('quote_all_identifiers', 'off', true)"))
    seen = next(iter(catalog.rows(connection, _TABLE, sql)), None)
    if seen is None:
        return None

    def rows_of(question: str) -> Sequence[Row[Any]]:
        return connection.execute(text(question), {"oid": seen.oid}).all()

    parts = catalog.rows(connection, catalog.PARTITIONS, sql)
    divided = next((f"has a partition that is divided again, {part.name}" for part in parts if part.divided), None)
    uses: dict[str, list[str]] = {}
    for row in rows_of(_USES):
        uses.setdefault(row.column, []).append(row.what)
    table = ExistingTable(
        name=name,
        schema=schema,
        kind=seen.kind,
        owner=seen.owner,
        role=seen.role,
        is_owner=seen.is_owner,
        closed_schema=seen.closed_schema,
        rows=int(seen.rows) if seen.rows >= 0 else seen.bytes // 1000,  # they were not counted yet
        bytes=seen.bytes,
        columns=catalog.columns_of(connection, sql),
        indexes=catalog.indexes_of(connection, sql),
        references={
            column: row.parent
            for row in catalog.rows(connection, catalog.FOREIGN_KEYS, sql)
            if row.own
            for column in row.columns
        },
        partitions=[row.name for row in parts],
        dependents_by_column=uses,
        copying_triggers={
            row.name: row.function for row in rows_of(_TRIGGERS) if copies_rows(row.source, row.transition)
        },
        inserting_roles=[row[0] for row in rows_of(_INSERTING)],
        rules=[row[0] for row in rows_of(_RULES)],
        checks={row.name: (row.says, row.columns) for row in rows_of(_CHECKS)},
        publications=[row[0] for row in rows_of(_SENT)],
        taken_names={row.name: row.on for row in rows_of(_TAKEN)},
        immutable_reason=seen.fixed or divided,
    )
    for partitioned in rows_of(_PARTITIONED):
        missing = _missing_partition(connection, partitioned, table)
        table = replace(table, partition_key=partitioned.key, missing_partition=missing)
    return table


def _missing_partition(connection: Connection, partitioned: Row[Any], table: ExistingTable) -> str | None:
    """Return what `ExistingTable` says of it: unknown where partitions are by something else than a call's time."""
    takes_none = not partitioned.conditions
    if not takes_none and partitioned.by_time and not partitioned.has_default and partitioned.how == "r":
        now = "now() AT TIME ZONE 'UTC'" if "without" in table.columns["created_at"].type else "now()"
        question = f"SELECT {' OR '.join(partitioned.conditions)} FROM (SELECT {now} AS created_at) one"  # noqa: S608
        takes_none = not connection.exec_driver_sql(question).scalar()
    if not takes_none or partitioned.how == "h":
        return None
    return f"CREATE TABLE {table.qualify(f'{table.name}_default')} PARTITION OF {table.sql} DEFAULT"
