"""Spread the table over the nodes of a Citus cluster, by call: `llmctx migrate --distribute`.

By call, not by user: a call's key alone chooses the shard, so a row that comes twice always meets itself, and no user
is too big for one node.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from llmctx.core.errors import LlmctxError
from llmctx.migrate import texts_apart
from llmctx.migrate.state import changing
from llmctx.settings import Settings, settings_of
from llmctx.storage.catalog import literal, qualified
from llmctx.storage.distribution import is_installed
from llmctx.storage.engine import where

_SHARDS: Final = 32
_BY: Final = """
SELECT column_to_column_name(logicalrelid, partkey) FROM pg_dist_partition
WHERE logicalrelid = pg_catalog.to_regclass(:table) AND partmethod <> 'n'
"""


def distribute(database: Any = None, **given: Any) -> bool:
    """Distribute the table, which is there; return False if it is distributed already.

    Rows that it holds are moved, and writers wait meanwhile. Raise `LlmctxError` where there is no Citus, where it is
    distributed by another column, or where Citus refuses: a unique key without call_id, for one.
    """
    settings = settings_of(database, **given)
    return changing(settings, lambda connection, _: _distribute(connection, settings))


def _distribute(connection: Connection, settings: Settings) -> bool:
    if not is_installed(connection):
        raise LlmctxError(f"There is no Citus in {where(settings)}: CREATE EXTENSION citus, on the coordinator.")
    table = qualified(settings.table, settings.db_schema)
    by = connection.scalar(text(_BY), {"table": table})
    if by == "call_id":
        return False
    if by is not None:
        raise LlmctxError(f"Table {settings.table} is distributed by {by}, and not by call_id. Nothing was changed.")
    if texts_apart.there(connection, settings):
        raise LlmctxError(
            f"Table {settings.table} keeps its texts apart: it cannot be distributed. Nothing was changed."
        )
    statement = f"SELECT create_distributed_table({literal(table)}, 'call_id', shard_count := {_SHARDS})"
    try:
        connection.execute(text(statement))
        connection.commit()
    except DBAPIError as problem:
        connection.rollback()
        detail = getattr(getattr(problem.orig, "__cause__", None), "detail", None) or ""
        raise LlmctxError(
            f"Citus cannot distribute {settings.table}: {problem.orig}. {detail} It was not distributed."
        ) from problem
    return True
