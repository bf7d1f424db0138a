"""Keep texts in a table of their own, partitioned by day: `llmctx migrate --texts-apart`.

It is found by looking: writers and readers of this version use it within a minute, and rows of before, and of older
versions, keep their texts. An index finds these, so that `llmctx retain` need not look through all rows for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, inspect, text

from llmctx.core.errors import ConfigError, LlmctxError
from llmctx.core.record import SNAPSHOTS
from llmctx.migrate.adoption.execute import Say, carry_out
from llmctx.migrate.adoption.inspect import ExistingTable, inspect_table
from llmctx.migrate.adoption.plan import Step, index_each_partition
from llmctx.settings import Settings
from llmctx.storage import catalog, texts_table
from llmctx.storage.catalog import qualify_name, quote
from llmctx.storage.distribution import has_distributed
from llmctx.storage.engine import describe_database

_GRANTS: Final = """
SELECT a.privilege_type AS right,
       CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END AS whom
FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
WHERE c.oid = pg_catalog.to_regclass(:table) AND a.grantee <> c.relowner
  AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') ORDER BY 2, 1
"""
_BROKEN: Final = """
SELECT i.indexrelid::pg_catalog.regclass::text AS name FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i'
JOIN pg_catalog.pg_inherits h ON h.inhrelid = i.indrelid
WHERE h.inhparent = pg_catalog.to_regclass(:table) AND NOT i.indisvalid AND starts_with(c.relname, :index)
"""
"""Indexes of partitions whose making was broken off."""


def has_texts_table(connection: Connection, settings: Settings) -> bool:
    """Return whether there is a table of texts."""
    if not settings.is_postgresql:
        return False
    return any(texts_table.is_one(row.columns) for row in catalog.rows(connection, texts_table.LOOK, _texts(settings)))


def _texts(settings: Settings) -> str:
    return qualify_name(texts_table.name_of(settings.table), settings.db_schema)


def no_partitions() -> ConfigError:
    """Return what there is to say of SQLite."""
    return ConfigError(
        "Texts can be kept in a separate table only in PostgreSQL: SQLite has no partitions. Leave out --texts-apart."
    )


def first_step(settings: Settings) -> str:
    """Return in words what is done where there is no call log yet."""
    return f"keep texts in a separate table, {texts_table.name_of(settings.table)} (partitioned by day)"


def plan(connection: Connection, settings: Settings, table: ExistingTable | None) -> list[Step]:
    """Return the steps that are left. `table` is the call log, None where there is none.

    Raise `LlmctxError` where it is not one that llmctx has made, alone and on one server.
    """
    if not settings.is_postgresql:
        raise no_partitions()
    if table is None:
        return []
    lacking = [name for name in SNAPSHOTS if name not in table.columns or table.columns[name].type != "text"]
    if not table.made_by_us or lacking:
        raise LlmctxError(
            f"Table {table.name} was not made by llmctx, or has been changed: its texts cannot be kept in a separate "
            f"table. Nothing was changed in {describe_database(settings)}."
        )
    if has_distributed(connection, table.sql):
        raise LlmctxError(f"Table {table.name} is distributed by Citus: its texts cannot be kept in a separate table.")
    if triggers := connection.scalars(text(texts_table.TRIGGERS), {"log": table.sql}).all():
        raise LlmctxError(
            f"Triggers of {table.name} ({', '.join(triggers)}) would see rows without their texts, which cannot be "
            f"kept apart. Nothing was changed in {describe_database(settings)}."
        )
    steps = []
    if not has_texts_table(connection, settings):
        name = texts_table.name_of(settings.table)
        if inspect(connection).has_table(name, settings.db_schema):
            raise LlmctxError(f"There is another table {name} in {describe_database(settings)}. Nothing was changed.")
        steps.append(Step(first_step(settings), tuple(_make(connection, settings, table)), "a moment"))
    return [*steps, *_index(connection, table)]


def _make(connection: Connection, settings: Settings, table: ExistingTable) -> Iterator[str]:
    texts, now = _texts(settings), datetime.now(UTC)
    columns = ", ".join(f"{quote(name)} text" for name in SNAPSHOTS)
    key = "call_id uuid NOT NULL, created_at timestamp with time zone NOT NULL"
    yield f"CREATE TABLE {texts} ({key}, {columns}, PRIMARY KEY (call_id, created_at)) PARTITION BY RANGE (created_at)"
    yield f"COMMENT ON TABLE {texts} IS 'texts of {table.name}, made by llmctx'"
    parts = [(texts_table.name_of(settings.table) + "_default", "DEFAULT")]
    for ahead in range(-1, texts_table.DAYS_AHEAD + 1):
        day = texts_table.day(now, ahead)
        first, after = day.bounds()
        parts.append((day.partition(texts_table.name_of(settings.table)), f"FOR VALUES FROM ({first}) TO ({after})"))
    for name, bounds in parts:
        yield f"CREATE TABLE {qualify_name(name, settings.db_schema)} PARTITION OF {texts} {bounds}"
    for name in (texts, *(qualify_name(name, settings.db_schema) for name, _ in parts)):
        yield f"ALTER TABLE {name} OWNER TO {quote(table.owner)}"
    for grant in catalog.rows(connection, _GRANTS, table.sql):
        yield f"GRANT {grant.right} ON {texts} TO {grant.whom}"


def _index(connection: Connection, table: ExistingTable) -> Iterator[Step]:
    name = texts_table.index_name(table.name)
    if any(index.name == name and index.valid for index in table.indexes):
        return
    for broken in catalog.rows(connection, _BROKEN, table.sql, index=name):
        yield Step(f"drop {broken.name}, which was left unfinished", (f"DROP INDEX {broken.name}",), "a moment")
    tail, what = f" (created_at) WHERE {texts_table.has_texts()}", f"index {name}: which rows hold texts themselves"
    yield from index_each_partition(table, "INDEX", name, tail, what, 0)


def create_texts_table(
    connection: Connection, settings: Settings, *, say: Say | None, patience_s: float | None
) -> None:
    """Take the steps that are left, beside writers and readers of the call log, which is there."""
    from alembic.migration import MigrationContext

    table = inspect_table(connection, settings.table, settings.db_schema) if settings.is_postgresql else None
    steps = plan(connection, settings, table)
    connection.rollback()
    if table is not None:
        carry_out(MigrationContext.configure(connection), steps, table, say=say, patience_s=patience_s)
