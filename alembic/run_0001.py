"""How llmctx_0001 changes a table that others write to all the while.

Each step is a transaction of its own, which waits for its lock for a moment only: whoever comes behind us in the
queue waits no longer than that. If it does not get it, it lets everybody pass and tries again. A step is sent as one
statement, so that no lock is held while the network carries words, or after our machine has died. Indexes are built
beside the writers, outside of any transaction. For llmctx_0001 alone: see adopt_0001.py.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

LOCK_MS = 300
"""How long a step waits for its lock, and with it everybody who comes after it."""
VACUUM_MS = 2500
"""How long it waits for an autovacuum of the table, which gives way to those who wait for longer than deadlock_timeout
(1 s). Nobody waits behind us meanwhile: the lock is one that readers and writers do not mind."""
PATIENCE_S = 600.0
"""How long it tries."""
SMALL_BYTES = 64 * 2**20
"""A table of which an index is built within the blink that others can wait."""
_AGAIN = ("55P03", "40P01")  # no lock within LOCK_MS, or two who waited for each other
_HOLDERS = """
SELECT string_agg(DISTINCT 'process ' || a.pid || ' (' || coalesce(a.usename::text, '?') || ', '
                  || coalesce(a.state, 'at work') || ', for ' || date_trunc('second', clock_timestamp() - a.xact_start)
                  || ')', '; ')
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE l.relation = pg_catalog.to_regclass(:name) AND l.granted AND a.pid <> pg_catalog.pg_backend_pid()
"""
logger = logging.getLogger("alembic.runtime.migration")


def carry_out(
    context: MigrationContext,
    steps: Sequence[Any],
    table: Any,
    *,
    say: Callable[[str], None] | None = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Take `steps` on `table`, one by one. What has been done when one fails stays, and is not done again."""
    say = say or (lambda words: logger.info("llmctx: %s", words))
    if context.as_sql:
        with context.autocommit_block():
            for step in steps:
                for line in script(step):
                    execute(context, line)
        return
    with ExitStack() as stack:
        if not _leave_transaction(context, stack):
            _within(context, steps, table, say)
            return
        connection = context.connection
        assert connection is not None
        stack.enter_context(_unhurried(connection))
        for step in steps:
            if step.concurrently:
                _retried(connection, lambda step=step: _beside(connection, step), step, table, patience_s)
            else:
                _retried(connection, lambda step=step: _at_once(connection, step, table), step, table, patience_s)
            say(step.what)


def execute(context: MigrationContext, statement: str) -> None:
    """Run `statement`, or print it."""
    context.execute(_text(statement))


def script(step: Any) -> Iterator[str]:
    """`step` as statements for somebody who runs them by hand."""
    if step.concurrently:
        yield from step.sql
        return
    yield from ("BEGIN", f"SET LOCAL lock_timeout = '{LOCK_MS}ms'", *step.sql, "COMMIT")


def _leave_transaction(context: MigrationContext, stack: ExitStack) -> bool:
    """Whether we stand outside of a transaction now: not if alembic was given a connection that was in one."""
    try:
        stack.enter_context(context.autocommit_block())
    except (AssertionError, AttributeError):  # alembic's way to say so
        return False
    return True


def _within(context: MigrationContext, steps: Sequence[Any], table: Any, say: Callable[[str], None]) -> None:
    """In somebody's transaction, which holds its locks to its end: only where that is soon."""
    if table.bytes > SMALL_BYTES and any(step.concurrently for step in steps):
        raise CommandError(
            f"llmctx cannot adopt {table.sql} inside of a transaction of env.py's: indexes would keep its writers "
            "waiting. Let env.py hand alembic a connection without one, or run `llmctx migrate --yes` instead."
        )
    for step in steps:
        for statement in step.sql:
            execute(context, statement.replace(" CONCURRENTLY", "", 1) if step.concurrently else statement)
        say(step.what)


@contextmanager
def _unhurried(connection: sa.Connection) -> Iterator[None]:
    """Building an index takes its time, whatever the role's own limits are."""
    limits = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    for name in limits:
        connection.exec_driver_sql(f"SET {name} = 0")
    try:
        yield
    finally:
        if not connection.invalidated:
            for name in limits:
                connection.exec_driver_sql(f"RESET {name}")


def _at_once(connection: sa.Connection, step: Any, table: Any) -> None:
    first = [f"LOCK TABLE {table.sql} IN SHARE UPDATE EXCLUSIVE MODE"] if table.kind in ("r", "p") else []
    connection.execute(_text(as_one([*first, f"SET LOCAL lock_timeout = '{LOCK_MS}ms'", *step.sql])))


def as_one(statements: Sequence[str]) -> str:
    """`statements` as one, which takes one trip to the server: a transaction of its own, where none is open."""
    each = "".join(f"  EXECUTE $llmctx_one${statement}$llmctx_one$;\n" for statement in statements)
    return (
        "DO $llmctx_all$ BEGIN\n"
        f"  PERFORM pg_catalog.set_config('lock_timeout', '{VACUUM_MS}ms', true);\n{each}END $llmctx_all$"
    )


def _beside(connection: sa.Connection, step: Any) -> None:
    for statement in step.sql:
        connection.execute(_text(statement))


def _retried(connection: sa.Connection, take: Callable[[], None], step: Any, table: Any, patience_s: float) -> None:
    until, wait = time.monotonic() + patience_s, 0.5
    while True:
        try:
            take()
            return
        except DBAPIError as problem:
            original: Any = problem.orig
            code = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
            if code not in _AGAIN or step.concurrently:
                raise
            if time.monotonic() > until:
                holders = connection.scalar(sa.text(_HOLDERS), {"name": table.sql})
                raise CommandError(
                    f"Somebody holds {table.sql}, so that this could not be done within {patience_s:g} s: {step.what}. "
                    f"Holding it now: {holders or 'nobody'}. What was done before stays; run it again."
                ) from problem
        time.sleep(wait)  # let those pass who have queued behind us
        wait = min(wait * 1.5, 5.0)


def _text(statement: str) -> sa.TextClause:
    return sa.text(statement.replace(":", r"\:"))


# -- for a table that nobody has looked at ----------------------------------------------------------------------------


SHAPES = {
    "numbers": "a key on call_id, users are numbers",
    "texts": "a key on call_id, users are text",
    "unkeyed": "no key on call_id, users are text",
}


def unseen(name: str, schema: str | None, shape: str, adopt: Any) -> list[str]:
    """Statements that adopt a table of that shape without a look at it: which columns it lacks it says itself."""
    if shape not in SHAPES:
        known = ", ".join(f"{known} ({words})" for known, words in SHAPES.items())
        raise CommandError(f"There is no shape {shape!r}: say which one the table has, of {known}.")
    quote = adopt.quote
    table = f"{quote(schema)}.{quote(name)}" if schema else quote(name)
    known = {
        "columns": ", ".join(f"['{column}', '{kind}']" for column, kind in adopt.COLUMNS.items()),
        "names": ", ".join(f"'{column}'" for column in adopt.COLUMNS),
        "never": ", ".join(f"'{column}'" for column in adopt.NEVER_NULL),
        "table": table.replace("'", "''"),
        "name": name,
        "mark": adopt.MARK,
    }
    blocks = [
        re.sub(r"<(\w+)>", lambda found: known[found[1]], block).strip() for block in (_ADD, _DEFAULT, _LEFTOVERS)
    ]
    made = [f"SET lock_timeout = '{LOCK_MS}ms'", *blocks, "SET lock_timeout = 0"]
    nobody = "(user_id IS NULL AND llmctx_user_id IS NULL)" if shape == "numbers" else "user_id IS NULL"
    indexes = (
        *([("UNIQUE INDEX", "key", "(call_id) WHERE status IS NOT NULL")] if shape == "unkeyed" else []),
        ("INDEX", "session", "(session_id, created_at)"),
        ("INDEX", "user", "(user_id, created_at)"),
        ("INDEX", "created", "(created_at)"),
        ("INDEX", "unattributed", f"(created_at) WHERE session_id IS NULL OR {nobody}"),
        *([("INDEX", "user_text", _USER_TEXT)] if shape == "numbers" else []),
    )
    for kind, suffix, tail in indexes:
        made.append(f"CREATE {kind} CONCURRENTLY IF NOT EXISTS {quote(f'llmctx_{name}_{suffix}')} ON {table} {tail}")
    return [*made, "RESET lock_timeout"]


def only_ours(name: str, schema: str | None, quote: Callable[[str], str]) -> sa.TextClause:
    """A statement that fails unless llmctx made the table: before a script drops it."""
    table = (f"{quote(schema)}.{quote(name)}" if schema else quote(name)).replace("'", "''")
    known = {"table": table, "name": name}
    return _text(re.sub(r"<(\w+)>", lambda found: known[found[1]], _ONLY_OURS).strip())


_USER_TEXT = "(llmctx_user_id, created_at) WHERE llmctx_user_id IS NOT NULL"
_ONLY_OURS = """
DO $llmctx$ BEGIN IF NOT EXISTS (
  SELECT FROM pg_constraint WHERE conrelid = '<table>'::regclass AND conname = 'pk_<name>' AND contype = 'p'
) THEN
  RAISE EXCEPTION 'llmctx did not make this table: `llmctx migrate --downgrade` has to look at it'; END IF; END $llmctx$
"""
_ADD = """
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
  FOREACH c SLICE 1 IN ARRAY ARRAY[['trace_id'], ['session_id'], ['conversation_id'], ['user_id'], ['agent_key']] LOOP
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
_DEFAULT = """
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
_LEFTOVERS = """
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
