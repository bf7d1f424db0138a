"""Take the steps of a plan on a table that others write to all the while.

Each step is a transaction of its own, behind a short lock (`storage/ddl.py`); indexes are built beside the writers,
outside of any transaction. What has been done when a step fails stays, and is not done again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from llmctx.migrate.adoption.inspect import ExistingTable
from llmctx.migrate.adoption.plan import Step
from llmctx.storage import catalog
from llmctx.storage.ddl import LOCK_MS, is_contention, literal_text, run_as_one

Say = Callable[[str], None]
PATIENCE_S: Final = 600.0
"""How long a step is tried."""
_SMALL_BYTES: Final = 64 * 2**20
"""A table of which an index is built within the blink that others can wait."""
_HOLDERS: Final = """
SELECT string_agg(DISTINCT 'process ' || a.pid || ' (' || coalesce(a.usename::text, '?') || ', '
                  || coalesce(a.state, 'at work') || ', for ' || date_trunc('second', clock_timestamp() - a.xact_start)
                  || ')', '; ')
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE l.relation = pg_catalog.to_regclass(:table) AND l.granted AND a.pid <> pg_catalog.pg_backend_pid()
"""
_LIMITS: Final = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
_logger: Final = logging.getLogger("alembic.runtime.migration")


def carry_out(
    context: MigrationContext,
    steps: Sequence[Step],
    table: ExistingTable,
    *,
    say: Say | None = None,
    patience_s: float | None = None,
) -> None:
    """Take `steps` on `table`, one by one, and `say` each when it is done; or print them where alembic is offline.

    Raises alembic's `CommandError` where others hold the table for longer than `patience_s`.
    """
    say = say or (lambda words: _logger.info("llmctx: %s", words))
    if context.as_sql:
        with context.autocommit_block():
            for step in steps:
                for line in manual_statements(step):
                    context.execute(literal_text(line))
        return
    with ExitStack() as stack:
        if not _leave_transaction(context, stack):
            _within_transaction(context, steps, table, say)
            return
        connection = context.connection
        assert connection is not None
        stack.enter_context(_without_limits(connection))
        for step in steps:
            if step.concurrently:
                for statement in step.sql:
                    connection.execute(literal_text(statement))
            else:
                _behind_a_lock(connection, step, table, PATIENCE_S if patience_s is None else patience_s)
            say(step.what)


def manual_statements(step: Step) -> tuple[str, ...]:
    """Return the statements of `step` to be run by hand."""
    return step.sql if step.concurrently else ("BEGIN", f"SET LOCAL lock_timeout = '{LOCK_MS}ms'", *step.sql, "COMMIT")


def _leave_transaction(context: MigrationContext, stack: ExitStack) -> bool:
    """Return whether we stand outside of a transaction now: not if alembic's connection was in one already."""
    try:
        stack.enter_context(context.autocommit_block())
    except (AssertionError, AttributeError):  # alembic's way to say so
        return False
    return True


def _within_transaction(context: MigrationContext, steps: Sequence[Step], table: ExistingTable, say: Say) -> None:
    """Take the steps in the host's transaction, which holds its locks to its end: only where that is soon."""
    if table.bytes > _SMALL_BYTES and any(step.concurrently for step in steps):
        raise CommandError(
            f"llmctx cannot adopt {table.sql} inside of a transaction of env.py's: indexes would keep its writers "
            "waiting. Let env.py hand alembic a connection without one, or run `llmctx migrate --yes` instead."
        )
    for step in steps:
        for statement in step.sql:
            context.execute(literal_text(statement.replace(" CONCURRENTLY", "", 1) if step.concurrently else statement))
        say(step.what)


@contextmanager
def _without_limits(connection: Connection) -> Iterator[None]:
    """Lift the role's own time limits for the block: building an index takes its time."""
    for name in _LIMITS:
        connection.exec_driver_sql(f"SET {name} = 0")
    try:
        yield
    finally:
        if not connection.invalidated:
            for name in _LIMITS:
                connection.exec_driver_sql(f"RESET {name}")


def _behind_a_lock(connection: Connection, step: Step, table: ExistingTable, patience_s: float) -> None:
    try:
        run_as_one(connection, step.sql, table.sql if table.kind in ("r", "p") else None, patience_s=patience_s)
    except DBAPIError as problem:
        if not is_contention(problem):
            raise
        ((holders,),) = catalog.rows(connection, _HOLDERS, table.sql)
        raise CommandError(
            f"Another transaction holds {table.sql}, so this could not be done within {patience_s:g} s: {step.what}. "
            f"Holding it now: {holders or 'none'}. The steps before it stay done; run it again."
        ) from problem
