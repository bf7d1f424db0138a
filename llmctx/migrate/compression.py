"""Let PostgreSQL compress texts by lz4 where it can: half the work of a row for the server, and a tenth less on disk.

What a column's compression is says only how new values are stored: rows stay as they are, and nothing is rewritten.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from llmctx.core.diagnostics import diagnostics
from llmctx.core.record import SNAPSHOTS
from llmctx.migrate.adoption.inspect import MARK, facts_in
from llmctx.migrate.adoption.plan import Step, note_facts
from llmctx.settings import Settings
from llmctx.storage import texts_table
from llmctx.storage.catalog import qualify_name
from llmctx.storage.ddl import run_as_one

_PATIENCE_S: Final = 10.0
_TEXTS: Final = [*SNAPSHOTS, "error_message", "attributes"]
_CAN: Final = """
SELECT setting FROM pg_catalog.pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
"""
_LACKING: Final = """
SELECT c.oid::pg_catalog.regclass::text AS name, array_agg(quote_ident(a.attname) ORDER BY a.attnum) AS columns
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE (c.oid = pg_catalog.to_regclass(:table) OR c.oid IN (
           SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = pg_catalog.to_regclass(:table)))
  AND c.relkind IN ('r', 'p') AND pg_catalog.pg_has_role(c.relowner, 'USAGE')
  AND NOT a.attisdropped AND a.attlen = -1 AND a.attstorage IN ('x', 'm') AND a.attname = ANY (:texts)
  AND a.attcompression <> 'l' AND NOT (a.attcompression = '' AND :default = 'lz4')
GROUP BY c.oid ORDER BY c.relkind DESC, 1
"""
_NOTES: Final = """
SELECT a.attname, pg_catalog.col_description(a.attrelid, a.attnum) AS says, c.oid::pg_catalog.regclass::text AS name
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
WHERE a.attrelid = pg_catalog.to_regclass(:table) AND a.attnum > 0 AND NOT a.attisdropped
  AND pg_catalog.starts_with(pg_catalog.col_description(a.attrelid, a.attnum), :mark)
ORDER BY a.attnum LIMIT 1
"""


def compression_step(connection: Connection, settings: Settings) -> Step | None:
    """Return what is to be done; None where all is done, or the server or the role cannot."""
    if not settings.is_postgresql:
        return None
    try:
        with connection.begin_nested():
            default = connection.scalar(text(_CAN))
            if default is None:
                return None
            asked = {"texts": _TEXTS, "default": default}
            found = [
                row
                for table in (settings.table, texts_table.name_of(settings.table))
                for row in connection.execute(
                    text(_LACKING), {**asked, "table": qualify_name(table, settings.db_schema)}
                )
            ]
    except DBAPIError:  # a server that only speaks PostgreSQL's protocol
        return None
    if not found:
        return None
    statements = [
        f"ALTER TABLE {row.name} " + ", ".join(f"ALTER COLUMN {one} SET COMPRESSION lz4" for one in row.columns)
        for row in found
    ]
    return Step(
        "compress new texts with lz4; existing rows stay as they are",
        (*statements, *_notes(connection, settings, found[0].columns)),
        "a moment",
    )


def _notes(connection: Connection, settings: Settings, columns: list[str]) -> list[str]:
    """Return what notes `columns` in an adopted table, for the way back."""
    asked = {"table": qualify_name(settings.table, settings.db_schema), "mark": MARK}
    note = connection.execute(text(_NOTES), asked).one_or_none()
    if note is None:
        return []
    facts = facts_in(note.says)
    facts["compressed"] = sorted({*facts.get("compressed", ()), *columns})
    return [note_facts(note.name, note.attname, facts)]


def compress(connection: Connection, settings: Settings) -> None:
    """Set it. Where others hold the table, or the server refuses, it is left to the next time."""
    todo = compression_step(connection, settings)
    connection.commit()
    if todo is not None:
        try:
            run_as_one(connection, todo.sql, patience_s=_PATIENCE_S)
        except DBAPIError as problem:
            connection.rollback()
            diagnostics.count("compression_failed", "texts are not compressed with lz4 yet: %s", problem.orig)
