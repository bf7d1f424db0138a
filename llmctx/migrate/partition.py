"""`llmctx partition`: plan, rehearsal, the way there and the way back. See `partition_steps.py` for how."""

from __future__ import annotations

import time
from typing import Any, Final

from sqlalchemy import Connection, text

from llmctx.core.errors import LlmctxError
from llmctx.core.text import counted
from llmctx.migrate.adoption.plan import Step
from llmctx.migrate.partition_steps import Conversion, Say
from llmctx.migrate.state import ask_database, run_exclusively
from llmctx.settings import Settings
from llmctx.storage.engine import describe_database

REHEARSAL: Final = "llmctx_rehearsal"
"""A schema that is there for as long as a rehearsal."""


def _open(connection: Connection, settings: Settings, **more: Any) -> Conversion:
    if not settings.is_postgresql:
        raise LlmctxError(f"{describe_database(settings)} has no partitions.")
    return Conversion(connection, settings, **more)


def plan(settings: Settings, *, back: bool = False, drop_foreign_keys: bool = False) -> list[Step]:
    """Return what `partition` would do now: steps with `what`, `lock`, `takes_s` and `sql`."""

    def look(connection: Connection) -> list[Step]:
        seen = _open(connection, settings)
        if not back:
            return list(seen.forward_steps(drop_foreign_keys=drop_foreign_keys))
        steps = list(seen.backward_steps())
        if steps or seen.state().making:
            move = Step("move rows of later months back into it, 5,000 at a time", (), "none")
            tidy = Step("drop what was made for the partitions, and restore dropped foreign keys", (), "a moment")
            steps += [move, tidy]
        return steps

    return ask_database(settings, look)


def notes(settings: Settings) -> list[str]:
    """Return what one should know before: which statements fail afterwards."""
    return ask_database(settings, lambda connection: list(_open(connection, settings).notes()))


def partition(
    settings: Settings, *, back: bool = False, drop_foreign_keys: bool = False, say: Say | None = None
) -> None:
    """Partition the table, or lead it back. No transaction waits longer than a moment; after a break, run it again."""

    def change(connection: Connection, _: Any) -> None:
        seen = _open(connection, settings, say=say or (lambda _: None))
        if back:
            lead_back(seen)
        else:
            _carry(seen, list(seen.forward_steps(drop_foreign_keys=drop_foreign_keys)))

    run_exclusively(settings, change)


def lead_back(seen: Conversion) -> None:
    """Lead the table back, all of the way."""
    _carry(seen, list(seen.backward_steps()))
    for part in seen.parts():
        moved = 0
        while some := seen.move(part):
            moved += some
            seen.say(f"moved {counted(moved, 'row')} of {part} back")
    _carry(seen, list(seen.cleanup_steps()))


def rehearse(settings: Settings, *, rows: int = 10_000, say: Say | None = None) -> dict[str, Any]:
    """Partition a copy of some rows in a schema of its own, lead it back, and compare. Touches nothing else."""

    def change(connection: Connection, _: Any) -> dict[str, Any]:
        real = _open(connection, settings)
        if real.state().kind == "p":
            raise LlmctxError(f"{real.qualify()} is partitioned already: there is nothing to rehearse.")
        if problems := real.problems(drop_foreign_keys=True):
            raise LlmctxError(f"{real.qualify()} cannot be partitioned: {'; '.join(problems)}. Nothing was changed.")
        table = real.inspect()
        seen = _open(connection, settings, schema=REHEARSAL, say=say or (lambda _: None))
        share = min(100.0, 120.0 * rows / max(1, table.rows))
        names = ", ".join(real.columns())
        sample = f"SELECT {names} FROM {real.qualify()} TABLESAMPLE SYSTEM ({share}) LIMIT {rows}"
        try:
            for statement in (
                f"DROP SCHEMA IF EXISTS {REHEARSAL} CASCADE",
                f"CREATE SCHEMA {REHEARSAL}",
                f"CREATE TABLE {seen.qualify()} (LIKE {real.qualify()} INCLUDING ALL)",
                f"INSERT INTO {seen.qualify()} ({names}) {sample}",
            ):
                connection.execute(text(statement))
            connection.commit()
            digests, took = [_digest(seen)], list[float]()
            for back in (False, True):
                began = time.monotonic()
                lead_back(seen) if back else _carry(seen, list(seen.forward_steps(drop_foreign_keys=True)))
                took.append(round(time.monotonic() - began, 2))
                digests.append(_digest(seen))
        finally:
            connection.rollback()
            connection.execute(text(f"DROP SCHEMA IF EXISTS {REHEARSAL} CASCADE"))
            connection.commit()
        if len(set(digests)) != 1:
            raise LlmctxError(
                "The rehearsal did not reproduce the rows. Do not partition this table; please report it."
            )
        return {"rows": digests[0][0], "there_s": took[0], "back_s": took[1], "of": table.rows}

    return run_exclusively(settings, change)


def _digest(seen: Conversion) -> tuple[Any, ...]:
    """Return the number of rows and a checksum over their values."""
    names = ", ".join(seen.columns())
    sums = (
        f"SELECT count(*), sum(('x' || substr(md5(ROW({names})::text), 1, 15))::bit(60)::bigint) FROM {seen.qualify()}"
    )
    return tuple(seen.query(sums)[0])


def _carry(seen: Conversion, steps: list[Step]) -> None:
    from alembic.migration import MigrationContext

    from llmctx.migrate.adoption.execute import carry_out

    seen.connection.rollback()
    carry_out(MigrationContext.configure(seen.connection), steps, seen.inspect(), say=seen.say)
