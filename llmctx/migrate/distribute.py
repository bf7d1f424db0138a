"""Spread the table over the nodes of a Citus cluster, by call: `llmctx migrate --distribute`.

By call, not by user: a call's key alone chooses the shard, so a row that comes twice always meets itself, and no user
is too big for one node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from llmctx.core.errors import LlmctxError
from llmctx.migrate import texts_apart
from llmctx.migrate.state import ask_database, run_exclusively
from llmctx.settings import Settings, settings_of
from llmctx.storage.catalog import literal, qualify_name
from llmctx.storage.distribution import is_installed
from llmctx.storage.engine import describe_database

SHARDS_PER_NODE: Final = 2
"""So many that a cluster may become twice as large. Each is a statement of its own in every batch and question."""
_NOW: Final = """
SELECT (SELECT count(*) FROM pg_dist_node WHERE shouldhaveshards AND isactive AND noderole = 'primary') AS nodes,
       column_to_column_name(d.logicalrelid, d.partkey) AS by,
       (SELECT count(*) FROM pg_dist_shard s WHERE s.logicalrelid = d.logicalrelid) AS shards
FROM (SELECT) AS once LEFT JOIN pg_dist_partition d
ON d.logicalrelid = pg_catalog.to_regclass(:table) AND d.partmethod <> 'n'
"""


@dataclass(frozen=True, slots=True)
class Distribution:
    """The distribution of the table over nodes, as it is or would be. `is_new`: it is not yet, or was not before."""

    shards: int
    nodes: int
    is_new: bool


def plan(database: Any = None, *, shards: int | None = None, **given: Any) -> Distribution:
    """Return what `distribute` would do. Raise `LlmctxError` where it would."""
    settings = settings_of(database, **given)
    return ask_database(settings, lambda connection: _plan(connection, settings, shards))


def distribute(database: Any = None, *, shards: int | None = None, **given: Any) -> Distribution:
    """Distribute the table, which is there, unless it is distributed already; return how it is.

    In two shards for each node, or as many as `shards` says. Rows that it holds are moved, and writers wait meanwhile.
    Raise `LlmctxError` where there is no Citus, where it is distributed by another column or in another number of
    shards than `shards`, or where Citus refuses: a unique key without call_id, for one.
    """
    settings = settings_of(database, **given)
    return run_exclusively(settings, lambda connection, _: _distribute(connection, settings, shards))


def _plan(connection: Connection, settings: Settings, shards: int | None) -> Distribution:
    if not is_installed(connection):
        raise LlmctxError(
            f"There is no Citus in {describe_database(settings)}: CREATE EXTENSION citus, on the coordinator."
        )
    table = qualify_name(settings.table, settings.db_schema)
    now = connection.execute(text(_NOW), {"table": table}).one()
    nodes = max(1, now.nodes)  # a cluster that has none is its coordinator
    if now.by is None:
        if texts_apart.has_texts_table(connection, settings):
            raise LlmctxError(
                f"Table {settings.table} keeps its texts in a separate table: it cannot be distributed. Nothing was "
                "changed."
            )
        return Distribution(shards or SHARDS_PER_NODE * nodes, nodes, is_new=True)
    if now.by != "call_id":
        raise LlmctxError(
            f"Table {settings.table} is distributed by {now.by}, and not by call_id. Nothing was changed."
        )
    if shards not in (None, now.shards):
        raise LlmctxError(
            f"Table {settings.table} is distributed in {now.shards} shards. Nothing was changed. This moves its rows: "
            f"SELECT alter_distributed_table({literal(table)}, shard_count := {shards})"
        )
    return Distribution(now.shards, nodes, is_new=False)


def _distribute(connection: Connection, settings: Settings, shards: int | None) -> Distribution:
    planned = _plan(connection, settings, shards)
    if not planned.is_new:
        return planned
    table = literal(qualify_name(settings.table, settings.db_schema))
    statement = f"SELECT create_distributed_table({table}, 'call_id', shard_count := {planned.shards})"
    try:
        connection.execute(text(statement))
        connection.commit()
    except DBAPIError as problem:
        connection.rollback()
        detail = getattr(getattr(problem.orig, "__cause__", None), "detail", None) or ""
        raise LlmctxError(
            f"Citus cannot distribute {settings.table}: {problem.orig}. {detail} It was not distributed."
        ) from problem
    return planned
