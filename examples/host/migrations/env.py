"""The application's own alembic. What llmctx asks of it is one line: `include_object`."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from alembic import context
from models import metadata
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from llmctx.migrate.commands import include_object

URL = os.environ["DATABASE_URL"]


def configure(**how: Any) -> None:
    context.configure(
        target_metadata=metadata,
        include_object=include_object,  # autogenerate leaves alone what llmctx has made or added
        compare_server_default=True,
        transaction_per_migration=True,
        **how,
    )


def migrate(connection: Connection) -> None:
    configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def connect() -> None:
    engine = create_async_engine(URL, poolclass=NullPool)
    async with engine.connect() as connection:  # not `begin`: indexes are built outside of transactions
        await connection.run_sync(migrate)
    await engine.dispose()


if context.is_offline_mode():
    configure(url=URL, literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(connect())
