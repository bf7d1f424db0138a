"""The next revision: a file of twenty lines adds a column to every table there is, and takes it away again.

Each test has a copy of the scripts to which `0003` was added, as in the next release.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmctx import cli
from llmctx.core.errors import LlmctxError, MigrationsPending
from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.migrate import partition as partitioning
from llmctx.settings import load
from tests.conftest import execute
from tests.migration.filling import SHAPES, fill
from tests.migration.psql import dumped, psql
from tests.migration.test_adoption import holding
from tests.migration.test_statements import PARTED, recorded

ROOT = Path(__file__).parents[2]
T = DEFAULT_TABLE
state = importlib.import_module("llmctx.migrate.state")
NEXT = '''"""Add region."""

from llmctx.migrate.adoption import revision as reconciler

revision = "llmctx_0003"
down_revision = "llmctx_0002"
branch_labels = None
depends_on = None
COLUMNS = {"region": "text"}


def upgrade() -> None:
    reconciler.upgrade(revision)


def downgrade() -> None:
    reconciler.downgrade(revision)
'''
ADDED = "add 1 column, which may be NULL: region"
THERE = f"SELECT attname FROM pg_attribute WHERE attrelid = '{T}'::regclass AND attname = 'region'"
MARKED = f"SELECT col_description('{T}'::regclass, attnum) {THERE.removeprefix('SELECT attname')}"
TABLES = (*SHAPES, "partitioned", "fresh")


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    folder = tmp_path / "scripts"
    shutil.copytree(state.scripts(), folder, ignore=shutil.ignore_patterns("__pycache__", "000[3-9]_*"))
    return folder


@pytest.fixture
def release(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Only 0002 is there, until it is called."""
    monkeypatch.setattr(state, "scripts", lambda: scripts)

    def with_next() -> None:
        after = scripts.with_name("released")
        shutil.copytree(scripts, after)
        (after / "versions" / "0003_region.py").write_text(NEXT)
        monkeypatch.setattr(state, "scripts", lambda: after)

    return with_next


def make(url: str, table: str) -> list[str]:
    """A table as it stands before llmctx comes, if there is one."""
    if table in SHAPES:
        asyncio.run(fill(url, table, 100))
    elif table == "partitioned":
        execute(
            url, f"{PARTED} PARTITION BY RANGE (created_at)",
            f"CREATE TABLE old PARTITION OF {T} FOR VALUES FROM (MINVALUE) TO ('2026-01-01')",
            f"CREATE TABLE rest PARTITION OF {T} DEFAULT",
        )  # fmt: skip
    return dumped(url)


def ini_for(folder: Path) -> Path:
    ini = folder / "alembic.ini"
    ini.write_text((ROOT / "alembic.ini").read_text().replace("%(here)s/alembic", str(state.scripts())))
    return ini


def alike(url: str) -> list[str]:
    """The schema, whatever the order of columns: those of two revisions at once stand otherwise beside others."""
    return sorted(line.strip(" ,") for statement in dumped(url) for line in statement.splitlines())


def alembic(url: str, ini: Path, *arguments: str) -> str:
    env = {**os.environ, "LLMCTX_DATABASE_URL": url, "DATABASE_URL": url, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "alembic", "-c", str(ini), *arguments]
    done = subprocess.run(command, cwd=ini.parent, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.parametrize("table", TABLES)
def test_a_table_at_one_revision_gets_the_next(
    empty_database: str, release: Callable[[], None], table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planned, named by check, added behind a short lock, marked where the table is somebody's, and taken away."""
    url, settings = empty_database, load(database_url=empty_database)
    bare = make(url, table)
    migrate.upgrade(settings)
    assert migrate.plan(settings).steps == []
    release()
    steps = migrate.plan(settings).steps
    assert [step.what for step in steps] == [ADDED, "note version llmctx_0003"]
    assert steps[0].lock == "others for a moment"
    with pytest.raises(MigrationsPending, match=ADDED):
        migrate.check(settings)
    verb = ["--database-url", url, "migrate"]
    assert cli.run([*verb, "--plan"]) == 0
    with recorded() as sent:
        assert cli.run([*verb, "--yes"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("region") == 2  # planned, and done
    (adding,) = [statement for statement in sent if "region" in statement]
    assert "lock_timeout = '300ms'" in adding
    assert "SHARE UPDATE EXCLUSIVE" in adding
    assert migrate.check(settings).current == "llmctx_0003"
    assert migrate.plan(settings).steps == []
    assert psql(url, MARKED).strip() == ("" if table == "fresh" else "added by llmctx")
    assert any("region" in step.what for step in migrate.plan(settings, down=True).steps) == (table != "fresh")
    migrate.downgrade(settings)
    assert dumped(url) == bare


@pytest.mark.parametrize("table", TABLES)
def test_each_way_leads_to_the_same_table(
    empty_database: str, release: Callable[[], None], table: str, tmp_path: Path
) -> None:
    """At once or one by one, by `llmctx migrate`, by plain alembic, and by the SQL that is printed."""
    url, settings = empty_database, load(database_url=empty_database)
    bare = make(url, table)
    migrate.upgrade(settings)
    first = dumped(url)
    release()
    printed = migrate.sql(settings, look=True)
    assert "llmctx_0003" in printed
    psql(url, printed)
    assert migrate.check(settings).is_current
    if table != "fresh":  # of a table that llmctx made it is how to make it
        psql(url, migrate.sql(settings, look=True))  # printed once more, there is nothing left to do
    whole = alike(url)
    ini = ini_for(tmp_path)
    alembic(url, ini, "downgrade", "llmctx_0002")
    assert dumped(url) == first
    assert migrate.state(settings).current == "llmctx_0002"
    alembic(url, ini, "upgrade", "head")
    assert alike(url) == whole
    assert migrate.check(settings).is_current
    alembic(url, ini, "downgrade", "base")
    assert dumped(url) == bare
    alembic(url, ini, "upgrade", "head")
    assert alike(url) == whole
    psql(url, migrate.sql(settings, down=True, look=True))
    assert dumped(url) == bare
    migrate.upgrade(settings)
    assert alike(url) == whole
    assert migrate.check(settings).is_current
    migrate.downgrade(settings)
    psql(url, migrate.sql(settings, look=True))
    assert alike(url) == whole
    if table in SHAPES:
        migrate.downgrade(settings)
        psql(url, migrate.sql(settings, existing=table))
        assert alike(url) == whole
        assert migrate.check(settings).is_current


@pytest.mark.parametrize("table", ["texts", "fresh"])
def test_it_waits_for_its_lock_in_turns(empty_database: str, release: Callable[[], None], table: str) -> None:
    """Whoever holds the table is named, and nothing is half done; later it goes on."""
    url, settings = empty_database, load(database_url=empty_database)
    make(url, table)
    migrate.upgrade(settings)
    before = dumped(url)
    release()
    reading = holding(url, f"SELECT * FROM {T} LIMIT 1")
    with reading, pytest.raises(LlmctxError, match="idle in transaction, for"):
        migrate.upgrade(settings, patience_s=0.5)
    assert dumped(url) == before
    assert migrate.state(settings).current == "llmctx_0002"
    migrate.upgrade(settings)
    assert migrate.check(settings).is_current


@pytest.mark.parametrize("table", ["texts", "fresh"])
def test_in_a_hosts_own_tree(empty_database: str, scripts: Path, tmp_path: Path, table: str) -> None:
    """As a branch of it: up, back by one, all of the way back; and as SQL for a table that nobody has looked at."""
    url, folder = empty_database, tmp_path / "host"
    shutil.copytree(ROOT / "examples" / "host", folder)
    ini = folder / "alembic_branch.ini"
    ini.write_text(ini.read_text().replace("llmctx:migrations/versions", str(scripts / "versions")))
    bare = make(url, table)
    alembic(url, ini, "upgrade", "llmctx@head")
    first = dumped(url)
    (scripts / "versions" / "0003_region.py").write_text(NEXT)
    printed = alembic(url, ini, "upgrade", "llmctx_0002:llmctx_0003", "--sql")
    alembic(url, ini, "upgrade", "llmctx@head")
    whole = dumped(url)
    assert psql(url, THERE).strip() == "region"
    alembic(url, ini, "downgrade", "llmctx@llmctx_0002")
    assert dumped(url) == first
    psql(url, printed)
    assert dumped(url) == whole
    alembic(url, ini, "downgrade", "llmctx@base")
    assert dumped(url) == bare


def test_a_table_that_was_partitioned_in_between(empty_database: str, release: Callable[[], None]) -> None:
    """The column comes to the partitions as well, and bears its mark still when the table is one piece again."""
    url, settings = empty_database, load(database_url=empty_database)
    bare = make(url, "unkeyed")
    migrate.upgrade(settings)
    partitioning.partition(settings)
    release()
    migrate.upgrade(settings)
    assert migrate.check(settings).is_current
    partitioning.partition(settings, back=True)
    assert psql(url, MARKED).strip() == "added by llmctx"
    assert migrate.check(settings).is_current
    assert partitioning.plan(settings)
    migrate.downgrade(settings)
    assert dumped(url) == bare


def test_a_way_to_partitions_that_was_broken_off_before(empty_database: str, release: Callable[[], None]) -> None:
    """What was begun for other columns is led back before it is begun anew."""
    settings = load(database_url=empty_database)
    make(empty_database, "unkeyed")
    migrate.upgrade(settings)

    def broken(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        partitioning.partition(settings, say=broken)
    release()
    migrate.upgrade(settings)
    with pytest.raises(LlmctxError, match="its columns have changed: run `llmctx partition --downgrade --yes`"):
        partitioning.partition(settings)
    partitioning.partition(settings, back=True)
    partitioning.partition(settings)
    assert migrate.check(settings).is_current


def test_sqlite(sqlite_url: str, release: Callable[[], None], tmp_path: Path) -> None:
    """Added to the table that is there, or made with it; one back by plain alembic."""
    settings = load(database_url=sqlite_url)
    migrate.upgrade(settings)
    release()
    assert [step.what for step in migrate.plan(settings).steps] == [ADDED, "note version llmctx_0003"]
    with pytest.raises(MigrationsPending, match=ADDED):
        migrate.check(settings)
    migrate.upgrade(settings)
    assert migrate.check(settings).is_current
    ini = ini_for(tmp_path)
    alembic(sqlite_url, ini, "downgrade", "llmctx_0002")
    assert migrate.state(settings).lacks == (ADDED,)
    alembic(sqlite_url, ini, "upgrade", "head")
    assert migrate.check(settings).is_current
    migrate.downgrade(settings)
    assert migrate.state(settings).table == "missing"
    migrate.upgrade(settings)
    assert migrate.check(settings).is_current
