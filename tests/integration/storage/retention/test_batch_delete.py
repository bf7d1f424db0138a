"""Where nothing is partitioned, rows and texts expire in small deletes."""

from __future__ import annotations

import pytest

from llmctx.core.record import DEFAULT_TABLE
from llmctx.settings import load
from llmctx.storage.retention import Policy, retain
from tests.kit import older
from tests.kit.months import NOW, ago, fresh
from tests.kit.rows import do, query, record, store


async def test_texts_go_before_their_rows(any_empty_database: str) -> None:
    """The figures stay."""
    settings = await fresh(any_empty_database)
    texts = {"prompt_snapshot": '"p"', "response_snapshot": '"r"', "reasoning_snapshot": '"t"', "prompt_tokens": 7}
    await store(settings, record(created_at=ago(40), **texts), record(created_at=ago(2), **texts))
    planned = await retain(settings, Policy(snapshots=30, ahead=0), now=NOW)
    assert any("texts" in step for step in planned.steps)
    done = await retain(settings, Policy(snapshots=30, ahead=0), do=True, now=NOW)
    assert done.snapshots == 1
    columns = "prompt_snapshot, response_snapshot, reasoning_snapshot, prompt_tokens"
    found = await query(any_empty_database, f"SELECT {columns} FROM {DEFAULT_TABLE} ORDER BY created_at")
    assert [tuple(row) for row in found] == [(None, None, None, 7), ('"p"', '"r"', '"t"', 7)]
    assert (await retain(settings, Policy(snapshots=30, ahead=0), do=True, now=NOW)).snapshots == 0


@pytest.mark.parametrize("shape", older.SHAPES)
async def test_a_table_without_partitions_loses_what_has_expired(empty_database: str, shape: older.Shape) -> None:
    """In small deletes, with the messages that hang on the calls; writers go on meanwhile."""
    key, number = ("", "") if shape == "numbered" else ("id, ", "n, ")
    many = f"""INSERT INTO {DEFAULT_TABLE} ({key}call_id, model, success, created_at, prompt_snapshot)
        SELECT {number}'call-' || n, 'm', n % 10 > 0, TIMESTAMP '2031-03-15 12:00:00' - n * INTERVAL '1 hour',
        repeat('x', 2000) FROM generate_series(1, 3000) n"""
    hanging = f"INSERT INTO {older.CHILD} (call_id, content) SELECT call_id, 'said' FROM {DEFAULT_TABLE}"
    await do(empty_database, *older.made(shape), many, hanging)
    settings = load(database_url=empty_database)
    seen: list[int] = []
    report = await retain(
        settings, Policy(rows=30, errors=60), do=True, now=NOW, progress=lambda what, more, total: seen.append(more)
    )
    assert report.rows == 3000 - 720 - 72
    old = "created_at < TIMESTAMP '2031-02-13 12:00:00' AND success"
    assert await query(empty_database, f"SELECT count(*) FROM {DEFAULT_TABLE} WHERE {old}") == [(0,)]
    orphans = f"SELECT count(*) FROM {older.CHILD} WHERE call_id NOT IN (SELECT call_id FROM {DEFAULT_TABLE})"
    assert await query(empty_database, orphans) == [(0,)]
    assert sum(seen) > 0


async def test_sqlite_loses_what_has_expired(sqlite_url: str) -> None:
    """The same, where there are no partitions at all."""
    settings = await fresh(sqlite_url)
    await store(
        settings, record(created_at=ago(40)), record(created_at=ago(40), success=False), record(created_at=ago(1))
    )
    report = await retain(settings, Policy(rows=30, errors=90), do=True, now=NOW)
    assert report.rows == 1
    assert await query(sqlite_url, f"SELECT count(*) FROM {DEFAULT_TABLE}") == [(2,)]


async def test_tables_in_which_every_call_is_looked_for_in_all_of_it(empty_database: str) -> None:
    """The index that they lack is named."""
    await do(empty_database, *older.made("named"), older.row("named", 1))
    settings = load(database_url=empty_database)
    (note,) = (await retain(settings, Policy(rows=30), now=NOW)).notes
    assert f"CREATE INDEX CONCURRENTLY ON {older.CHILD} (call_id);" in note
    await do(empty_database, f"CREATE INDEX ON {older.CHILD} (call_id)")
    assert (await retain(settings, Policy(rows=30), now=NOW)).notes == []
