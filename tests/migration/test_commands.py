"""Migrations: empty to head is what `tables.py` describes, back and forth, by whichever command."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from llmctx.calllog import CallLog
from llmctx.core.errors import ConfigError, DatabaseUnavailable, LlmctxError, MigrationsPending, NotACallLog
from llmctx.core.record import COLUMNS, DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.ops.doctor import install_checks
from llmctx.settings import Settings, load, settings_of
from llmctx.storage.table import call_log_table
from tests.conftest import execute
from tests.kit.pooler import Pooler

ROOT = Path(__file__).parents[2]
VERSIONS = sorted((ROOT / "alembic" / "versions").glob("*.py"))
T = TypeVar("T")


def look(settings: Settings, question: Callable[[Connection], T]) -> T:
    """`question` put to the database, outside of any running loop."""

    async def run() -> T:
        engine = create_async_engine(settings.database_url, poolclass=NullPool)
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(question)
        finally:
            await engine.dispose()

    return asyncio.run(run())


def differences(settings: Settings) -> list[Any]:
    """What autogenerate would still do to make the database what `tables.py` describes."""
    table = call_log_table(settings.table, settings.db_schema)

    def compare(connection: Connection) -> list[Any]:
        options = {
            "compare_type": True,
            "include_schemas": settings.db_schema is not None,
            "include_name": lambda name, kind, _: (
                {"table": settings.table, "schema": settings.db_schema}.get(kind, name) == name
            ),
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), table.metadata))

    return look(settings, compare)


def schema(settings: Settings) -> Any:
    """Everything that can be said of the tables, in words that two databases can be compared by."""

    def describe(connection: Connection) -> Any:
        seen = inspect(connection)
        names = sorted(seen.get_table_names())
        if settings.is_postgresql:
            indexes = connection.scalars(text("SELECT indexdef FROM pg_indexes WHERE tablename LIKE 'biz%' ORDER BY 1"))
            extra = list(indexes)
        else:
            created = connection.scalars(text("SELECT sql FROM sqlite_master ORDER BY name"))
            extra = [" ".join(str(statement).split()) for statement in created]
        columns = {name: [(c["name"], str(c["type"]), c["nullable"]) for c in seen.get_columns(name)] for name in names}
        return columns, extra

    return look(settings, describe)


def alembic(url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The plain command, in the checkout, as a database's owner would type it."""
    env = {**os.environ, "LLMCTX_DATABASE_URL": url, **environment}
    command = [sys.executable, "-m", "alembic", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


def test_the_table_has_the_fields_of_a_record_in_their_order() -> None:
    """`CallRecord` and the table cannot drift apart."""
    assert tuple(column.name for column in call_log_table().columns) == COLUMNS


def test_empty_to_head_is_what_tables_describes(any_empty_database: str) -> None:
    """A migrated database and `tables.py` differ in nothing."""
    settings = load(database_url=any_empty_database)
    before = migrate.upgrade(settings)
    assert (before.table, before.current) == ("missing", None)
    assert migrate.check(settings).is_current
    assert differences(settings) == []


def test_another_name_and_schema(empty_database: str) -> None:
    """The table can stand in a schema that is not there yet, beside one of the usual name, each at its own version."""
    usual = load(database_url=empty_database)
    other = load(database_url=empty_database, table="Model_Calls", db_schema="agents")
    migrate.upgrade(usual)
    assert migrate.state(other).table == "missing"
    migrate.upgrade(other)
    assert differences(other) == []
    migrate.downgrade(other)
    assert migrate.state(other).table == "missing"
    assert migrate.check(usual).is_current


@pytest.mark.parametrize("length", [36, 37, 40])
def test_a_name_as_long_as_a_setting_may_be(empty_database: str, length: int) -> None:
    """With all that is made beside the table."""
    settings = load(database_url=empty_database, table="n" * length)
    migrate.upgrade(settings, texts_apart=True)
    assert migrate.check(settings).is_current
    assert not migrate.plan(settings, texts_apart=True).steps
    migrate.downgrade(settings)
    assert migrate.state(settings).table == "missing"


def test_up_down_up_leaves_the_same_schema(any_empty_database: str) -> None:
    """Down takes everything away but the version table; up again makes the same."""
    settings = load(database_url=any_empty_database)
    migrate.upgrade(settings)
    first = schema(settings)
    migrate.downgrade(settings)
    assert list(schema(settings)[0]) == ["llmctx_alembic_version"]
    assert migrate.state(settings).table == "missing"
    migrate.upgrade(settings)
    assert schema(settings) == first


def test_upgrading_twice_is_upgrading_once(any_empty_database: str) -> None:
    """At the head nothing happens, and the plan is empty."""
    settings = load(database_url=any_empty_database)
    assert len(migrate.plan(settings).steps) == 2
    migrate.upgrade(settings)
    assert migrate.plan(settings).steps == []
    assert migrate.upgrade(settings).is_current


def test_plain_alembic_does_what_llmctx_migrate_does(any_empty_database: str, tmp_path: Path) -> None:
    """`alembic upgrade head` makes the same database, and `llmctx migrate` takes it as its own."""
    settings = load(database_url=any_empty_database)
    migrate.upgrade(settings)
    ours = schema(settings)
    assert (done := alembic(any_empty_database, "downgrade", "base")).returncode == 0, done.stderr
    assert migrate.state(settings).table == "missing"
    assert (done := alembic(any_empty_database, "upgrade", "head")).returncode == 0, done.stderr
    assert schema(settings) == ours
    assert migrate.check(settings).is_current
    assert (done := alembic(any_empty_database, "check")).returncode == 0, done.stderr + done.stdout


def test_alembic_takes_the_name_from_x_arguments(sqlite_url: str) -> None:
    """-x llmctx_table=… names the table where no setting does."""
    done = alembic(sqlite_url, "-x", "llmctx_table=model_calls", "upgrade", "head")
    assert done.returncode == 0, done.stderr
    assert migrate.check(load(database_url=sqlite_url, table="model_calls")).is_current


def test_the_printed_sql_makes_the_same_database(empty_database: str) -> None:
    """What a database's owner runs by hand is what `migrate` would have run."""
    settings = load(database_url=empty_database)
    script = migrate.sql(settings)
    execute(empty_database, *[part for part in script.split(";\n") if part.strip()])
    by_hand = schema(settings)
    assert migrate.check(settings).is_current
    execute(empty_database, *[part for part in migrate.sql(settings, down=True).split(";\n") if part.strip()])
    migrate.upgrade(settings)
    assert schema(settings) == by_hand


def test_the_printed_sql_needs_no_database() -> None:
    """--sql answers without a connection."""
    printed = migrate.sql(load(database_url="postgresql://nobody@nowhere.invalid/nothing", db_schema="agents"))
    assert "CREATE SCHEMA IF NOT EXISTS agents" in printed
    assert "PARTITION BY RANGE (created_at)" in printed


def test_postgresql_is_partitioned_by_month_with_a_default(database: str) -> None:
    """The present month and the next two have partitions; everything else is caught by the default one."""
    listed = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = :table ::regclass ORDER BY 1"
    found = look(
        load(database_url=database), lambda c: list(c.scalars(text(listed.replace(":table", f"'{DEFAULT_TABLE}'"))))
    )
    now = datetime.now(UTC)
    months = [(now.year + (now.month - 1 + n) // 12, (now.month - 1 + n) % 12 + 1) for n in range(3)]
    expected = [f"{DEFAULT_TABLE}_p{year}_{month:02}" for year, month in months]
    assert set(expected) <= set(found)  # the session may have begun in the month before
    assert f"{DEFAULT_TABLE}_default" in found


@pytest.mark.parametrize("year", [1999, 2126])
def test_a_row_whose_month_has_no_partition_lands_in_the_default_one(database: str, year: int) -> None:
    """A missing month never refuses a row, and the row's time comes back as it was, in UTC."""
    table = call_log_table()
    moment = datetime(year, 7, 1, 12, 30, 15, 123456, tzinfo=UTC)

    def insert(connection: Connection) -> Any:
        connection.execute(table.insert(), {"call_id": uuid4(), "created_at": moment, "model": "m"})
        where = connection.scalar(text(f"SELECT tableoid::regclass::text FROM {DEFAULT_TABLE}"))
        return where, connection.scalar(select(table.c.created_at))

    assert look(load(database_url=database), insert) == (f"{DEFAULT_TABLE}_default", moment)


def test_each_question_has_its_index(database: str) -> None:
    """The indexes that `tables.py` names are there, the one over time as BRIN, the one for misses partial."""
    query = f"SELECT indexname, indexdef FROM pg_indexes WHERE tablename = '{DEFAULT_TABLE}'"
    found = look(load(database_url=database), lambda c: {row[0]: row[1] for row in c.execute(text(query))})
    assert set(found) == {index.name for index in call_log_table().indexes} | {f"pk_{DEFAULT_TABLE}"}
    assert "USING brin (created_at)" in found[f"ix_{DEFAULT_TABLE}_created"]
    assert "WHERE ((session_id IS NULL) OR (user_id IS NULL))" in found[f"ix_{DEFAULT_TABLE}_unattributed"]


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (("CREATE TABLE {} (other integer)",), "not llmctx's table of versions"),
        (("CREATE TABLE {} (version_num text)", "INSERT INTO {} VALUES ('a'), ('b')"), "more than one"),
        (("CREATE TABLE {} (version_num text)", "INSERT INTO {} VALUES ('llmctx_9999')"), "Install a newer version"),
    ],
)
def test_a_version_that_is_not_known_is_named(any_empty_database: str, statements: tuple[str, ...], words: str) -> None:
    """Of a newer llmctx, or in somebody else's table: nothing is changed, and `doctor` says the same."""
    settings = load(database_url=any_empty_database)
    execute(any_empty_database, *(one.format(settings.version_table) for one in statements))
    before = schema(settings)
    for attempt in (migrate.upgrade, migrate.plan, migrate.check, migrate.downgrade):
        with pytest.raises(LlmctxError, match=words):
            attempt(settings)
    assert schema(settings) == before
    found = asyncio.run(install_checks.database(settings, install_checks.state_of(settings)))
    told = [finding for finding in found if finding.name == "database"]
    assert [(words in finding.cause, finding.fix) for finding in told] == [(True, "What it says.")]


def test_a_foreign_table_is_left_alone(any_empty_database: str) -> None:
    """A table of that name which llmctx did not make stays as it is, and the error says what to do."""
    settings = load(database_url=any_empty_database)
    execute(any_empty_database, f"CREATE TABLE {DEFAULT_TABLE} (id integer primary key, note text)")
    before = schema(settings)
    assert migrate.state(settings).table == "foreign"
    for attempt in (migrate.upgrade, migrate.plan, migrate.check):
        with pytest.raises(NotACallLog, match="LLMCTX_TABLE"):
            attempt(settings)
    done = alembic(any_empty_database, "upgrade", "head")
    assert done.returncode != 0
    assert "Nothing was changed" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert schema(settings) == before
    assert migrate.downgrade(settings).table == "foreign"
    assert schema(settings) == before


def test_a_table_that_somebody_dropped_is_made_again(any_empty_database: str) -> None:
    """The version that alembic noted does not keep `migrate` from seeing that the table has gone."""
    settings = load(database_url=any_empty_database)
    migrate.upgrade(settings)
    execute(any_empty_database, f"DROP TABLE {DEFAULT_TABLE}")
    with pytest.raises(MigrationsPending, match="missing"):
        migrate.check(settings)
    migrate.upgrade(settings)
    assert migrate.check(settings).is_current
    assert differences(settings) == []


def test_a_break_leaves_nothing_half_done(any_empty_database: str) -> None:
    """When the last statement fails, the first has left no trace."""
    settings = load(database_url=any_empty_database)
    execute(any_empty_database, "CREATE TABLE other (created_at timestamp)")
    if settings.is_postgresql:
        execute(any_empty_database, f"CREATE TABLE {DEFAULT_TABLE}_default (x integer)")
    else:
        execute(any_empty_database, f"CREATE INDEX ix_{DEFAULT_TABLE}_unattributed ON other (created_at)")
    before = schema(settings)
    with pytest.raises(Exception, match="already exists"):
        migrate.upgrade(settings)
    assert schema(settings) == before


def test_a_version_that_these_scripts_do_not_know_is_said(any_empty_database: str) -> None:
    """A database that a newer llmctx has migrated gets an error, no change."""
    settings = load(database_url=any_empty_database)
    migrate.upgrade(settings)
    execute(any_empty_database, "UPDATE llmctx_alembic_version SET version_num = 'llmctx_9999'")
    with pytest.raises(LlmctxError, match="llmctx_9999"):
        migrate.upgrade(settings)


def test_several_processes_migrate_at_once(any_empty_database: str) -> None:
    """A deployment of several processes: one makes the table, the others wait and find it."""
    env = {**os.environ, "LLMCTX_DATABASE_URL": any_empty_database}
    command = [sys.executable, "-m", "llmctx", "migrate"]
    running = [subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    assert migrate.check(load(database_url=any_empty_database)).is_current


def test_several_threads_migrate_at_once(any_empty_database: str) -> None:
    """Alembic knows one context per process; ours take turns."""
    settings = load(database_url=any_empty_database)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(migrate.upgrade, settings) for _ in range(4)]:
            done.result(30)
    assert migrate.check(settings).is_current


async def test_migrating_from_a_thread_beside_a_running_loop(any_empty_database: str) -> None:
    """An application that migrates at its start does so in a thread, while its own loop runs on."""
    settings = load(database_url=any_empty_database)
    ticks = 0
    done = threading.Event()

    async def tick() -> None:
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            await asyncio.sleep(0.005)

    ticking = asyncio.create_task(tick())
    await asyncio.to_thread(migrate.upgrade, settings)
    done.set()
    await ticking
    assert ticks > 2
    assert (await asyncio.to_thread(migrate.check, settings)).is_current


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:hunter2@127.0.0.1:1/shop", '127.0.0.1:1, database "shop"'),
        ("postgresql://u:hunter2@nowhere.invalid/shop", "nowhere.invalid:5432"),
        ("postgresql://u:hunter2@/shop?host=/nowhere", "socket /nowhere"),
        ("sqlite:////nowhere/at/all.db", "/nowhere/at/all.db"),
    ],
)
def test_a_database_that_is_not_there_is_named_without_its_password(url: str, said: str) -> None:
    """Host, port and database stand in the message, and the driver's reason behind it."""
    with pytest.raises(DatabaseUnavailable) as caught:
        migrate.upgrade(load(database_url=url))
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    """A URL that points to some other file, or to a folder, gets an answer and changes nothing."""
    file = tmp_path / "letter.txt"
    file.write_text("Dear all, " * 500)
    for path in (file, tmp_path):
        with pytest.raises(DatabaseUnavailable, match="LLMCTX_DATABASE_URL"):
            migrate.upgrade(load(database_url=f"sqlite:///{path}"))
    assert file.read_text() == "Dear all, " * 500


def test_a_missing_database_and_a_wrong_user_are_told_apart(postgres_url: str) -> None:
    """One says createdb, the other says to look at user and password."""
    missing = re.sub(r"/\w+\?", "/not_there?", postgres_url) if "?" in postgres_url else f"{postgres_url}_not_there"
    with pytest.raises(DatabaseUnavailable, match="createdb"):
        migrate.upgrade(load(database_url=missing))
    stranger = re.sub(r"//[^@/]*@", "//llmctx_stranger:x@", postgres_url)
    with pytest.raises(DatabaseUnavailable, match="user and password"):
        migrate.upgrade(load(database_url=stranger))


def test_looking_makes_no_sqlite_file(sqlite_url: str) -> None:
    """`state` and `plan` of a file that is not there leave none behind."""
    settings = load(database_url=sqlite_url)
    assert migrate.state(settings).table == "missing"
    assert migrate.plan(settings).steps
    assert not Path(sqlite_url.removeprefix("sqlite+aiosqlite:///")).exists()


@pytest.mark.parametrize("path", VERSIONS, ids=lambda path: path.name)
def test_migrations_have_proper_names_and_hand_over_their_own_columns(path: Path) -> None:
    """NNNN_what_it_does.py, revision llmctx_NNNN; of llmctx only the reconciler, no list of columns that changes."""
    assert re.fullmatch(r"\d{4}(_[a-z0-9]+)+\.py", path.name)
    tree = ast.parse(path.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name.partition(".")[0] in {"llmctx", ""}} == {"llmctx.migrate.adoption"}
    assert f'revision = "llmctx_{path.name[:4]}"' in path.read_text()


def test_migrations_are_numbered_without_a_gap_and_the_folder_is_no_package() -> None:
    """alembic/__init__.py would hide the library of that name from whoever runs in the checkout."""
    assert [path.name[:4] for path in VERSIONS] == [f"{n:04}" for n in range(1, len(VERSIONS) + 1)]
    assert not (ROOT / "alembic" / "__init__.py").exists()
    assert not (ROOT / "alembic" / "versions" / "__init__.py").exists()


async def test_a_pooler_in_transaction_mode_is_refused(empty_database: str) -> None:
    """Locks and settings of a session would stay with its servers: nothing is done, and one knows where to go."""
    one = Pooler(empty_database, servers=2)
    await one.open()
    try:
        behind = load(database_url=one.url)
        with pytest.raises(LlmctxError, match="pooler in transaction mode"):
            await asyncio.to_thread(migrate.upgrade, behind)
        assert (await asyncio.to_thread(migrate.state, behind)).table == "missing"
    finally:
        await one.close()


async def test_the_python_functions_take_what_a_call_log_takes(tmp_path: Path) -> None:
    """A URL, an engine, settings, or the call log, also while a loop runs. What is none of that is a sentence."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'llmctx.db'}"
    engine = create_async_engine(url)
    call_log = CallLog(engine, table="calls")
    assert call_log.settings.database_url == url
    assert call_log.migrate().table == "missing"
    for database, more in ((url, {"table": "calls"}), (engine, {"table": "calls"}), (call_log, {}), (load(), {})):
        expected = "missing" if isinstance(database, Settings) else "ours"
        assert migrate.state(database, **more).table == expected
    assert migrate.check(call_log.settings).is_current
    assert migrate.upgrade(engine.url, table="calls").is_current
    assert not migrate.plan(call_log).steps
    assert "CREATE TABLE" in migrate.sql(call_log)
    for wrong in (7, Path("llmctx.db"), object()):
        with pytest.raises(ConfigError, match="as a URL, such as"):
            migrate.upgrade(wrong)
    with pytest.raises(ConfigError, match="'tabel' is not a setting"):
        migrate.upgrade(url, tabel="calls")
    assert migrate.downgrade(call_log).table == "ours"
    await engine.dispose()


def test_another_driver_of_the_same_database_is_no_hindrance() -> None:
    """The application's engine may use psycopg."""
    url = make_url("postgresql+psycopg://app:p%40ss@db/app")
    assert settings_of(url).database_url == "postgresql+asyncpg://app:p%40ss@db/app"
