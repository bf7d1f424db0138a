"""Revision 0002 comes to tables at 0001: rows are stored before and after, and none is lost in between."""

from __future__ import annotations

import asyncio
import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctx.core.errors import MigrationsPending
from llmctx.core.record import DEFAULT_TABLE, CallRecord
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.kit.rows import query, record, writing
from tests.migration.test_second_revision import alembic, ini_for, make

state = importlib.import_module("llmctx.migrate.state")
NEW: dict[str, Any] = {
    "response_model": "m-2026", "response_id": "chatcmpl-1", "service_tier": "flex", "cache_write_tokens": 7,
    "span_id": "00f067aa0ba902b7", "cost_source": "provider",
}  # fmt: skip
STORED = f"SELECT {', '.join(NEW)} FROM {DEFAULT_TABLE} WHERE user_id = 'u' ORDER BY created_at"


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Only 0001 is there, until it is called."""
    folder, whole = tmp_path / "scripts", state.scripts
    shutil.copytree(whole(), folder, ignore=shutil.ignore_patterns("__pycache__", "000[2-9]_*"))
    monkeypatch.setattr(state, "scripts", lambda: folder)
    return lambda: monkeypatch.setattr(state, "scripts", whole)


async def write(url: str, row: CallRecord) -> None:
    async with writing(url) as one:
        assert one.submit(row)
        assert await one.drain(60) == 0, one.last_error


@pytest.mark.parametrize("table", ["texts", "fresh", "sqlite"])
def test_rows_are_stored_before_and_after(
    table: str, release: Callable[[], None], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """This version writes into a table at 0001 without the columns, and says what adds them: plain alembic, too."""
    url: str = request.getfixturevalue("sqlite_url" if table == "sqlite" else "empty_database")
    settings = load(database_url=url)
    if table != "sqlite":
        make(url, table)
    migrate.upgrade(settings)
    asyncio.run(write(url, record(**NEW)))
    release()
    with pytest.raises(MigrationsPending, match="response_model, response_id, service_tier"):
        migrate.check(settings)
    if table == "fresh":
        alembic(url, ini_for(tmp_path), "upgrade", "head")
    else:
        migrate.upgrade(settings)
    assert migrate.check(settings).is_current
    asyncio.run(write(url, record(**NEW)))
    before, after = asyncio.run(query(url, STORED))
    assert (tuple(before), tuple(after)) == ((None,) * len(NEW), tuple(NEW.values()))
