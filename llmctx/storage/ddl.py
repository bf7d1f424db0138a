"""Change a table that others write to all the while, without keeping them waiting.

Statements are sent as one, so that no lock is held while words travel, or after our machine has died. They wait for
their lock for a moment only: whatever queues behind them waits no longer than that. Without the lock everything that
has queued passes, and they are tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import DBAPIError

from llmctx.storage.db_errors import sqlstate

LOCK_MS: Final = 300
"""How long statements wait for their lock, and with them all that queue behind."""
_VACUUM_MS: Final = 2500
"""Patience with an autovacuum of the table, which gives way to sessions that wait for longer than deadlock_timeout
(1 s). Nothing queues behind this wait: its lock is one that readers and writers do not mind."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0
_CONTENTION: Final = ("55P03", "40P01")  # no lock within LOCK_MS, or two that waited for each other


def literal_text(statement: str) -> TextClause:
    """Return `statement` for SQLAlchemy, which would take what follows a colon for a parameter."""
    return text(statement.replace(":", r"\:"))


def join_statements(statements: Sequence[str], table: str | None = None) -> str:
    """Return `statements` as one, a transaction of its own where none is open; an autovacuum of `table` ends first."""
    first = [f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE"] if table else []
    lines = [f"  PERFORM pg_catalog.set_config('lock_timeout', '{_VACUUM_MS}ms', true);"]
    for statement in (*first, f"SET LOCAL lock_timeout = '{LOCK_MS}ms'", *statements):
        lines.append(f"  EXECUTE $llmctx_one${statement}$llmctx_one$;")  # noqa: PERF401  a comprehension hides the order
    return "\n".join(["DO $llmctx_all$ BEGIN", *lines, "END $llmctx_all$"])


def run_as_one(
    connection: Connection, statements: Sequence[str], table: str | None = None, *, patience_s: float
) -> None:
    """Run `statements` together, and commit; try again for `patience_s` while others hold a lock that they need.

    Raises SQLAlchemy's `DBAPIError`, of whose kind `is_contention` tells.
    """
    until, pause = time.monotonic() + patience_s, _FIRST_PAUSE_S
    autocommit = connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
    while True:
        try:
            connection.execute(literal_text(join_statements(statements, table)))
        except DBAPIError as problem:
            if not autocommit:
                connection.rollback()
            if not is_contention(problem) or time.monotonic() > until:
                raise
        else:
            if not autocommit:
                connection.commit()
            return
        _sleep(connection, pause)  # let those pass who have queued behind us
        pause = min(pause * 1.5, _LONGEST_PAUSE_S)


def is_contention(problem: DBAPIError) -> bool:
    """Return whether a statement failed only because others held its lock."""
    return sqlstate(problem) in _CONTENTION


def _sleep(connection: Connection, seconds: float) -> None:
    """Wait without holding up the event loop of an asynchronous driver."""
    run_async = getattr(connection.connection.dbapi_connection, "run_async", None)
    if run_async is None:
        time.sleep(seconds)
    else:
        run_async(lambda _: asyncio.sleep(seconds))
