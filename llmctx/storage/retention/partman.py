"""Tables that pg_partman manages: it makes their partitions and drops them, and llmctx only asks it to.

It is known by its table `part_config`, wherever that stands; a table that has no row there is llmctx's to look after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.errors import LlmctxError

_CONFIGS: Final = """
SELECT quote_ident(n.nspname) AS schema,
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS readable,
       (SELECT o.nspname || '.' || t.relname FROM pg_class t JOIN pg_namespace o ON o.oid = t.relnamespace
        WHERE t.oid = to_regclass(:name)) AS managed,
       EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = n.oid AND p.proname = 'run_maintenance') AS works
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = 'part_config' AND c.relkind = 'r' AND 3 = (
  SELECT count(*) FROM pg_attribute a
  WHERE a.attrelid = c.oid AND a.attname IN ('parent_table', 'premake', 'retention') AND NOT a.attisdropped)
"""


@dataclass(frozen=True, slots=True)
class ManagedTable:
    """The settings of pg_partman for the table."""

    schema: str
    """pg_partman's own, ready for statements."""
    table: str
    """As pg_partman calls ours."""
    premake: int
    retention: str | None
    is_installed: bool
    """Its function is there."""

    @property
    def maintenance(self) -> str:
        """Return the statement that lets it make and drop what is due."""
        return f"SELECT {self.schema}.run_maintenance(p_parent_table := {_literal(self.table)})"

    @property
    def step(self) -> str:
        kept = f"drops what is older than {self.retention}" if self.retention else "keeps every one"
        return f"let pg_partman look after the partitions: it makes {self.premake} beforehand, and {kept}"

    def retention_statement(self, days: int) -> str:
        """Return how to tell it for how long rows are kept."""
        tell = f"UPDATE {self.schema}.part_config SET retention = '{days} days', retention_keep_table = false"  # noqa: S608
        return (
            "pg_partman keeps all partitions, so expired rows go one by one. To let it drop whole ones: "
            f"{tell} WHERE parent_table = {_literal(self.table)};"
        )


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


async def find_managed_table(connection: AsyncConnection, log: Table) -> ManagedTable | None:
    """Return what pg_partman does for the table, None for nothing. Raises `LlmctxError` where that is hidden."""
    name = connection.dialect.identifier_preparer.format_table(log)
    for row in await connection.execute(text(_CONFIGS), {"name": name}):
        if not row.readable:
            raise LlmctxError(
                f"It cannot be seen whether pg_partman manages {name}: GRANT USAGE ON SCHEMA {row.schema} and GRANT "
                f"SELECT ON {row.schema}.part_config to this role, or use another role."
            )
        question = f"SELECT premake, retention FROM {row.schema}.part_config WHERE parent_table = :table"  # noqa: S608  quoted
        found = (await connection.execute(text(question), {"table": row.managed})).one_or_none()
        if found is not None:
            return ManagedTable(row.schema, row.managed, found.premake, found.retention, row.works)
    return None
