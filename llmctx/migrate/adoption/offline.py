"""Scripts for a table that cannot be looked at: what it lacks it finds out itself, in PL/pgSQL."""

from __future__ import annotations

import re
from typing import Final

from alembic.util import CommandError

from llmctx.migrate.adoption.checks import IDS, NEVER_NULL, Columns
from llmctx.migrate.adoption.inspect import MARK
from llmctx.storage.catalog import qualify_name, quote
from llmctx.storage.ddl import LOCK_MS

_SHAPES: Final = {
    "numbers": "a key on call_id, users are numbers",
    "texts": "a key on call_id, users are text",
    "unkeyed": "no key on call_id, users are text",
}


def adoption_statements(name: str, schema: str | None, shape: str, wanted: Columns) -> list[str]:
    """Return the statements that adopt a table of that shape."""
    if shape not in _SHAPES:
        known = ", ".join(f"{known} ({words})" for known, words in _SHAPES.items())
        raise CommandError(f"There is no shape {shape!r}: say which one the table has, of {known}.")
    blocks = [_filled(block, name, schema, wanted) for block in (_ADD, _DEFAULT, _LEFTOVERS)]
    made = [f"SET lock_timeout = '{LOCK_MS}ms'", *blocks, "SET lock_timeout = 0"]
    no_user = "(user_id IS NULL AND llmctx_user_id IS NULL)" if shape == "numbers" else "user_id IS NULL"
    user_text = "(llmctx_user_id, created_at) WHERE llmctx_user_id IS NOT NULL"
    indexes = (
        *([("UNIQUE INDEX", "key", "(call_id) WHERE status IS NOT NULL")] if shape == "unkeyed" else []),
        ("INDEX", "session", "(session_id, created_at)"),
        ("INDEX", "user", "(user_id, created_at)"),
        ("INDEX", "created", "(created_at)"),
        ("INDEX", "unattributed", f"(created_at) WHERE session_id IS NULL OR {no_user}"),
        *([("INDEX", "user_text", user_text)] if shape == "numbers" else []),
    )
    for kind, suffix, tail in indexes:
        index, table = quote(f"llmctx_{name}_{suffix}"), qualify_name(name, schema)
        made.append(f"CREATE {kind} CONCURRENTLY IF NOT EXISTS {index} ON {table} {tail}")
    return [*made, "RESET lock_timeout"]


def add_columns(name: str, schema: str | None, adding: Columns) -> list[str]:
    """Return the statements that add columns to a table that is fresh or adopted, and mark them in an adopted one."""
    block = _filled(_ADD_TO_EITHER, name, schema, adding)
    return ["BEGIN", f"SET LOCAL lock_timeout = '{LOCK_MS}ms'", block, "COMMIT"]


def drop_columns(name: str, schema: str | None, dropping: Columns) -> list[str]:
    """Return the statements that take columns off a table that llmctx made."""
    drop = ", ".join(f"DROP COLUMN IF EXISTS {quote(column)}" for column in dropping)
    return [refuse_others(name, schema), f"ALTER TABLE {qualify_name(name, schema)} {drop}"]


def refuse_others(name: str, schema: str | None) -> str:
    """Return the statement that fails unless llmctx made the table: before a script drops something of it."""
    return _filled(_ONLY_OURS, name, schema, {})


def _filled(block: str, name: str, schema: str | None, wanted: Columns) -> str:
    known = {
        "columns": ", ".join(f"['{column}', '{kind}']" for column, kind in wanted.items()),
        "names": ", ".join(f"'{column}'" for column in wanted),
        "ids": ", ".join(f"['{column}']" for column in IDS if column != "thread_id"),
        "never": ", ".join(f"'{column}'" for column in NEVER_NULL),
        "table": qualify_name(name, schema).replace("'", "''"),
        "name": name,
        "mark": MARK,
    }
    return re.sub(r"<(\w+)>", lambda placeholder: known[placeholder[1]], block).strip()


_ONLY_OURS: Final = """
DO $llmctx$ BEGIN IF NOT EXISTS (
  SELECT FROM pg_constraint WHERE conrelid = '<table>'::regclass AND conname = 'pk_<name>' AND contype = 'p'
) THEN
  RAISE EXCEPTION 'llmctx did not make this table: `llmctx migrate --downgrade` has to look at it'; END IF; END $llmctx$
"""
_ADD: Final = """
DO $llmctx$
DECLARE
  t regclass := '<table>'; c text[];
BEGIN
  FOREACH c SLICE 1 IN ARRAY ARRAY[<columns>] LOOP
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = c[1] AND NOT attisdropped) THEN
      EXECUTE 'ALTER TABLE ' || t || ' ADD COLUMN ' || quote_ident(c[1]) || ' ' || c[2];
      EXECUTE 'COMMENT ON COLUMN ' || t || '.' || quote_ident(c[1]) || ' IS ''<mark>''';
    END IF;
  END LOOP;
  FOREACH c SLICE 1 IN ARRAY ARRAY[<ids>] LOOP
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = c[1] AND NOT attisdropped
               AND format_type(atttypid, NULL) NOT IN ('text', 'character varying', 'character'))
       AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = 'llmctx_' || c[1] AND NOT attisdropped)
    THEN
      EXECUTE 'ALTER TABLE ' || t || ' ADD COLUMN llmctx_' || c[1] || ' text';
      EXECUTE 'COMMENT ON COLUMN ' || t || '.llmctx_' || c[1] || ' IS ''<mark>''';
    END IF;
  END LOOP;
END
$llmctx$
"""
_ADD_TO_EITHER: Final = """
DO $llmctx$
DECLARE
  t regclass := '<table>'; c text[];
BEGIN
  FOREACH c SLICE 1 IN ARRAY ARRAY[<columns>] LOOP
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = c[1] AND NOT attisdropped) THEN
      EXECUTE 'ALTER TABLE ' || t || ' ADD COLUMN ' || quote_ident(c[1]) || ' ' || c[2];
      IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = t AND conname = 'pk_<name>' AND contype = 'p') THEN
        EXECUTE 'COMMENT ON COLUMN ' || t || '.' || quote_ident(c[1]) || ' IS ''<mark>''';
      END IF;
    END IF;
  END LOOP;
END
$llmctx$
"""
_DEFAULT: Final = """
DO $llmctx$
DECLARE
  t regclass := '<table>'; c record; d text; defaults text[] = '{}'; nullable text[] = '{}'; carrier text;
BEGIN
  FOR c IN SELECT a.attname AS name, format_type(a.atttypid, NULL) AS kind, a.atttypmod - 4 AS size, a.attnum AS num
           FROM pg_attribute a WHERE a.attrelid = t AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
           AND NOT a.attname = ANY (ARRAY[<never>])
  LOOP
    IF c.name = ANY (ARRAY[<names>]) THEN
      EXECUTE 'ALTER TABLE ' || t || ' ALTER COLUMN ' || quote_ident(c.name) || ' DROP NOT NULL';
      nullable := nullable || c.name::text;
    ELSIF EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attnum = c.num AND NOT atthasdef
                  AND attidentity = '') THEN
      d := CASE WHEN c.kind = 'uuid' THEN 'gen_random_uuid()'
                WHEN c.kind IN ('text', 'character varying', 'character') AND (c.size < 0 OR c.size >= 36)
                THEN '(gen_random_uuid())::text' END;
      IF d IS NULL OR NOT EXISTS (SELECT FROM pg_index WHERE indrelid = t AND indisunique
                                  AND indkey::text = c.num::text) THEN
        RAISE EXCEPTION USING MESSAGE = 'column ' || c.name || ' is NOT NULL and has no default: give it one';
      END IF;
      EXECUTE 'ALTER TABLE ' || t || ' ALTER COLUMN ' || quote_ident(c.name) || ' SET DEFAULT ' || d;
      defaults := defaults || c.name::text;
    END IF;
  END LOOP;
  SELECT attname INTO carrier FROM pg_attribute WHERE attrelid = t AND NOT attisdropped
    AND starts_with(col_description(attrelid, attnum), '<mark>') ORDER BY attnum LIMIT 1;
  IF carrier IS NOT NULL AND (defaults <> '{}' OR nullable <> '{}') THEN
    EXECUTE 'COMMENT ON COLUMN ' || t || '.' || quote_ident(carrier) || ' IS '
      || quote_literal('<mark> ' || jsonb_build_object('defaults', defaults, 'nullable', nullable)::text);
  END IF;
END
$llmctx$
"""
_LEFTOVERS: Final = """
DO $llmctx$
DECLARE
  i regclass;
BEGIN
  FOR i IN SELECT indexrelid FROM pg_index JOIN pg_class c ON c.oid = indexrelid
           WHERE indrelid = '<table>'::regclass AND NOT indisvalid AND starts_with(c.relname, 'llmctx_<name>_')
  LOOP
    EXECUTE 'DROP INDEX ' || i;
  END LOOP;
END
$llmctx$
"""
