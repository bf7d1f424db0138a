"""A value is stored as the column takes it, or beside it; none costs its row."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from llmctx.core.diagnostics import diagnostics
from llmctx.core.record import CLEANED
from tests.kit.databases import T, put
from tests.kit.rows import PATIENCE, do, query, writing

TYPES = {
    "user_id": ("integer", "u7", None),
    "session_id": ("varchar(20)", "s" * 40, "?"),
    "prompt_tokens": ("text", 12, "12"),
    "latency_ms": ("smallint", 100_000, None),
    "temperature": ("numeric(4,2)", 0.7, Decimal("0.70")),
    "top_p": ("real", 0.5, 0.5),
    "finished_at": ("timestamp", datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2)),
    "error_message": ("varchar(10)", "e" * 50, "e" * 10),
    "run_id": ("varchar(64)", None, None),
    "prompt_snapshot": ("jsonb", '{"a": "\\u0000"}', {"a": "\ufffd"}),
}


@pytest.mark.parametrize("column", TYPES)
async def test_a_type_that_changes_under_load(own: str, column: str) -> None:
    """The insert is compiled for it, values are cast or left out, and the row says what did not fit."""
    kind, value, there = TYPES[column]
    async with writing(own) as one:
        put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.last_error
        await do(own, f"ALTER TABLE {T} ALTER COLUMN {column} TYPE {kind} USING NULL")
        put(one, 50, **{column: value})
        put(one, 50)
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert (one.written, one.quarantined) == (101, 0)
    rows = await query(own, f"SELECT {column}, attributes FROM {T} WHERE attributes IS NOT NULL LIMIT 1")
    if there == "?":
        assert len(rows[0][0]) == 20
    elif there != value and (there is None or column == "error_message"):
        assert rows[0][0] == there
        assert rows[0][1]["llmctx_cleaned"] == [column]
    else:
        found = await query(own, f"SELECT {column} FROM {T} WHERE {column} IS NOT NULL")
        assert {repr(row[0]) for row in found} <= {repr(there)}


async def test_two_long_ids_stay_two(own: str) -> None:
    """In a column that is too short for either; the whole stands in the attributes."""
    await do(own, f"ALTER TABLE {T} ALTER COLUMN session_id TYPE varchar(32)")
    async with writing(own) as one:
        for end in "ab":
            put(one, 1, session_id="s" * 60 + end)
        assert await one.drain(PATIENCE) == 0, one.last_error
    rows = await query(own, f"SELECT session_id, attributes FROM {T}")
    assert len({row[0] for row in rows}) == 2
    assert {row[1]["llmctx_unfit"]["session_id"] for row in rows} == {"s" * 60 + "a", "s" * 60 + "b"}


async def test_somebody_elses_table(empty_database: str) -> None:
    """Numbered users, times without a zone, short texts, columns that we do not know, some of ours missing."""
    await do(
        empty_database,
        f"CREATE TABLE {T} (id serial PRIMARY KEY, call_id varchar(64) UNIQUE, trace_id varchar(64), "
        "session_id varchar(64), user_id integer, agent_key varchar(100), model varchar(100) NOT NULL, "
        "temperature numeric(4,2), max_tokens integer, latency_ms integer, success boolean, error_code varchar(50), "
        "prompt_snapshot text, created_at timestamp NOT NULL, finished_at timestamp)",
    )
    async with writing(empty_database) as one:
        rows = put(one, 10, user_id="42", temperature=0.31, agent_key="a" * 200)
        put(one, 10, user_id="nobody", temperature=1e9)
        one.submit(rows[0])
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert (one.written, one.quarantined) == (21, 0)
    found = await query(empty_database, f"SELECT user_id, temperature, length(agent_key), call_id FROM {T} ORDER BY id")
    assert len(found) == 20
    assert found[0] == (42, Decimal("0.31"), 100, str(rows[0].call_id))
    assert found[10][:3] == (None, None, None)


async def test_a_column_of_a_type_that_we_do_not_know(own: str) -> None:
    """The database reads the text itself; of an enumerated type, what it does not know is left out."""
    await do(own, "CREATE TYPE host_mood AS ENUM ('ok', 'sad')")
    await do(own, f"ALTER TABLE {T} ALTER COLUMN status TYPE host_mood USING NULL")
    async with writing(own) as one:
        put(one, 20)
        put(one, 1, status="furious")
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert (one.written, one.quarantined) == (21, 0)
    ((said,),) = await query(own, f"SELECT attributes FROM {T} WHERE status IS NULL")
    assert said == {CLEANED: ["status"]}


async def test_a_refusal_does_not_show_the_row(own: str, caplog: pytest.LogCaptureFixture) -> None:
    """Drivers and databases quote the value that they refuse: that stays with the row, and out of the log."""
    secret = "sk-canary-4711"
    await do(own, f"ALTER TABLE {T} ADD CONSTRAINT later CHECK (model::bigint > 0) NOT VALID")
    diagnostics.reset()
    async with writing(own) as one:
        put(one, 1, model=secret)
        put(one, 5, model="7")
        put(one, 1, model="7", top_p=secret)
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert (one.written, one.quarantined) == (5, 2)
        assert any(secret in reason for _, _, reason in one.rejected_rows)
    assert "22P02" in caplog.text
    assert secret not in caplog.text
