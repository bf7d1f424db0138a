"""Makes the table, or adopts the one that is there, and takes away again what it added: `llmctx migrate`.

The scripts travel in the wheel as `llmctx/migrations`; in a checkout they stand in `alembic/`. What they would do to a
table that is there is asked of the very script that does it. Everything here is synchronous and runs an event loop of
its own, so call it from a thread that has none.
"""

from __future__ import annotations

import asyncio
import io
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from sqlalchemy import Connection, inspect, text

from llmctx.autogenerate import include_object, leaving
from llmctx.database import end_turn, engine, explained, probe, reading, sqlite_file, take_turns, where
from llmctx.errors import ConfigError, LlmctxError, MigrationsPending, NotACallLog
from llmctx.settings import Settings

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = [
    "Plan", "State", "Step", "check", "downgrade", "include_object", "leaving", "plan", "scripts", "sql", "state",
    "upgrade",
]  # fmt: skip

T = TypeVar("T")

_one_at_a_time: Final = threading.Lock()
"""Alembic's `context` and `op` are the process's, not the thread's."""
_HOSTS_VERSIONS: Final = "alembic_version"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What stands in the database, and what this version of llmctx wants."""

    head: str
    current: str | None
    table: Literal["missing", "ours", "adoptable", "foreign"]
    """"ours" was made or adopted by llmctx, "adoptable" may be, "foreign" is no call log."""
    lacks: tuple[str, ...] = ()
    """What is still to be done to a table that is there, in words."""
    problem: str | None = None
    """Why a table is foreign."""
    by_host: bool = False
    """The version is noted in the host's own alembic."""

    @property
    def is_current(self) -> bool:
        return self.table == "ours" and self.current == self.head and not self.lacks


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


def scripts() -> Path:
    """The folder with `env.py` and `versions/`: packaged, or else the checkout's."""
    here = Path(__file__).parent
    for folder in (here / "migrations", here.parent / "alembic"):
        if (folder / "env.py").is_file():
            return folder
    raise LlmctxError("The migrations are missing from this installation. Reinstall llmctx.")


def state(settings: Settings) -> State:
    """Look, and change nothing. A SQLite file that is not there yet counts as an empty database."""
    file = sqlite_file(settings)
    if file is not None and not file.exists():
        return State(head=_head(settings), current=None, table="missing")

    return _asking(settings, lambda connection: _state(connection, settings))


def check(settings: Settings) -> State:
    """`state`, or the error that says what is in the way of a head that is reached."""
    found = state(settings)
    if found.table == "foreign":
        raise _foreign(settings, found)
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
    return _asking(settings, look)


def _plan(connection: Connection, settings: Settings, *, down: bool, widen: bool) -> Plan:
    found = _state(connection, settings, widen=widen)
    table = _look(connection, settings)
    if down:
        if table is None or table.made_by_us:
            if found.table != "ours":
                return Plan()
            return Plan([Step(f"drop table {settings.table} with every row in it", "everybody, for a moment")])
        back = _adopting().way_back(table, _adopting().full(connection, table))
        if back.problems:
            raise LlmctxError(f"{_sentence(back.problems)} Nothing was changed in {where(settings)}.")
        return Plan([_step(step) for step in back.steps], back.notes, adopts=True)
    if found.table == "foreign":
        raise _foreign(settings, found)
    if found.is_current:
        return Plan()
    if found.table == "missing":
        return _making(settings)
    noting = [] if found.current == found.head else [Step(f"note version {found.head}")]
    if table is None or table.made_by_us:
        return Plan([Step(f"bring table {settings.table} from {found.current} to {found.head}")])
    wanted = _adopting().plan(table, widen=widen)
    return Plan([*(_step(step) for step in wanted.steps), *noting], wanted.notes, adopts=True)


def _making(settings: Settings) -> Plan:
    shape = "partitioned by month, with a default partition" if settings.is_postgresql else "one plain table"
    schema = f"{settings.db_schema}." if settings.db_schema else ""
    made = f"make table {schema}{settings.table} ({shape}) and its indexes"
    return Plan([Step(made), Step(f"note version {_head(settings)}")])


def _step(step: Any) -> Step:
    waits = {"none": "nobody", "a moment": "others for a moment"}
    return Step(step.what, waits.get(step.lock, step.lock), step.takes_s, tuple(_running().script(step)))


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

        before = _state(connection, settings, widen=widen)
        connection.rollback() if settings.is_postgresql else None
        if before.table == "foreign":
            raise _foreign(settings, before)
        if before.is_current:
            return before
        if before.by_host:
            if before.current != before.head:
                raise MigrationsPending(
                    f"{where(settings)} has llmctx in the host's {_HOSTS_VERSIONS}: run `alembic upgrade llmctx@head`."
                )
            _mend(connection, settings, widen, say)
            return before
        if before.current is not None and (before.table == "missing" or before.lacks):
            # somebody dropped the table, or something of it, and left our note of its version
            command.stamp(config, "base")
        command.upgrade(config, "head")
        return before

    return _changing(settings, up, widen=widen, say=say, patience_s=patience_s)


def _mend(connection: Connection, settings: Settings, widen: bool, say: Callable[[str], None] | None) -> None:
    """Do what is lacking in a table whose version is noted by the host's alembic."""
    from alembic.migration import MigrationContext

    table = _look(connection, settings)
    connection.rollback()
    steps = _adopting().plan(table, widen=widen).steps
    _running().carry_out(MigrationContext.configure(connection), steps, table, say=say)


def downgrade(settings: Settings, *, say: Callable[[str], None] | None = None) -> State:
    """Take away what `upgrade` made: the table with its rows, or of an adopted one what was added.

    Returns what was there before.
    """

    def down(connection: Connection, config: Config) -> State:
        from alembic import command

        before = _state(connection, settings)
        table = _look(connection, settings)
        connection.rollback() if settings.is_postgresql else None
        if before.by_host:
            raise LlmctxError(
                f"{where(settings)} notes llmctx in the host's {_HOSTS_VERSIONS}: run `alembic downgrade llmctx@base`."
            )
        if before.current is None and table is not None and (table.marked or table.added):
            command.stamp(config, "head")  # a break: take away what had been added until then
            command.downgrade(config, "base")
        elif before.table == "ours":
            command.downgrade(config, "base")
        return before

    return _changing(settings, down, say=say)


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
        table, full = _asking(settings, lambda connection: _seen(connection, settings))
    else:
        table, full = None, set[str]()
    if table is not None and table.made_by_us:
        table = None
    if table is not None and not down:
        wanted = _adopting().plan(table._replace(mine=True), widen=widen)
        if wanted.problems:
            raise NotACallLog(f"{_sentence(wanted.problems)} Nothing can be done in {where(settings)}.")
    output = io.StringIO()
    more = {"llmctx_found": table, "llmctx_full": full, "llmctx_existing": existing, "llmctx_widen": widen}
    config = _config(settings, output=output, **more)
    try:
        with _one_at_a_time:
            if down:
                command.downgrade(config, f"{_head(settings)}:base", sql=True)
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
    table = _look(connection, settings)
    return (None, set()) if table is None else (table._replace(mine=True), _adopting().full(connection, table))


def _config(settings: Settings, **attributes: Any) -> Config:
    """Alembic's configuration, without a file: the URL never passes through its ini, which would trip over a `%`."""
    from alembic.config import Config

    config = Config(output_buffer=attributes.pop("output", None), stdout=io.StringIO())
    config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(settings=settings, **attributes)
    return config


def _head(settings: Settings) -> str:
    from alembic.script import ScriptDirectory

    head = ScriptDirectory.from_config(_config(settings)).get_current_head()
    assert head is not None
    return head


def _state(connection: Connection, settings: Settings, *, widen: bool = False) -> State:
    from alembic.migration import MigrationContext

    # The table first: another process may be making it just now, and commits its version together with it.
    exists = inspect(connection).has_table(settings.table, settings.db_schema)
    table = _look(connection, settings)
    head = _head(settings)
    if _may_read(connection, settings, settings.version_table):
        options = {"version_table": settings.version_table, "version_table_schema": settings.db_schema}
        current = MigrationContext.configure(connection, opts=options).get_current_revision()
    else:  # a role that may only insert: what it sees has to do
        current = head
    by_host = current is None and (current := _noted_by_host(connection, settings)) is not None
    if table is None:
        kind: Any = "missing" if not exists else "ours" if current is not None else "foreign"
        return State(head=head, current=current, table=kind, by_host=by_host)
    if table.made_by_us:
        return State(head=head, current=current, table="ours" if current else "adoptable", by_host=by_host)
    wanted = _adopting().plan(table, widen=widen)
    if wanted.problems:
        # of what is adopted and whole nothing is left to do, whoever asks
        return State(head=head, current=current, table="foreign", problem=_sentence(wanted.problems), by_host=by_host)
    lacks = tuple(step.what for step in wanted.steps)
    kind = "ours" if current is not None else "adoptable"
    return State(head=head, current=current, table=kind, lacks=lacks, by_host=by_host)


def _noted_by_host(connection: Connection, settings: Settings) -> str | None:
    """Our version, where the host's own alembic has run our scripts as a branch of its tree."""
    if not settings.is_postgresql or not inspect(connection).has_table(_HOSTS_VERSIONS):
        return None
    if not _may_read(connection, settings, _HOSTS_VERSIONS):
        return None
    question = f"SELECT version_num FROM {_HOSTS_VERSIONS} WHERE starts_with(version_num, 'llmctx_')"  # noqa: S608
    noted = connection.scalars(text(question))
    return noted.first()


def _may_read(connection: Connection, settings: Settings, table: str) -> bool:
    """Whether the role may see what stands in `table`, if there is one."""
    if not settings.is_postgresql:
        return True
    quote = connection.dialect.identifier_preparer.quote
    schema = settings.db_schema if table == settings.version_table else None
    name = f"{quote(schema)}.{quote(table)}" if schema else quote(table)
    question = text("SELECT coalesce(has_table_privilege(pg_catalog.to_regclass(:name)::oid, 'SELECT'), true)")
    return bool(connection.scalar(question, {"name": name}))


def _look(connection: Connection, settings: Settings) -> Any:
    """The table as the migration sees it; None if there is none, and for SQLite, where nothing is adopted."""
    return _adopting().look(connection, settings.table, settings.db_schema) if settings.is_postgresql else None


@cache
def _adopting() -> Any:
    from alembic.util import load_python_file

    return load_python_file(scripts(), "adopt_0001.py")


@cache
def _running() -> Any:
    from alembic.util import load_python_file

    return load_python_file(scripts(), "run_0001.py")


def _sentence(problems: list[str]) -> str:
    text = "; ".join(problems)
    return f"{text[:1].upper()}{text[1:]}."


def _foreign(settings: Settings, found: State) -> NotACallLog:
    why = found.problem or (
        f"Table {settings.table} exists already, and llmctx did not make it; it adopts tables of PostgreSQL only. "
        "Choose another name with LLMCTX_TABLE."
    )
    return NotACallLog(f"{why} Nothing was changed in {where(settings)}.")


def _asking(settings: Settings, question: Callable[[Connection], T]) -> T:
    async def ask() -> T:
        async with reading(settings) as connection:
            return await connection.run_sync(question)

    return asyncio.run(ask())


def _changing(settings: Settings, change: Callable[[Connection, Config], State], **attributes: Any) -> State:
    """Run `change` while no other process does, in an event loop of its own."""
    from alembic.util import CommandError

    async def run() -> State:
        source = engine(settings, patience_s=None)
        try:
            probe(settings)
            async with source.connect() as connection:
                config = _config(settings, **{f"llmctx_{name}": value for name, value in attributes.items()})

                def inside(sync: Connection) -> State:
                    take_turns(sync)
                    try:
                        config.attributes["connection"] = sync
                        return change(sync, config)
                    finally:
                        end_turn(sync)

                done = await connection.run_sync(inside)
                await connection.commit()
                return done
        except Exception as problem:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # Ctrl-C; a connection that is cut complains as well
                raise asyncio.CancelledError from problem
            if isinstance(problem, CommandError):  # a version that these scripts do not know, for one
                raise LlmctxError(f"{problem} ({where(settings)})") from problem
            raise explained(problem, settings) from problem
        finally:
            await source.dispose()

    with _one_at_a_time:
        return asyncio.run(run())
