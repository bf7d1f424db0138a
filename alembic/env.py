"""Runs our migrations: for `llmctx migrate`, which hands over a connection, and for the plain `alembic` command.

The database is the host's: our version table is our own, and only our table is ever compared. Two processes that
migrate at once take turns. A table is made in one transaction, so a break leaves nothing half done; one that is there
is adopted in small ones, and a break leaves the rest for the next time.
"""

from __future__ import annotations

import asyncio
import logging.config
from typing import Any

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.schema import CreateSchema

from llmctx.settings import Settings, load
from llmctx.storage.engine import engine, take_turns
from llmctx.storage.table import call_log_table

config = context.config
if config.config_file_name is not None:  # the plain command, which has an ini file
    logging.config.fileConfig(config.config_file_name, disable_existing_loggers=False)


def settings() -> Settings:
    """Return the caller's settings, or those of the environment with alembic's -x arguments over them."""
    given = config.attributes.get("settings")
    if isinstance(given, Settings):
        return given
    x = context.get_x_argument(as_dictionary=True)
    return load(table=x.get("llmctx_table"), db_schema=x.get("llmctx_schema"))


SETTINGS = settings()
_LONGEST = 59
"""Of names of 63 characters; the name of the version table's key is four longer, so one of a long name has none."""
TABLE = call_log_table(SETTINGS.table, SETTINGS.db_schema)
config.attributes.setdefault("llmctx_table", SETTINGS.table)
config.attributes.setdefault("llmctx_schema", SETTINGS.db_schema)


def only_ours(name: str | None, kind: str, parents: Any) -> bool:
    """Keep autogenerate's eyes on our table; everything else belongs to the host."""
    if kind == "schema":
        return name == SETTINGS.db_schema
    if kind == "table":
        return name == SETTINGS.table
    return True


def configure(**how: Any) -> None:
    context.configure(
        target_metadata=TABLE.metadata,
        version_table=SETTINGS.version_table,
        version_table_schema=SETTINGS.db_schema,
        version_table_pk=len(SETTINGS.version_table) <= _LONGEST,
        include_schemas=SETTINGS.db_schema is not None,
        include_name=only_ours,
        compare_type=True,
        transactional_ddl=True,  # SQLite's too, once BEGIN has been said
        **how,
    )


def migrate(connection: Connection) -> None:
    """Behind a lock, in alembic's own transactions."""
    take_turns(connection)
    configure(connection=connection)
    with context.begin_transaction():
        if SETTINGS.db_schema is not None and not connection.dialect.has_schema(connection, SETTINGS.db_schema):
            connection.execute(CreateSchema(SETTINGS.db_schema))
        context.run_migrations()


async def connect_and_migrate() -> None:
    source = engine(SETTINGS, patience_s=None)
    try:
        async with source.connect() as connection:
            await connection.run_sync(migrate)
            await connection.commit()  # SQLite's; PostgreSQL's are alembic's
    finally:
        await source.dispose()


def write_sql() -> None:
    """Print the statements instead of running them."""
    configure(url=SETTINGS.database_url, literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        if SETTINGS.db_schema is not None:
            context.execute(CreateSchema(SETTINGS.db_schema, if_not_exists=True))
        context.run_migrations()


if context.is_offline_mode():
    write_sql()
elif (given := config.attributes.get("connection")) is not None:
    migrate(given)
else:
    asyncio.run(connect_and_migrate())
