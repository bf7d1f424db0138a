"""Makes the table and takes it away again, by our own alembic scripts: `llmctx migrate`.

The scripts travel in the wheel as `llmctx/migrations`; in a checkout they stand in `alembic/`. A table of that name
which llmctx did not make is left alone. Everything here is synchronous and runs an event loop of its own, so call it
from a thread that has none.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import Connection, inspect

from llmctx.database import engine, explained, probe, reading, sqlite_file, take_turns, where
from llmctx.errors import LlmctxError, MigrationsPending, NotACallLog
from llmctx.settings import Settings

if TYPE_CHECKING:
    from alembic.config import Config

_one_at_a_time: Final = threading.Lock()
"""Alembic's `context` and `op` are the process's, not the thread's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What stands in the database, and what this version of llmctx wants."""

    head: str
    current: str | None
    table: Literal["missing", "ours", "foreign"]

    @property
    def is_current(self) -> bool:
        return self.table == "ours" and self.current == self.head


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

    async def look() -> State:
        async with reading(settings) as connection:
            return await connection.run_sync(lambda sync: _state(sync, settings))

    return asyncio.run(look())


def check(settings: Settings) -> State:
    """`state`, or the error that says what is in the way of a head that is reached."""
    found = state(settings)
    if found.table == "foreign":
        raise _foreign(settings)
    if not found.is_current:
        lack = "is missing from" if found.table == "missing" else "is behind this version in"
        raise MigrationsPending(f"Table {settings.table} {lack} {where(settings)}. Run `llmctx migrate`.")
    return found


def plan(settings: Settings, *, down: bool = False) -> list[str]:
    """What `upgrade` (or `downgrade`) would do now, in words; empty when there is nothing to do."""
    found = state(settings)
    if down:
        return [f"drop table {settings.table} with every row in it"] if found.table == "ours" else []
    if found.table == "foreign":
        raise _foreign(settings)
    if found.is_current:
        return []
    if found.table == "ours":
        return [f"bring table {settings.table} from {found.current} to {found.head}"]
    shape = "partitioned by month, with a default partition" if settings.is_postgresql else "one plain table"
    schema = f"{settings.db_schema}." if settings.db_schema else ""
    return [f"make table {schema}{settings.table} ({shape}) and its indexes", f"note version {found.head}"]


def upgrade(settings: Settings) -> State:
    """Bring the database to the head; at the head already, nothing happens. Returns what was there before."""

    def up(connection: Connection, config: Config) -> State:
        from alembic import command

        before = _state(connection, settings)
        if before.table == "foreign":
            raise _foreign(settings)
        if before.table == "missing" and before.current is not None:
            command.stamp(config, "base")  # somebody dropped the table and left our note of its version
        command.upgrade(config, "head")
        return before

    return _changing(settings, up)


def downgrade(settings: Settings) -> State:
    """Take away what `upgrade` made: the table with its rows. Returns what was there before."""

    def down(connection: Connection, config: Config) -> State:
        from alembic import command

        before = _state(connection, settings)
        if before.table == "ours":
            command.downgrade(config, "base")
        return before

    return _changing(settings, down)


def sql(settings: Settings, *, down: bool = False) -> str:
    """The statements of a whole `upgrade` or `downgrade`, for whoever owns the database. Needs no connection."""
    from alembic import command

    output = io.StringIO()
    config = _config(settings, output=output)
    with _one_at_a_time:
        if down:
            command.downgrade(config, f"{_head(settings)}:base", sql=True)
        else:
            command.upgrade(config, "head", sql=True)
    return output.getvalue()


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


def _state(connection: Connection, settings: Settings) -> State:
    from alembic.migration import MigrationContext

    # The table first: another process may be making it just now, and commits its version together with it.
    exists = inspect(connection).has_table(settings.table, settings.db_schema)
    options = {"version_table": settings.version_table, "version_table_schema": settings.db_schema}
    current = MigrationContext.configure(connection, opts=options).get_current_revision()
    table: Literal["missing", "ours", "foreign"] = "missing"
    if exists:
        table = "ours" if current is not None else "foreign"
    return State(head=_head(settings), current=current, table=table)


def _foreign(settings: Settings) -> NotACallLog:
    return NotACallLog(
        f"Table {settings.table} exists already in {where(settings)}, and llmctx did not make it. Nothing was changed. "
        "This version cannot adopt it: choose another name with LLMCTX_TABLE."
    )


def _changing(settings: Settings, change: Callable[[Connection, Config], State]) -> State:
    """Run `change` in one transaction, in an event loop of its own."""

    from alembic.util import CommandError

    async def run() -> State:
        source = engine(settings, patience_s=None)
        try:
            probe(settings)
            async with source.begin() as connection:
                config = _config(settings)

                def inside(sync: Connection) -> State:
                    take_turns(sync)
                    config.attributes["connection"] = sync
                    return change(sync, config)

                return await connection.run_sync(inside)
        except CommandError as problem:  # a version that these scripts do not know, for one
            raise LlmctxError(f"{problem} ({where(settings)})") from problem
        except Exception as problem:
            raise explained(problem, settings) from problem
        finally:
            await source.dispose()

    with _one_at_a_time:
        return asyncio.run(run())
