"""A table as it stands, asked of `pg_catalog`, which every role may read. For llmctx_0001 alone: see adopt_0001.py."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

MARK = "added by llmctx"
"""Begins the comment of a column that llmctx added."""
COLUMNS = {
    "model": "text", "trace_id": "text", "session_id": "text", "conversation_id": "text", "user_id": "text",
    "agent_key": "text", "temperature": "double precision", "top_p": "double precision", "max_tokens": "integer",
    "prompt_tokens": "integer", "completion_tokens": "integer", "total_tokens": "integer", "latency_ms": "integer",
    "success": "boolean", "error_code": "text", "error_message": "text", "prompt_snapshot": "text",
    "response_snapshot": "text", "finished_at": "timestamp with time zone", "thread_id": "text", "node": "text",
    "provider": "text", "run_id": "uuid", "parent_run_id": "uuid", "status": "text", "identity_source": "text",
    "identity_reason": "text", "usage_source": "text", "finish_reason": "text", "reasoning_snapshot": "text",
    "cached_tokens": "integer", "reasoning_tokens": "integer", "ttft_ms": "integer", "tool_calls": "integer",
    "cost_usd": "numeric(18, 9)", "streamed": "boolean", "cached": "boolean", "attributes": "jsonb",
}  # fmt: skip
"""All but the two that a table must have to be a call log: call_id and created_at."""
quote = postgresql.dialect().identifier_preparer.quote


class Column(NamedTuple):
    name: str
    type: str
    required: bool
    """NOT NULL, and nothing but the insert could give it a value."""
    not_null: bool
    comment: str | None
    generated: bool = False
    """The database computes it from others."""

    @property
    def family(self) -> str:
        return re.sub(r"\(.*?\)", "", self.type)

    @property
    def size(self) -> int | None:
        found = re.search(r"\((\d+)", self.type)
        return int(found[1]) if found else None

    @property
    def marked(self) -> bool:
        return (self.comment or "").startswith(MARK)


class Key(NamedTuple):
    """An index."""

    name: str
    columns: tuple[str, ...]
    """Empty when it is over an expression."""
    unique: bool
    primary: bool
    valid: bool
    deferrable: bool
    predicate: str | None
    method: str


class Found(NamedTuple):
    """A table as it stands."""

    name: str
    schema: str | None
    kind: str
    """PostgreSQL's relkind: r is a table, p a partitioned one."""
    owner: str
    me: str
    mine: bool
    closed: str | None
    """Its schema, where the role may make nothing there: indexes, for one."""
    rows: int
    bytes: int
    columns: dict[str, Column]
    keys: list[Key]
    refers: dict[str, str]
    """Column -> the table that a foreign key of it points to."""
    referred: list[str]
    """Tables with a foreign key to this one."""
    partitions: list[str]
    uses: dict[str, list[str]]
    """Column -> views, policies, triggers, … that keep its type from being changed."""
    copying: dict[str, str]
    """Triggers that copy whole rows somewhere, and their functions."""
    inserting: list[str]
    """Roles that may insert, besides the owner."""
    rules: list[str]
    """Rules on INSERT or UPDATE."""
    checks: dict[str, tuple[str, list[str]]]
    """Check constraint -> what it says, and of which columns."""
    labels: dict[str, list[str]]
    """Column of an enumerated type -> its values."""
    sent: list[str]
    """Publications that send whole rows of it."""
    taken: dict[str, str]
    """Names of indexes that other tables have, beginning as ours would -> the table."""
    fixed: str | None
    """Why it can be given no columns, if so."""
    keyless: str | None
    """By what it is partitioned, where no key over call_id and created_at can be because of that."""
    homeless: str | None
    """A partition that would take in calls of now, as a statement, where there is none."""

    @property
    def sql(self) -> str:
        return f"{quote(self.schema)}.{quote(self.name)}" if self.schema else quote(self.name)

    @property
    def marked(self) -> list[Column]:
        """Those of its columns that were added by us, in their order."""
        return [column for column in self.columns.values() if column.marked]

    @property
    def facts(self) -> dict[str, list[str]]:
        """What was done to columns that are not ours: stands in the comment of the first that is."""
        said = (self.marked[0].comment or "")[len(MARK) :] if self.marked else ""
        try:
            facts = json.loads(said or "{}")
        except ValueError:  # somebody has written more into it
            facts = {}
        return {"defaults": facts.get("defaults", []), "nullable": facts.get("nullable", [])}

    @property
    def added(self) -> list[Key]:
        return [key for key in self.keys if key.name.startswith(f"llmctx_{self.name}_")]

    @property
    def made_by_us(self) -> bool:
        """Whether llmctx made the whole table."""
        ours = [key for key in self.keys if key.primary and key.name == f"pk_{self.name}"]
        return self.kind == "p" and not self.marked and any(key.columns == ("call_id", "created_at") for key in ours)


_TABLE = """
SELECT c.oid::bigint AS oid, c.relkind::text AS kind, pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       current_user::text AS me, pg_catalog.pg_has_role(c.relowner, 'USAGE') AS mine,
       CASE WHEN NOT pg_catalog.has_schema_privilege(c.relnamespace, 'CREATE')
            THEN c.relnamespace::regnamespace::text END AS closed,
       c.reltuples::float8 AS rows, pg_catalog.pg_total_relation_size(c.oid) AS bytes,
       CASE WHEN c.relispartition THEN 'is itself a partition of another table'
            WHEN c.reloftype <> 0 THEN 'was made OF a type' END AS fixed
FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(:name)
"""
_COLUMNS = """
SELECT a.attname::text AS name,
       pg_catalog.format_type(b.oid, b.mod) AS type,
       a.attnotnull AS not_null,
       a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS required,
       pg_catalog.col_description(a.attrelid, a.attnum) AS comment, a.attgenerated <> '' AS generated
FROM pg_catalog.pg_attribute a, LATERAL (  -- domains are what they are made of, through and through
    WITH RECURSIVE made AS (
        SELECT a.atttypid AS oid, a.atttypmod AS mod
        UNION ALL SELECT t.typbasetype, t.typtypmod
        FROM made JOIN pg_catalog.pg_type t ON t.oid = made.oid AND t.typtype = 'd'
    )
    SELECT made.oid, made.mod FROM made JOIN pg_catalog.pg_type t ON t.oid = made.oid AND t.typtype <> 'd'
) b
WHERE a.attrelid = :oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_KEYS = """
SELECT c.relname::text AS name, i.indisunique AS "unique", i.indisprimary AS "primary", i.indisvalid AS valid,
       NOT i.indimmediate AS deferrable, pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS predicate,
       m.amname::text AS method, i.indexprs IS NOT NULL AS expressions,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, at)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num
             WHERE k.at <= i.indnkeyatts ORDER BY k.at) AS columns
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_am m ON m.oid = c.relam
WHERE i.indrelid = :oid ORDER BY c.relname
"""
_REFERENCES = """
SELECT conrelid = :oid AS own, (CASE WHEN conrelid = :oid THEN confrelid ELSE conrelid END)::regclass::text AS other,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = conrelid AND a.attnum = ANY (conkey)) AS columns
FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conparentid = 0 AND (conrelid = :oid OR confrelid = :oid)
"""
_PARTITIONS = """
SELECT inhrelid::regclass::text AS name, c.relkind = 'p' AS divided
FROM pg_catalog.pg_inherits JOIN pg_catalog.pg_class c ON c.oid = inhrelid WHERE inhparent = :oid ORDER BY 1
"""
_USES = """
SELECT DISTINCT a.attname::text AS "column", pg_catalog.pg_describe_object(d.classid, d.objid, 0) AS what
FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
LEFT JOIN pg_catalog.pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = :oid
  AND (d.classid IN ('pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_trigger'::regclass, 'pg_proc'::regclass)
       OR f.adnum <> a.attnum)
ORDER BY 1, 2
"""
_TRIGGERS = """
SELECT t.tgname::text AS name, p.oid::regprocedure::text AS function, p.prosrc AS source,
       ARRAY[t.tgnewtable::text, t.tgoldtable::text] AS transition
FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
WHERE t.tgrelid = :oid AND NOT t.tgisinternal ORDER BY 1
"""
_INSERTING = """
SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END
FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
WHERE c.oid = :oid AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner ORDER BY 1
"""
_RULES = "SELECT rulename::text FROM pg_catalog.pg_rewrite WHERE ev_class = :oid AND ev_type IN ('2', '3') ORDER BY 1"
_CHECKS = """
SELECT conname::text AS name, pg_catalog.pg_get_constraintdef(oid) AS says,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = conrelid AND a.attnum = ANY (conkey) ORDER BY a.attnum) AS columns
FROM pg_catalog.pg_constraint WHERE contype = 'c' AND conrelid = :oid ORDER BY 1
"""
_LABELS = """
SELECT a.attname::text AS "column", array_agg(e.enumlabel::text ORDER BY e.enumsortorder) AS labels
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_enum e ON e.enumtypid IN (t.oid, t.typbasetype)
WHERE a.attrelid = :oid AND NOT a.attisdropped GROUP BY a.attname ORDER BY 1
"""
_TAKEN = """
SELECT c.relname::text AS name, i.indrelid::regclass::text AS "on" FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid JOIN pg_catalog.pg_class t ON t.oid = :oid
WHERE c.relnamespace = t.relnamespace AND starts_with(c.relname, 'llmctx_' || t.relname || '_') AND i.indrelid <> t.oid
AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indrelid AND h.inhparent = t.oid)
ORDER BY 1
"""
_SENT = """
SELECT DISTINCT p.pubname::text FROM pg_catalog.pg_publication p
JOIN LATERAL pg_catalog.pg_get_publication_tables(p.pubname) t ON t.relid = :oid OR t.relid IN
  (SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = :oid)
LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = t.relid
WHERE pg_catalog.to_jsonb(r) -> 'prattrs' IS NULL OR pg_catalog.to_jsonb(r) -> 'prattrs' = 'null' ORDER BY 1
"""
_DIVIDED = """
SELECT p.partstrat::text AS how, p.partdefid <> 0 AS rest,
       CASE WHEN p.partexprs IS NOT NULL OR EXISTS (
                SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = p.partrelid
                AND a.attnum = ANY (p.partattrs::int2[]) AND a.attname NOT IN ('call_id', 'created_at'))
            THEN pg_catalog.pg_get_partkeydef(p.partrelid) END AS keyless,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs::int2[])) = ARRAY['created_at']
       AND p.partexprs IS NULL AS by_time,
       ARRAY(SELECT pg_catalog.pg_get_partition_constraintdef(inhrelid) FROM pg_catalog.pg_inherits
             WHERE inhparent = p.partrelid) AS taking
FROM pg_catalog.pg_partitioned_table p WHERE p.partrelid = :oid
"""
_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_AS_JSON = re.compile(r"\b(?!values\b)\w+\s*\(\s*(?:new|old)\s*(?:\.\s*\*)?\s*\)", re.IGNORECASE)


def copies(source: str, transition: list[str | None]) -> bool:
    """Whether a trigger's function puts whole rows into another table: with one column more, that fails.

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


def _homeless(bind: sa.Connection, divided: Any, found: Found) -> str | None:
    """What `Found` says of it. Of partitions by something else than the time of a call it is not known."""
    takes_none = not divided.taking
    if not takes_none and divided.by_time and not divided.rest and divided.how == "r":
        now = "now() AT TIME ZONE 'UTC'" if "without" in found.columns["created_at"].type else "now()"
        question = f"SELECT {' OR '.join(divided.taking)} FROM (SELECT {now} AS created_at) one"  # noqa: S608
        takes_none = not bind.exec_driver_sql(question).scalar()
    if not takes_none or divided.how == "h":
        return None
    rest = quote(f"{found.name}_default")
    return f"CREATE TABLE {f'{quote(found.schema)}.' if found.schema else ''}{rest} PARTITION OF {found.sql} DEFAULT"


def look(bind: sa.Connection, name: str, schema: str | None) -> Found | None:
    """The table of that name, if there is one. Changes nothing."""
    qualified = f"{quote(schema)}.{quote(name)}" if schema else quote(name)
    # until the transaction ends the catalog says `text`, and not `"text"`: types and conditions are compared by name
    bind.execute(sa.text("SELECT pg_catalog.set_config('quote_all_identifiers', 'off', true)"))
    table = bind.execute(sa.text(_TABLE), {"name": qualified}).one_or_none()
    if table is None:
        return None

    def ask(question: str) -> list[Any]:
        return list(bind.execute(sa.text(question), {"oid": table.oid}))

    columns = [
        Column(row.name, row.type, row.required, row.not_null, row.comment, row.generated) for row in ask(_COLUMNS)
    ]
    keys = [
        Key(
            row.name, () if row.expressions else tuple(row.columns), row.unique, row.primary, row.valid,
            row.deferrable, row.predicate, row.method,
        )
        for row in ask(_KEYS)
    ]  # fmt: skip
    refers, referred = {}, []
    for row in ask(_REFERENCES):
        if row.own:
            refers.update(dict.fromkeys(row.columns, row.other))
        else:
            referred.append(row.other)
    parts = ask(_PARTITIONS)
    divided = [row.name for row in parts if row.divided]
    fixed = table.fixed or (f"has a partition that is divided again, {divided[0]}" if divided else None)
    uses: dict[str, list[str]] = {}
    for row in ask(_USES):
        uses.setdefault(row.column, []).append(row.what)
    copying = {row.name: row.function for row in ask(_TRIGGERS) if copies(row.source, row.transition)}
    divided = ask(_DIVIDED)
    rows = int(table.rows) if table.rows >= 0 else table.bytes // 1000  # nobody has counted them yet
    found = Found(
        name, schema, table.kind, table.owner, table.me, table.mine, table.closed, rows, table.bytes,
        {column.name: column for column in columns}, keys, refers, referred, [row.name for row in parts],
        uses, copying, [row[0] for row in ask(_INSERTING)], [row[0] for row in ask(_RULES)],
        {row.name: (row.says, row.columns) for row in ask(_CHECKS)},
        {row.column: row.labels for row in ask(_LABELS)}, [row[0] for row in ask(_SENT)],
        {row.name: row.on for row in ask(_TAKEN)}, fixed, None, None,
    )  # fmt: skip
    if not divided:
        return found
    return found._replace(keyless=divided[0].keyless, homeless=_homeless(bind, divided[0], found))
