"""Adopted tables whose flags are numbers or words, whose figures are text, and whose texts are JSON."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from llmctx.core.record import COLUMNS, DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.settings import Settings, load
from llmctx.storage.engine import read_connection, write_connection
from llmctx.storage.filters import Filters
from llmctx.storage.queries import call, calls, conversation, health, sessions, stats, users
from llmctx.storage.reflection import column_expr, reflect
from llmctx.storage.retention import Policy, retain
from llmctx.storage.table import call_log_table
from tests.kit import older
from tests.kit.rows import do, record, store

SHAPES = {
    "numbers": {"success": "smallint USING success::int::smallint"},
    "words": {
        "success": "varchar(5) USING CASE WHEN success THEN 'Y' WHEN NOT success THEN 'N' ELSE 'odd' END",
        "latency_ms": "varchar(20) USING latency_ms || '.0'",
        "prompt_tokens": "text",
        "completion_tokens": "numeric(12, 2)",
        "temperature": "text",
    },
}


@pytest.fixture(params=SHAPES)
def settings(empty_database: str, request: pytest.FixtureRequest) -> Settings:
    """A table with three rows of user 7, of which one failed and one says nothing, adopted; and two of llmctx."""
    from tests.conftest import execute

    prompt = '[{"role": "user", "content": "old question"}]'
    outcomes = {1: True, 2: False, 3: None}
    rows = [older.row("numbered", n, success=s, prompt_tokens=5, prompt_snapshot=prompt) for n, s in outcomes.items()]
    changes = SHAPES[request.param] | {"prompt_snapshot": "jsonb USING prompt_snapshot::jsonb"}
    altered = [f"ALTER TABLE {DEFAULT_TABLE} ALTER {name} TYPE {kind}" for name, kind in changes.items()]
    execute(empty_database, *older.made("numbered"), *rows, *altered)
    settings = load(database_url=empty_database)
    migrate.upgrade(settings)
    return settings


def test_a_table_of_our_own_is_read_as_it_is() -> None:
    """No cast in any question: neither for a type of ours, such as money, nor for one that SQLAlchemy derives."""
    table = call_log_table()
    assert [name for name in COLUMNS if column_expr(table, name) is not table.c[name]] == []


async def asked(settings: Settings, question: Any, *given: Any, **more: Any) -> Any:
    async with read_connection(settings) as connection:
        return await question(connection, await reflect(connection, settings), *given, **more)


async def test_every_reader_reads_them(settings: Settings) -> None:
    """Sums, filters, texts, retention and health: one flag, one figure and one text, however the host spells them."""
    usual = {"user_id": "7", "session_id": "s-7", "prompt_tokens": 5, "latency_ms": 10, "prompt_snapshot": '["new"]'}
    ours = [record(**usual), record(**usual, success=False, status="error")]
    await store(settings, *ours)
    everything = Filters(since=datetime(2026, 1, 1, tzinfo=UTC))

    for by in ("model", "status", "day"):
        groups = await asked(settings, stats, by, filters=everything)
        assert sum(group["errors"] for group in groups) == 2
        assert sum(group["prompt_tokens"] or 0 for group in groups) == 25
    [user] = (await asked(settings, users, everything)).rows
    [session] = (await asked(settings, sessions, everything)).rows
    assert (user.errors, user.calls, user.total_ms) == (session.errors, session.calls, session.total_ms) == (2, 5, 50)
    failed = await asked(settings, calls, Filters(since=everything.since, errors=True))
    assert len(failed) == 2
    spoken = await asked(settings, conversation, "s-7")
    assert [row["prompt_snapshot"].replace(" ", "")[:9] for row in spoken] == ['[{"role":'] * 3 + ['["new"]'] * 2
    whole = await asked(settings, call, str(ours[0].call_id))
    assert (whole["success"], whole["latency_ms"], whole["prompt_snapshot"]) == (True, 10, '["new"]')

    async with write_connection(settings) as owner:
        await owner.exec_driver_sql(f"ANALYZE {DEFAULT_TABLE}")
        await owner.commit()
    state = await asked(settings, health)
    assert (state.rows.value, state.bytes > 8192) == (5, True)

    later = datetime(2027, 1, 1, tzinfo=UTC)
    policy = Policy(rows=1, errors=10_000, ahead=0)
    assert (await retain(settings, policy, do=True, now=later)).rows == 3


async def test_figures_beyond_all_bounds_are_unknown(empty_database: str) -> None:
    """One row with infinity, NaN or 1e30 neither makes the others unreadable nor their sums useless."""
    kinds = {"latency_ms": "double precision", "prompt_tokens": "numeric", "completion_tokens": "text"}
    changes = [f"ALTER TABLE {DEFAULT_TABLE} ALTER {name} TYPE {kind}" for name, kind in kinds.items()]
    rows = [older.row("numbered", number, prompt_tokens=5) for number in range(1, 5)]
    odd = [
        f"UPDATE {DEFAULT_TABLE} SET latency_ms = '{one}', prompt_tokens = '{one}', completion_tokens = '{one}', "
        f"cost_usd = '{one}' WHERE id = {number}"
        for number, one in enumerate(("NaN", "Infinity", "1e30"), 1)
    ]
    money = f"ALTER TABLE {DEFAULT_TABLE} ADD cost_usd numeric"
    certain = f"UPDATE {DEFAULT_TABLE} SET completion_tokens = '2', cost_usd = 0.25 WHERE id = 4"
    await do(empty_database, *older.made("numbered"), *rows, *changes, money, *odd, certain)
    settings = load(database_url=empty_database)
    await asyncio.to_thread(migrate.upgrade, settings)
    everything = Filters(since=datetime(2026, 1, 1, tzinfo=UTC))
    [user] = (await asked(settings, users, everything)).rows
    assert (user.calls, user.total_ms, user.prompt_tokens, user.completion_tokens) == (4, 10, 5, 2)
    assert (str(user.cost_usd), user.unpriced) == ("0.25", 3)
    assert len(await asked(settings, calls, everything)) == 4
