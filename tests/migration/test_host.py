"""examples/host: an application whose own Alembic stays in charge, with llmctx from the wheel, in all three ways."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    func,
)
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.migrate import partition as partitioning
from llmctx.settings import load
from tests.migration.psql import dumped, psql

ROOT = Path(__file__).parents[2]
T = DEFAULT_TABLE
Shell = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content: `llmctx:migrations/versions` is there as users have it."""
    folder = tmp_path_factory.mktemp("host_wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, text=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture
def host(wheel: Path, tmp_path: Path, empty_database: str) -> Shell:
    """Types a command in the application's folder, and gives what it said."""
    folder = tmp_path / "host"
    shutil.copytree(ROOT / "examples" / "host", folder)
    env = {
        **os.environ, "PYTHONPATH": str(wheel), "DATABASE_URL": empty_database, "LLMCTX_DATABASE_URL": empty_database,
    }  # fmt: skip

    def type_(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=folder, env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    return type_


ROW = (
    f"INSERT INTO {T} (id, call_id, agent_key, model, created_at) VALUES ('r1', 'c1', 'a', 'm', '2024-01-01'); "
    "INSERT INTO biz_agent_llm_call_messages (call_id) VALUES ('c1');"
)


def filled(url: str) -> list[str]:
    """The schema before the adoption, with a row and its message."""
    psql(url, ROW)
    return dumped(url)


def beside(host: Shell, url: str, before: list[str]) -> tuple[str, ...]:
    host("alembic", "upgrade", "head")
    before += filled(url)
    host("llmctx", "migrate", "--yes")
    return ()  # the way back by this command is test_adoption.py's


def branch(host: Shell, url: str, before: list[str]) -> tuple[str, ...]:
    ini = ("alembic", "-c", "alembic_branch.ini")
    host(*ini, "upgrade", "clinic@head")
    before += filled(url)
    host(*ini, "upgrade", "heads")
    return (*ini, "downgrade", "llmctx@base")


def offline(host: Shell, url: str, before: list[str]) -> tuple[str, ...]:
    ini = ("alembic", "-c", "alembic_branch.ini")
    host(*ini, "upgrade", "clinic@head")
    before += filled(url)
    psql(url, host(*ini, "-x", "llmctx_existing=texts", "upgrade", "llmctx@head", "--sql").replace(
        "CREATE TABLE alembic_version", "CREATE TABLE IF NOT EXISTS alembic_version"
    ))  # fmt: skip
    return (*ini, "downgrade", "llmctx@base")


@pytest.mark.parametrize("way", [beside, branch, offline], ids=lambda way: way.__name__)
def test_a_host_adopts_its_table(host: Shell, empty_database: str, way: Callable[..., tuple[str, ...]]) -> None:
    """The row and its message are there, autogenerate proposes nothing, and the way back leaves what was before."""
    before: list[str] = []
    back = way(host, empty_database, before)
    joined = f"FROM {T} c JOIN biz_agent_llm_call_messages USING (call_id)"
    said = psql(empty_database, f"SELECT c.id, call_id, agent_key, thread_id IS NULL {joined}")
    assert said.strip() == "r1|c1|a|t"
    assert migrate.check(load(database_url=empty_database)).is_current
    assert migrate.plan(load(database_url=empty_database)).steps == []
    ini = ("-c", "alembic_branch.ini") if back else ()
    assert "No new upgrade operations" in host("alembic", *ini, "check")
    if back:
        host(*back)
        assert dumped(empty_database) == before


def test_autogenerate_sees_nothing_of_a_table_that_llmctx_made(empty_database: str) -> None:
    """Neither the table nor its partitions nor its version; and what the host's own filter refuses stays refused."""
    settings = load(database_url=empty_database)
    migrate.upgrade(settings)
    metadata = MetaData()
    Table("notes", metadata, Column("text", Text))
    Table("others", metadata, Column("text", Text))

    def compare(connection: Connection) -> list[str]:
        filter_ = migrate.leaving(besides=lambda thing, name, kind, reflected, to: name != "others")
        context = MigrationContext.configure(connection, opts={"include_object": filter_})
        return [f"{step[0]} {step[1].name}" for step in compare_metadata(context, metadata)]

    async def ask() -> list[str]:
        engine = create_async_engine(empty_database, poolclass=NullPool)
        async with engine.connect() as connection:
            found = await connection.run_sync(compare)
        await engine.dispose()
        return found

    assert asyncio.run(ask()) == ["add_table notes"]


def test_inside_of_a_transaction_of_the_hosts(empty_database: str) -> None:
    """Small tables are adopted in it, as in a host's tests."""
    from alembic import command
    from alembic.config import Config

    psql(empty_database, f"CREATE TABLE {T} (call_id uuid, model text, created_at timestamptz NOT NULL)")
    settings = load(database_url=empty_database)

    def within(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(migrate.scripts()))
        config.attributes.update(settings=settings, connection=connection)
        command.upgrade(config, "head")

    async def run() -> None:
        engine = create_async_engine(empty_database, poolclass=NullPool)
        async with engine.begin() as connection:
            await connection.run_sync(within)
        await engine.dispose()

    asyncio.run(run())
    assert migrate.check(settings).is_current


@pytest.mark.parametrize("child", ["a_message", "z_message"])
def test_autogenerate_sees_nothing_of_partitions(empty_database: str, child: str) -> None:
    """The host's indexes, keys and foreign keys stand there in another form; what it adds to its model is proposed."""
    metadata = MetaData()
    model = Table(
        T, metadata, Column("id", Integer, primary_key=True), Column("call_id", String(64), unique=True, index=True),
        Column("session_id", String(64)), Column("user_id", Integer), Column("model", Text),
        Column("created_at", DateTime(timezone=True), nullable=False),
    )  # fmt: skip
    Index("ix_newest", model.c.created_at.desc())
    Index("ix_lower", func.lower(model.c.session_id))
    Table(child, metadata, Column("id", Integer, primary_key=True), Column("call_id", ForeignKey(model.c.call_id)))

    async def on(what: Callable[[Connection], Any]) -> Any:
        engine = create_async_engine(empty_database, poolclass=NullPool)
        async with engine.begin() as connection:
            return await connection.run_sync(what)

    def proposed(connection: Connection) -> Any:
        options = {"include_object": migrate.include_object, "target_metadata": metadata}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    asyncio.run(on(metadata.create_all))
    settings = load(database_url=empty_database)
    migrate.upgrade(settings)
    assert asyncio.run(on(proposed)) == []
    partitioning.partition(settings, drop_foreign_keys=True)
    assert asyncio.run(on(proposed)) == []
    Index("ix_more", model.c.user_id, model.c.session_id)
    assert [change[0] for change in asyncio.run(on(proposed))] == ["add_index"]
    partitioning.partition(settings, back=True)
    assert [change[0] for change in asyncio.run(on(proposed))] == ["add_index"]


def test_autogenerate_leaves_ids_that_have_become_text(empty_database: str) -> None:
    """After `--widen` a model that still says Integer proposes no way back, and one that says Text is what there is."""

    def model(kind: Any) -> MetaData:
        made = MetaData()
        Table(
            T, made, Column("id", Integer, primary_key=True), Column("call_id", String(64), unique=True),
            Column("session_id", String(64)), Column("user_id", kind), Column("model", Text),
            Column("created_at", DateTime(timezone=True), nullable=False),
        )  # fmt: skip
        return made

    async def on(what: Callable[[Connection], Any]) -> Any:
        engine = create_async_engine(empty_database, poolclass=NullPool)
        async with engine.begin() as connection:
            found = await connection.run_sync(what)
        await engine.dispose()
        return found

    def proposed(connection: Connection) -> Any:
        options = {"include_object": migrate.include_object, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        return [compare_metadata(context, model(kind)) for kind in (Integer, Text)]

    asyncio.run(on(model(Integer).create_all))
    migrate.upgrade(load(database_url=empty_database), widen=True)
    assert asyncio.run(on(proposed)) == [[], []]
