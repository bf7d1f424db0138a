"""Makes the table, or adopts the one that is there, and takes away again what it added: `llmctx migrate`.

What would be done to a table that is there is asked of the very script that does it. Everything here is synchronous and
runs an event loop of its own. `database` and `settings` are what `CallLog` takes: a URL, an engine, `Settings`, a
`CallLog`, or nothing for `LLMCTX_*`; what is none of that is a `ConfigError`.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from llmctx.core.endpoint import Endpoint
from llmctx.core.errors import ConfigError, LlmctxError, MigrationsPending, NotACallLog
from llmctx.migrate import compression
from llmctx.migrate import texts_apart as texts
from llmctx.migrate.adoption import plan as adoption
from llmctx.migrate.adoption.undo import columns_with_nulls, plan_undo
from llmctx.migrate.autogenerate import include_object, leaving
from llmctx.migrate.state import (
    HOSTS_VERSIONS,
    State,
    Survey,
    ask_database,
    config_of,
    inspect_database,
    join_problems,
    not_a_call_log,
    one_at_a_time,
    run_exclusively,
    scripts,
    state,
    target,
)
from llmctx.settings import Settings, settings_of
from llmctx.storage import texts_table
from llmctx.storage.catalog import qualify_name
from llmctx.storage.database_identity import endpoint_of, write_identity
from llmctx.storage.engine import describe_database, sqlite_file
from llmctx.storage.rollup.tables import names_of

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = [
    "Plan", "State", "Step", "check", "downgrade", "identify", "include_object", "leaving", "plan", "scripts", "sql",
    "state", "upgrade",
]  # fmt: skip

_ROLLUP: Final = "which `llmctx rollup` made"


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
    """The steps that `upgrade` or `downgrade` would do now."""

    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What one should know before it is done."""
    adopts: bool = False
    """A table of the host's would be changed."""


def check(database: Any = None, **given: Any) -> State:
    """Return `state`, or raise the error that says what is in the way of a head that is reached."""
    settings = settings_of(database, **given)
    found = state(settings)
    if found.table == "foreign":
        raise not_a_call_log(settings, found)
    if found.table == "adoptable":
        raise MigrationsPending(
            f"Table {settings.table} is there in {describe_database(settings)}, and llmctx has not adopted it: "
            "`llmctx migrate` shows what that means, `llmctx migrate --yes` does it."
        )
    if not found.is_current:
        lack = "is missing from" if found.table == "missing" else "is behind this version in"
        todo = f" ({'; '.join(found.lacks)})" if found.lacks else ""
        raise MigrationsPending(
            f"Table {settings.table} {lack} {describe_database(settings)}{todo}. Run `llmctx migrate`."
        )
    return found


def plan(
    database: Any = None, *, down: bool = False, widen: bool = False, texts_apart: bool = False, **given: Any
) -> Plan:
    """Return what `upgrade` (or `downgrade`) would do now. With `widen`, ids of another type than text become text;
    with `texts_apart` texts get a table of their own.
    """
    settings = settings_of(database, **given)
    file = sqlite_file(settings)
    if file is not None and not file.exists():
        return Plan() if down else _making(settings, texts_apart=texts_apart)
    return ask_database(
        settings, lambda connection: _plan(connection, settings, down, widen=widen, texts_apart=texts_apart)
    )


def _plan(connection: Connection, settings: Settings, down: bool, *, widen: bool, texts_apart: bool) -> Plan:
    seen = inspect_database(connection, settings, widen=widen)
    found, table = seen.state, seen.table
    if down:
        return _way_back(connection, settings, seen)
    if found.table == "foreign":
        raise not_a_call_log(settings, found)
    compressing = compression.compression_step(connection, settings)
    also = [] if compressing is None else [step_of(compressing)]
    if texts_apart and found.table != "missing":
        also += map(step_of, texts.plan(connection, settings, table))
    if found.is_current:
        return Plan(also, adopts=table is not None and not table.made_by_us)
    if found.table == "missing":
        return _making(settings, texts_apart=texts_apart)
    noting = [] if found.current == found.head else [Step(f"note version {found.head}")]
    if table is None:
        return Plan([*map(Step, found.lacks), *noting])
    return Plan([*map(step_of, seen.plan.steps), *also, *noting], seen.plan.notes, adopts=not table.made_by_us)


def _way_back(connection: Connection, settings: Settings, seen: Survey) -> Plan:
    totals = [
        Step(
            f"drop table {name}, "
            + ("with every text in it" if name == texts_table.name_of(settings.table) else _ROLLUP)
        )
        for name in companion_tables(connection, settings)
    ]
    if seen.table is None or seen.table.made_by_us:
        if seen.state.table != "ours":
            return Plan()
        return Plan([Step(f"drop table {settings.table} with every row in it", "everybody, for a moment"), *totals])
    back = plan_undo(seen.table, columns_with_nulls(connection, seen.table))
    if back.problems:
        raise LlmctxError(f"{join_problems(back.problems)} Nothing was changed in {describe_database(settings)}.")
    return Plan([*map(step_of, back.steps), *totals], back.notes, adopts=True)


def companion_tables(connection: Connection, settings: Settings) -> list[str]:
    """Return the names of the tables of totals and of texts that are there."""
    there = inspect(connection)
    names = [name for name in names_of(settings.table) if there.has_table(name, settings.db_schema)]
    return [*names, texts_table.name_of(settings.table)] if texts.has_texts_table(connection, settings) else names


def _making(settings: Settings, *, texts_apart: bool) -> Plan:
    shape = "partitioned by month, with a default partition" if settings.is_postgresql else "one plain table"
    schema = f"{settings.db_schema}." if settings.db_schema else ""
    made = f"make table {schema}{settings.table} ({shape}) and its indexes"
    apart = [Step(texts.first_step(settings))] if texts_apart else []
    if texts_apart and not settings.is_postgresql:
        raise texts.no_partitions()
    return Plan([Step(made), Step(f"note version {target()[0]}"), *apart])


def step_of(step: adoption.Step) -> Step:
    """Return a step of a plan in words for a person."""
    from llmctx.migrate.adoption.execute import manual_statements

    waits = {"none": "nobody", "a moment": "others for a moment"}
    return Step(step.what, waits.get(step.lock, step.lock), step.takes_s, manual_statements(step))


def upgrade(
    database: Any = None,
    *,
    widen: bool = False,
    texts_apart: bool = False,
    say: Callable[[str], None] | None = None,
    patience_s: float | None = None,
    **given: Any,
) -> State:
    """Bring the database to the head; at the head already, nothing happens. Returns what was there before.

    With `texts_apart` texts get a table of their own; raises `LlmctxError` where they cannot.

    A table that is there is adopted, in steps; `say` is told of each when it is done. None holds others up for more
    than a moment, and none tries for longer than `patience_s` (10 minutes) to get its turn. Raises `NotACallLog` if it
    cannot be, and changes nothing then. After a break, what is left is done the next time.
    """
    settings = settings_of(database, **given)
    return bring_to_head(settings, widen=widen, texts_apart=texts_apart, say=say, patience_s=patience_s)[0]


def bring_to_head(
    settings: Settings,
    *,
    widen: bool = False,
    texts_apart: bool = False,
    say: Callable[[str], None] | None = None,
    patience_s: float | None = None,
) -> tuple[State, Endpoint | None]:
    """Do as `upgrade`, and return also what `identify` would; None where the database cannot be asked."""

    def up(connection: Connection, config: Config) -> tuple[State, Endpoint | None]:
        before = bring_up(connection, config)
        if texts_apart:
            told = None if before.table == "missing" else say  # as of all that is made with the table
            texts.create_texts_table(connection, settings, say=told, patience_s=patience_s)
        compression.compress(connection, settings)
        with contextlib.suppress(DBAPIError):
            return before, _noted_endpoint(connection, settings)
        return before, None

    def bring_up(connection: Connection, config: Config) -> State:
        from alembic import command

        from llmctx.migrate.adoption.revision import Run

        seen = inspect_database(connection, settings, widen=widen)
        before, (_, wanted) = seen.state, target()
        connection.rollback() if settings.is_postgresql else None
        if before.table == "foreign":
            raise not_a_call_log(settings, before)
        if before.is_current:
            return before
        if before.by_host:
            if before.current != before.head:
                raise MigrationsPending(
                    f"{describe_database(settings)} has llmctx in the host's {HOSTS_VERSIONS}: "
                    "run `alembic upgrade llmctx@head`."
                )
            _mend(connection, seen, say)
            return before
        if before.current is not None and (before.table == "missing" or before.current == before.head):
            # the table was dropped, or something of it, and left our note of its version
            command.stamp(config, "base")
        run = Run(wanted, seen.table, plan=seen.plan, widen=widen, say=say, patience_s=patience_s)
        config.attributes["llmctx_run"] = run
        command.upgrade(config, "head")
        return before

    return run_exclusively(settings, up)


def identify(settings: Settings) -> Endpoint:
    """Note an id in a database at the head that has none, if this role may. Return which database it is.

    Rows that wait on disk are known by it to belong there.
    """

    return run_exclusively(settings, lambda connection, _: _noted_endpoint(connection, settings))


def _noted_endpoint(connection: Connection, settings: Settings) -> Endpoint:
    try:
        with connection.begin_nested():
            write_identity(connection, settings)
        connection.commit()
    except DBAPIError:  # a role that may not, or a server that is only read: known by other things, or by its name
        connection.rollback()
    return endpoint_of(connection, settings)


def _mend(connection: Connection, seen: Survey, say: Callable[[str], None] | None) -> None:
    """Add what is lacking in a table whose version is noted by the host's alembic."""
    from alembic.migration import MigrationContext

    from llmctx.migrate.adoption.execute import carry_out

    assert seen.table is not None
    carry_out(MigrationContext.configure(connection), seen.plan.steps, seen.table, say=say)


def downgrade(database: Any = None, *, say: Callable[[str], None] | None = None, **given: Any) -> State:
    """Take away what `upgrade` made: the table with its rows, or of an adopted one what was added.

    Returns what was there before.
    """
    settings = settings_of(database, **given)

    def down(connection: Connection, config: Config) -> State:
        from alembic import command

        from llmctx.migrate.adoption.revision import Run

        seen = inspect_database(connection, settings)
        before, table = seen.state, seen.table
        nulls = columns_with_nulls(connection, table) if table is not None else set[str]()
        connection.rollback() if settings.is_postgresql else None
        if before.by_host:
            raise LlmctxError(
                f"{describe_database(settings)} notes llmctx in the host's {HOSTS_VERSIONS}: "
                "run `alembic downgrade llmctx@base`."
            )
        config.attributes["llmctx_run"] = Run({}, table, nulls, say=say)
        if before.current is None and table is not None and (table.marked_columns or table.added_indexes):
            command.stamp(config, "head")  # a break: take away what had been added until then
            command.downgrade(config, "base")
        elif before.table == "ours":
            command.downgrade(config, "base")
        for name in companion_tables(connection, settings):
            connection.exec_driver_sql(f"DROP TABLE {qualify_name(name, settings.db_schema)}")
        connection.commit()
        return before

    return run_exclusively(settings, down)


def sql(
    database: Any = None,
    *,
    down: bool = False,
    existing: str | None = None,
    widen: bool = False,
    look: bool = False,
    **given: Any,
) -> str:
    """Return the statements of a whole `upgrade` or `downgrade`, for the database's owner.

    With `look`, for the table as it stands. Without a connection it is for a table that is not there, or for one of
    the shape `existing`: "numbers", "texts" or "unkeyed".
    """
    from alembic import command
    from alembic.util import CommandError

    from llmctx.migrate.adoption.revision import Run

    settings = settings_of(database, **given)
    head, wanted = target()
    run, first = Run({} if down else wanted, existing=existing, widen=widen), "base"
    if look:
        seen, run.with_nulls = ask_database(settings, lambda connection: _seen(connection, settings, widen=widen))
        if seen.table is not None and (seen.plan.steps or not seen.table.made_by_us):
            run.table = replace(seen.table, is_owner=True, closed_schema=None)
            first = seen.state.current or "base"
    if run.table is not None and not down:
        steps = adoption.plan(run.table, wanted, widen=widen)
        if steps.problems:
            raise NotACallLog(f"{join_problems(steps.problems)} Nothing can be done in {describe_database(settings)}.")
    output = io.StringIO()
    config = config_of(settings, output=output, llmctx_run=run)
    try:
        with one_at_a_time:
            if down:
                command.downgrade(config, f"{head}:base", sql=True)
            else:
                command.upgrade(config, "head" if first in ("base", head) else f"{first}:head", sql=True)
    except CommandError as problem:
        raise ConfigError(str(problem)) from None
    return _repeatable(output.getvalue(), settings.version_table)


def _repeatable(script: str, versions: str) -> str:
    """Return statements that may be run again: the table of versions outlives the call log, and a script may fail."""
    script = re.sub(rf"CREATE TABLE (?=\S*{versions}\W)", "CREATE TABLE IF NOT EXISTS ", script)
    noting = rf"(INSERT INTO (\S*{versions})\W.*?)VALUES \(('\w+')\)"
    return re.sub(noting, r"\1SELECT \3 WHERE NOT EXISTS (SELECT 1 FROM \2)", script)


def _seen(connection: Connection, settings: Settings, *, widen: bool) -> tuple[Survey, set[str]]:
    seen = inspect_database(connection, settings, widen=widen)
    return seen, set() if seen.table is None else columns_with_nulls(connection, seen.table)
