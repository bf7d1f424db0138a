"""The state of the database, seen as the revisions see it that would change it; and the way to change it.

The scripts travel in the wheel as `llmctx/migrations`; in a checkout they stand in `alembic/`. Everything here is
synchronous and runs an event loop of its own; one that runs in the caller's thread waits.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from llmctx.core.errors import LlmctxError, MigrationsPending, NotACallLog
from llmctx.core.text import capitalize
from llmctx.migrate.adoption import plan as adoption
from llmctx.migrate.adoption.checks import Columns
from llmctx.migrate.adoption.inspect import ExistingTable, inspect_table
from llmctx.migrate.adoption.plan import StepPlan
from llmctx.settings import Settings, settings_of
from llmctx.storage.engine import (
    describe_database,
    end_turn,
    engine,
    explain,
    probe,
    read_connection,
    refuse_lent,
    sqlite_file,
    take_turns,
)

if TYPE_CHECKING:
    from alembic.config import Config

T = TypeVar("T")

one_at_a_time: Final = threading.Lock()
"""Alembic's `context` and `op` are the process's, not the thread's."""
HOSTS_VERSIONS: Final = "alembic_version"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The table and its version in the database, beside what this version of llmctx wants."""

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
class Survey:
    """One look at the database, and what follows from it."""

    state: State
    table: ExistingTable | None
    """None if there is none, and for SQLite, where nothing is adopted."""
    plan: StepPlan


def scripts() -> Path:
    """Return the folder with `env.py` and `versions/`: packaged, or else the checkout's."""
    here = Path(__file__).parents[1]
    for folder in (here / "migrations", here.parent / "alembic"):
        if (folder / "env.py").is_file():
            return folder
    raise LlmctxError("The migrations are missing from this installation. Reinstall llmctx.")


def state(database: Any = None, **settings: Any) -> State:
    """Look, and change nothing. A SQLite file that is not there yet counts as an empty database.

    `database` and `settings` are what `CallLog` takes, or a `CallLog`.
    """
    return _state(settings_of(database, **settings))


def _state(settings: Settings) -> State:
    file = sqlite_file(settings)
    if file is not None and not file.exists():
        return State(head=target()[0], current=None, table="missing")

    return ask_database(settings, lambda connection: inspect_database(connection, settings).state)


def config_of(settings: Settings, **attributes: Any) -> Config:
    """Return alembic's configuration, without a file: a `%` in the URL would not pass through its ini."""
    from alembic.config import Config

    config = Config(output_buffer=attributes.pop("output", None), stdout=io.StringIO())
    config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(settings=settings, **attributes)
    return config


def target() -> tuple[str, Columns]:
    """Return the newest revision, and the columns that a table has then."""
    return _target(scripts())


@cache
def _target(folder: Path) -> tuple[str, Columns]:
    from alembic.script import ScriptDirectory

    from llmctx.migrate.adoption.revision import columns_until

    script = ScriptDirectory(str(folder))
    head = script.get_current_head()
    assert head is not None
    return head, columns_until(script, head)


def inspect_database(connection: Connection, settings: Settings, *, widen: bool = False) -> Survey:
    """Inspect the table once, and plan; with `widen`, ids of another type are lacking too."""
    # The table first: another process may be making it just now, and commits its version together with it.
    exists = inspect(connection).has_table(settings.table, settings.db_schema)
    table = inspect_table(connection, settings.table, settings.db_schema) if settings.is_postgresql else None
    head, wanted = target()
    # a role that may only insert: what it sees has to do
    may_read = _may_read(connection, settings, settings.version_table)
    current = _noted_version(connection, settings) if may_read else head
    by_host = current is None and (current := _noted_by_host(connection, settings)) is not None
    steps = StepPlan() if table is None else adoption.plan(table, wanted, widen=widen)
    # of what is adopted and whole nothing is left to do, whichever role asks
    problem = join_problems(steps.problems) if steps.problems else None
    lacks = tuple([step.what for step in steps.steps])
    kind: Literal["missing", "ours", "adoptable", "foreign"]
    if problem is not None or (exists and table is None and current is None):
        kind = "foreign"
    elif not exists:
        kind = "missing"
    else:
        kind = "ours" if current is not None else "adoptable"
        if table is None and current != head:  # SQLite's
            there = {column["name"] for column in inspect(connection).get_columns(settings.table, settings.db_schema)}
            missing = [name for name in wanted if name not in there]
            lacks = (adoption.describe_columns(missing),) if missing else ()
    found = State(
        head=head, current=current, table=kind, lacks=() if problem else lacks, problem=problem, by_host=by_host
    )
    return Survey(found, table, steps)


def _noted_version(connection: Connection, settings: Settings) -> str | None:
    """Return the version in our table of versions. Raises `LlmctxError` where it is none that our scripts know."""
    from alembic.migration import MigrationContext
    from alembic.util import CommandError

    options = {"version_table": settings.version_table, "version_table_schema": settings.db_schema}
    try:
        noted = MigrationContext.configure(connection, opts=options).get_current_revision()
    except (CommandError, DBAPIError) as problem:
        if isinstance(problem, DBAPIError) and not isinstance(explain(problem, settings), MigrationsPending):
            raise
        raise LlmctxError(
            f"Table {settings.version_table} in {describe_database(settings)} is not llmctx's table of versions, or "
            "holds more than one. Nothing was changed. Rename it, or choose another name with LLMCTX_TABLE."
        ) from problem
    if noted is not None and noted not in _known_versions(scripts()):
        raise LlmctxError(
            f"{describe_database(settings)} notes version {noted!r} of the table {settings.table}, which this version "
            "of llmctx does not know. Nothing was changed. Install a newer version of llmctx."
        )
    return noted


@cache
def _known_versions(folder: Path) -> frozenset[str]:
    """Return the revisions in a folder of scripts."""
    from alembic.script import ScriptDirectory

    return frozenset(script.revision for script in ScriptDirectory(str(folder)).walk_revisions())


def _noted_by_host(connection: Connection, settings: Settings) -> str | None:
    """Our version, where the host's own alembic has run our scripts as a branch of its tree."""
    if not settings.is_postgresql or not inspect(connection).has_table(HOSTS_VERSIONS):
        return None
    if not _may_read(connection, settings, HOSTS_VERSIONS):
        return None
    question = f"SELECT version_num FROM {HOSTS_VERSIONS} WHERE starts_with(version_num, 'llmctx_')"  # noqa: S608
    noted = connection.scalars(text(question))
    return noted.first()


def _may_read(connection: Connection, settings: Settings, table: str) -> bool:
    """Return whether the role may see what stands in `table`, if there is one."""
    if not settings.is_postgresql:
        return True
    quote = connection.dialect.identifier_preparer.quote
    schema = settings.db_schema if table == settings.version_table else None
    name = f"{quote(schema)}.{quote(table)}" if schema else quote(table)
    question = text("SELECT coalesce(has_table_privilege(pg_catalog.to_regclass(:name)::oid, 'SELECT'), true)")
    return bool(connection.scalar(question, {"name": name}))


def join_problems(problems: list[str]) -> str:
    return f"{capitalize('; '.join(problems))}."


def not_a_call_log(settings: Settings, state: State) -> NotACallLog:
    why = state.problem or (
        f"Table {settings.table} exists already, and was not made by llmctx, which adopts tables of PostgreSQL only. "
        "Choose another name with LLMCTX_TABLE."
    )
    return NotACallLog(f"{why} Nothing was changed in {describe_database(settings)}.")


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in an event loop of its own; in another thread, where this one has a running loop, which waits."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1, "llmctx-migrate") as thread:
        return thread.submit(asyncio.run, work).result()


async def _by_itself(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` as a task of its own, so that no answer of the database passes through all that awaits it."""
    return await asyncio.create_task(work)


def ask_database(settings: Settings, question: Callable[[Connection], T]) -> T:
    async def run() -> T:
        async with read_connection(settings) as connection:
            return await _by_itself(connection.run_sync(question))

    return run_apart(run())


def run_exclusively(settings: Settings, change: Callable[[Connection, Config], T]) -> T:
    """Run `change` while no other process does, in an event loop of its own."""
    from alembic.util import CommandError

    async def run() -> T:
        source = engine(settings, patience_s=None)
        try:
            probe(settings)
            async with source.connect() as connection:
                await refuse_lent(connection, settings)
                await connection.rollback() if settings.is_postgresql else None
                config = config_of(settings)

                def inside(sync: Connection) -> T:
                    take_turns(sync)
                    try:
                        config.attributes["connection"] = sync
                        return change(sync, config)
                    finally:
                        end_turn(sync)

                done = await _by_itself(connection.run_sync(inside))
                await connection.commit()
                return done
        except Exception as problem:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # Ctrl-C; a connection that is cut complains as well
                raise asyncio.CancelledError from problem
            if isinstance(problem, CommandError):  # a version that these scripts do not know, for one
                raise LlmctxError(f"{problem} ({describe_database(settings)})") from problem
            raise explain(problem, settings) from problem
        finally:
            await source.dispose()

    with one_at_a_time:
        return run_apart(run())
