"""Adopted tables without a primary key, where ids and times are NULL, or there twice: every row is met, and once."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from llmctx import cli
from llmctx.core.record import DEFAULT_TABLE
from llmctx.delivery.pricing import Prices
from llmctx.ops.backfill import backfill, undo
from llmctx.ops.erase import Subject, erase
from llmctx.ops.recompute import recompute
from llmctx.settings import load
from llmctx.storage.engine import read_connection
from llmctx.storage.filters import Filters
from llmctx.storage.queries import call, calls
from llmctx.storage.reflection import reflect
from llmctx.storage.retention import Policy, retain
from tests.kit.rows import do, query

TIMES = ("'2026-01-02 03:04:05.000000'", "NULL")
CALLS = ("'same'", "NULL")
COLUMNS = "call_id, created_at, model, user_id, session_id, trace_id, prompt_tokens, completion_tokens, prompt_snapshot"


@pytest.fixture
def unkeyed(any_empty_database: str) -> str:
    """1,040 rows, hardly one of which can be told from another; of half of them it is known who they are of."""
    url = any_empty_database
    kind = "timestamptz" if url.startswith("postgresql") else "timestamp"
    statements = [
        (
            f"CREATE TABLE {DEFAULT_TABLE} (call_id varchar(64), created_at {kind}, model text, user_id text, "
            "session_id text, trace_id text, prompt_tokens integer, completion_tokens integer, prompt_snapshot text, "
            "cost_usd numeric(18, 9), identity_source text)"
        ),
        *(
            f"INSERT INTO {DEFAULT_TABLE} ({COLUMNS}) WITH RECURSIVE n (n) AS "
            "(SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 130) "
            f"SELECT {call_id}, {time}, 'gpt-4o', {user}, NULL, 't-' || n, 1000, 1, 'canary' FROM n"
            for call_id in CALLS
            for time in TIMES
            for user in ("'u-' || n", "NULL")
        ),
    ]
    asyncio.run(do(url, *statements))
    return url


WHO = f"SELECT user_id, trace_id FROM {DEFAULT_TABLE}"


async def test_backfill_there_and_back(unkeyed: str, tmp_path: Path) -> None:
    """Twins of different users get each his own; what was taken back is as it was."""
    settings = load(database_url=unkeyed)
    before = Counter(await query(unkeyed, f"SELECT * FROM {DEFAULT_TABLE}"))
    report = await backfill(settings, do=True, undo_file=tmp_path / "undo")
    assert (report.rows, report.filled) == (1040, {"trace": 520})
    assert Counter(await query(unkeyed, WHO)) == {(f"u-{n}", f"t-{n}"): 8 for n in range(1, 131)}
    assert not (await backfill(settings, do=True, undo_file=tmp_path / "again")).filled
    assert await undo(settings, tmp_path / "undo") == 520
    assert await undo(settings, tmp_path / "undo", do=True) == 520
    assert Counter(await query(unkeyed, f"SELECT * FROM {DEFAULT_TABLE}")) == before


async def test_every_row_gets_its_cost(unkeyed: str) -> None:
    """Also those whose time nobody knows."""
    settings = load(database_url=unkeyed)
    report = await recompute(settings, Prices(), Filters(), do=True)
    assert (report.rows, report.changed) == (1040, 1040)
    assert await query(unkeyed, f"SELECT count(*) FROM {DEFAULT_TABLE} WHERE cost_usd > 0") == [(1040,)]
    assert (await recompute(settings, Prices(), Filters(), again=True, do=True)).changed == 0


@pytest.mark.parametrize("blank", [False, True])
async def test_one_is_forgotten_and_no_twin_of_his(unkeyed: str, tmp_path: Path, *, blank: bool) -> None:
    """Four rows that name him, and four of nobody in his traces."""
    await do(unkeyed, f"UPDATE {DEFAULT_TABLE} SET trace_id = 't-7' WHERE user_id = 'u-8' AND call_id IS NULL")
    settings = load(database_url=unkeyed, journal_dir=str(tmp_path / "journal"))
    await erase(settings, Subject(user="u-9"), do=True, blank=blank)
    left = Counter(await query(unkeyed, WHO))
    assert sum(left.values()) == (1040 if blank else 1032)
    assert left[None, None] == (8 if blank else 0)
    assert not left["u-9", "t-9"] + left[None, "t-9"]
    assert left["u-8", "t-8"] == left["u-8", "t-7"] == 2


async def test_what_has_expired_goes_and_the_rest_is_read(unkeyed: str) -> None:
    """A row without a time never expires; the latest calls are those of which one knows when."""
    settings = load(database_url=unkeyed)
    await retain(settings, Policy(rows=30), do=True)
    assert await query(unkeyed, f"SELECT count(*) FROM {DEFAULT_TABLE}") == [(520,)]
    await do(
        unkeyed,
        f"INSERT INTO {DEFAULT_TABLE} ({COLUMNS}) VALUES ('last', '2026-11-11', 'm', 'u', 's', 't', 1, 1, 'x')",
    )
    async with read_connection(settings) as connection:
        table = await reflect(connection, settings)
        assert (await calls(connection, table, limit=2))[0]["call_id"] == "last"
        assert (await call(connection, table, "same"))["created_at"] is None


@pytest.mark.parametrize(
    "verb", ["calls", "show same", "users --since 2025-01-01", "stats --by day", "coverage", "backfill"]
)
def test_it_can_be_read(unkeyed: str, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a row lacks."""
    assert cli.run(["--database-url", unkeyed, *verb.split()]) == 0
    assert capsys.readouterr().out
