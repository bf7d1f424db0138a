"""Makes the table, or adopts the one that is there, and takes away again what it added: `llmctx migrate`.

What would be done to a table that is there is asked of the very script that does it. Everything here is synchronous and
runs an event loop of its own, so call it from a thread that has none.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from llmctx.core.errors import ConfigError, LlmctxError, MigrationsPending, NotACallLog
from llmctx.migrate.autogenerate import include_object, leaving
from llmctx.migrate.state import (
    HOSTS_VERSIONS,
    State,
    adopting,
    asking,
    changing,
    config_of,
    foreign,
    head,
    leading_back,
    look,
    one_at_a_time,
    running,
    scripts,
    sentence,
    state,
    state_in,
)
from llmctx.settings import Settings
from llmctx.storage.engine import sqlite_file, where

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = [
    "Plan", "State", "Step", "check", "downgrade", "include_object", "leaving", "plan", "scripts", "sql", "state",
    "upgrade",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done, or would be."""

    what: str
    lock: str = "nobody"
    """Who waits for it: nobody, others for a moment, or everybody."""
    takes_s: int = 0
    """About."""
    sql: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What `upgrade` or `downgrade` would do now."""

    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What one should know before it is done."""
    adopts: bool = False
    """Somebody's table would be changed."""


def check(settings: Settings) -> State:
    """`state`, or the error that says what is in the way of a head that is reached."""
    found = state(settings)
    if found.table == "foreign":
        raise foreign(settings, found)
    if found.table == "adoptable":
        raise MigrationsPending(
            f"Table {settings.table} is there in {where(settings)}, and llmctx has not adopted it: `llmctx migrate` "
            "shows what that means, `llmctx migrate --yes` does it."
        )
    if not found.is_current:
        lack = "is missing from" if found.table == "missing" else "is behind this version in"
        raise MigrationsPending(f"Table {settings.table} {lack} {where(settings)}. Run `llmctx migrate`.")
    return found


def plan(settings: Settings, *, down: bool = False, widen: bool = False) -> Plan:
    """What `upgrade` (or `downgrade`) would do now. With `widen`, ids of another type than text become text."""

    def look(connection: Connection) -> Plan:
        return _plan(connection, settings, down=down, widen=widen)

    file = sqlite_file(settings)
    if file is not None and not file.exists():
        return Plan() if down else _making(settings)
    return asking(settings, look)


def _plan(connection: Connection, settings: Settings, *, down: bool, widen: bool) -> Plan:
    found = state_in(connection, settings, widen=widen)
    table = look(connection, settings)
    if down:
        if table is None or table.made_by_us:
            if found.table != "ours":
                return Plan()
            return Plan([Step(f"drop table {settings.table} with every row in it", "everybody, for a moment")])
        back = leading_back().way_back(table, leading_back().full(connection, table))
        if back.problems:
            raise LlmctxError(f"{sentence(back.problems)} Nothing was changed in {where(settings)}.")
        return Plan([step_of(step) for step in back.steps], back.notes, adopts=True)
    if found.table == "foreign":
        raise foreign(settings, found)
    if found.is_current:
        return Plan()
    if found.table == "missing":
        return _making(settings)
    noting = [] if found.current == found.head else [Step(f"note version {found.head}")]
    if table is None or table.made_by_us:
        return Plan([Step(f"bring table {settings.table} from {found.current} to {found.head}")])
    wanted = adopting().plan(table, widen=widen)
    return Plan([*(step_of(step) for step in wanted.steps), *noting], wanted.notes, adopts=True)


def _making(settings: Settings) -> Plan:
    shape = "partitioned by month, with a default partition" if settings.is_postgresql else "one plain table"
    schema = f"{settings.db_schema}." if settings.db_schema else ""
    made = f"make table {schema}{settings.table} ({shape}) and its indexes"
    return Plan([Step(made), Step(f"note version {head(settings)}")])


def step_of(step: Any) -> Step:
    """A step of the scripts, in words for a person."""
    waits = {"none": "nobody", "a moment": "others for a moment"}
    return Step(step.what, waits.get(step.lock, step.lock), step.takes_s, tuple(running().script(step)))


def upgrade(
    settings: Settings,
    *,
    widen: bool = False,
    say: Callable[[str], None] | None = None,
    patience_s: float | None = None,
) -> State:
    """Bring the database to the head; at the head already, nothing happens. Returns what was there before.

    A table that is there is adopted, in steps; `say` is told of each when it is done. None holds others up for more
    than a moment, and none tries for longer than `patience_s` (10 minutes) to get its turn. Raises `NotACallLog` if it
    cannot be, and changes nothing then. After a break, what is left is done the next time.
    """

    def up(connection: Connection, config: Config) -> State:
        from alembic import command

        before = state_in(connection, settings, widen=widen)
        connection.rollback() if settings.is_postgresql else None
        if before.table == "foreign":
            raise foreign(settings, before)
        if before.is_current:
            return before
        if before.by_host:
            if before.current != before.head:
                raise MigrationsPending(
                    f"{where(settings)} has llmctx in the host's {HOSTS_VERSIONS}: run `alembic upgrade llmctx@head`."
                )
            _mend(connection, settings, widen, say)
            return before
        if before.current is not None and (before.table == "missing" or before.lacks):
            # somebody dropped the table, or something of it, and left our note of its version
            command.stamp(config, "base")
        command.upgrade(config, "head")
        return before

    return changing(settings, up, widen=widen, say=say, patience_s=patience_s)


def _mend(connection: Connection, settings: Settings, widen: bool, say: Callable[[str], None] | None) -> None:
    """Do what is lacking in a table whose version is noted by the host's alembic."""
    from alembic.migration import MigrationContext

    table = look(connection, settings)
    connection.rollback()
    steps = adopting().plan(table, widen=widen).steps
    running().carry_out(MigrationContext.configure(connection), steps, table, say=say)


def downgrade(settings: Settings, *, say: Callable[[str], None] | None = None) -> State:
    """Take away what `upgrade` made: the table with its rows, or of an adopted one what was added.

    Returns what was there before.
    """

    def down(connection: Connection, config: Config) -> State:
        from alembic import command

        before = state_in(connection, settings)
        table = look(connection, settings)
        connection.rollback() if settings.is_postgresql else None
        if before.by_host:
            raise LlmctxError(
                f"{where(settings)} notes llmctx in the host's {HOSTS_VERSIONS}: run `alembic downgrade llmctx@base`."
            )
        if before.current is None and table is not None and (table.marked or table.added):
            command.stamp(config, "head")  # a break: take away what had been added until then
            command.downgrade(config, "base")
        elif before.table == "ours":
            command.downgrade(config, "base")
        return before

    return changing(settings, down, say=say)


def sql(
    settings: Settings, *, down: bool = False, existing: str | None = None, widen: bool = False, look: bool = False
) -> str:
    """The statements of a whole `upgrade` or `downgrade`, for whoever owns the database.

    With `look`, for the table as it stands. Without a connection it is for a table that is not there, or for one of
    the shape `existing`: "numbers", "texts" or "unkeyed".
    """
    from alembic import command
    from alembic.util import CommandError

    if look:
        table, full = asking(settings, lambda connection: _seen(connection, settings))
    else:
        table, full = None, set[str]()
    if table is not None and table.made_by_us:
        table = None
    if table is not None and not down:
        wanted = adopting().plan(table._replace(mine=True, closed=None), widen=widen)
        if wanted.problems:
            raise NotACallLog(f"{sentence(wanted.problems)} Nothing can be done in {where(settings)}.")
    output = io.StringIO()
    more = {"llmctx_found": table, "llmctx_full": full, "llmctx_existing": existing, "llmctx_widen": widen}
    config = config_of(settings, output=output, **more)
    try:
        with one_at_a_time:
            if down:
                command.downgrade(config, f"{head(settings)}:base", sql=True)
            else:
                command.upgrade(config, "head", sql=True)
    except CommandError as problem:
        raise ConfigError(str(problem)) from None
    return _repeatable(output.getvalue(), settings.version_table)


def _repeatable(script: str, versions: str) -> str:
    """The table of versions outlives the call log, and a script that failed is run again."""
    script = re.sub(rf"CREATE TABLE (?=\S*{versions}\W)", "CREATE TABLE IF NOT EXISTS ", script)
    return re.sub(rf"(INSERT INTO \S*{versions}\W.*?VALUES \('\w+'\))", r"\1 ON CONFLICT DO NOTHING", script)


def _seen(connection: Connection, settings: Settings) -> tuple[Any, set[str]]:
    table = look(connection, settings)
    return (
        (None, set())
        if table is None
        else (table._replace(mine=True, closed=None), leading_back().full(connection, table))
    )
