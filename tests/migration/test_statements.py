"""Revision 0001 is frozen: what it does to a database stays the same, statement by statement.

`statements_0001.sql` holds what it sent and printed on the day when its code moved into the package. Revisions that
came later are left out: a copy of the scripts that ends with 0001 is run.
"""

from __future__ import annotations

import asyncio
import importlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.settings import Settings, load
from tests.conftest import execute
from tests.migration.filling import SHAPES, fill
from tests.migration.psql import dumped

state = importlib.import_module("llmctx.migrate.state")
GOLDEN = Path(__file__).with_name("statements_0001.sql")
CHANGES = re.compile(r"\s*(CREATE|ALTER|DROP|COMMENT|DO|LOCK|GRANT)\b")
PARTED = (
    f"CREATE TABLE {DEFAULT_TABLE} (call_id varchar(64), model text, created_at timestamptz NOT NULL, user_id text)"
)


@pytest.fixture
def only_0001(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "scripts"
    shutil.copytree(state.scripts(), folder, ignore=shutil.ignore_patterns("__pycache__", "000[2-9]_*"))
    monkeypatch.setattr(state, "scripts", lambda: folder)


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Each statement that changes something, as the server gets it."""
    sent: list[str] = []

    def note(_: Any, cursor: Any, statement: str, *more: Any) -> None:
        if CHANGES.match(statement):
            sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def months_out(text: str) -> str:
    """The months of the first partitions depend on the day."""
    now = datetime.now(UTC)
    for ahead in range(4):
        year, month = divmod(now.year * 12 + now.month - 1 + ahead, 12)
        text = text.replace(f"{year}_{month + 1:02}", f"<month {ahead}>")
        text = text.replace(f"{year}-{month + 1:02}-01", f"<first {ahead}>")
    return text


def written(statements: str) -> str:
    """Without notes of the version, blanks at the ends of lines, and alembic's own words."""
    kept = [part.strip() for part in statements.split(";\n") if "alembic_version" not in part]
    lines = [line.rstrip() for part in kept for line in f"{part};".splitlines()]
    return months_out("\n".join(line for line in lines if line and not line.startswith("--")))


def by_each_way(settings: Settings, shape: str) -> Iterator[tuple[str, str]]:
    """Printed and sent, there and back; with ids that become text, too."""
    bare = dumped(settings.database_url)
    yield f"{shape}: printed", migrate.sql(settings, look=True)
    for widen in (False, True) if shape == "numbers" else (False,):
        words = ", widened" if widen else ""
        with recorded() as sent:
            migrate.upgrade(settings, widen=widen)
        yield f"{shape}{words}: sent", ";\n".join(sent)
        yield f"{shape}{words}: printed, back", migrate.sql(settings, down=True, look=True)
        with recorded() as sent:
            migrate.downgrade(settings)
        yield f"{shape}{words}: sent, back", ";\n".join(sent)
    assert shape == "numbers" or dumped(settings.database_url) == bare


def sections(url: str, file_url: str) -> Iterator[tuple[str, str]]:
    settings, file = load(database_url=url), load(database_url=file_url)
    yield "fresh: printed", migrate.sql(settings)
    yield "fresh: printed, back", migrate.sql(settings, down=True)
    for name, where in (("fresh", settings), ("SQLite", file)):
        for back, change in (("", migrate.upgrade), (", back", migrate.downgrade)):
            with recorded() as sent:
                change(where)
            yield f"{name}: sent{back}", ";\n".join(sent)
    for shape in SHAPES:
        yield f"{shape}: printed unseen", migrate.sql(settings, existing=shape)
        execute(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        asyncio.run(fill(url, shape, 0))
        yield from by_each_way(settings, shape)
    execute(
        url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public", f"{PARTED} PARTITION BY RANGE (created_at)",
        f"CREATE TABLE old PARTITION OF {DEFAULT_TABLE} FOR VALUES FROM (MINVALUE) TO ('2026-01-01')",
        f"CREATE TABLE rest PARTITION OF {DEFAULT_TABLE} DEFAULT",
    )  # fmt: skip
    yield from by_each_way(settings, "partitioned")


@pytest.mark.usefixtures("only_0001")
def test_the_statements_of_0001_stay_as_they_are(empty_database: str, sqlite_url: str) -> None:
    """For a fresh table, for the three shapes that teams have, and for partitions of theirs."""
    made = "".join(f"==== {name}\n{written(text)}\n" for name, text in sections(empty_database, sqlite_url))
    assert made == GOLDEN.read_text()
