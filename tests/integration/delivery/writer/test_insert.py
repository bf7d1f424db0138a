"""Tables with unique keys beside the call's: nothing that meets them is passed over in silence."""

from __future__ import annotations

import asyncio

import pytest

from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.integration.delivery.writer.test_writer_faults import put, role
from tests.kit.pooler import Pooler
from tests.kit.rows import PATIENCE, do, query, record, stored, writing
from tests.kit.support import wait_for
from tests.migration.filling import ddl

T = DEFAULT_TABLE


@pytest.fixture
def own(empty_database: str) -> str:
    """A migrated PostgreSQL database of this test's own."""
    migrate.upgrade(load(database_url=empty_database))
    return empty_database


async def by_trace(url: str) -> None:
    """One call for each trace, says the host."""
    parts = await query(url, f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{T}'::regclass")
    await do(url, *(f"CREATE UNIQUE INDEX ON {part} (trace_id)" for (part,) in parts))


async def test_a_sequence_that_has_fallen_behind_its_table(empty_database: str) -> None:
    """Somebody has restored the rows, and not the sequence: ours wait until it is set right."""
    await do(
        empty_database,
        *ddl("numbers"),
        f"INSERT INTO {T} (id, call_id, model, created_at) "
        "SELECT n, 'old-' || n, 'm', '2020-01-01' FROM generate_series(1, 100000) n",
    )
    await asyncio.to_thread(migrate.upgrade, load(database_url=empty_database))
    async with writing(empty_database) as one:
        rows = put(one, 300)
        await wait_for(lambda: f"{T}_pkey [23505]" in (one.trouble or ""), "the refusal")
        assert (one.written, one.waiting, one.quarantined) == (0, 300, 0)
        await do(empty_database, f"SELECT setval(pg_get_serial_sequence('{T}', 'id'), 100000)")
        assert await one.drain(PATIENCE) == 0, one.trouble
        for row in rows:
            one.submit(row)
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert (one.written, one.quarantined, one.dropped) == (600, 0, 0)
    assert await stored(empty_database) == 100_300


@pytest.mark.parametrize("pooled", [False, True], ids=["", "through a pooler"])
async def test_a_row_that_meets_a_key_of_the_hosts_is_kept(own: str, *, pooled: bool) -> None:
    """Set aside, with the reason; what is delivered twice is there once. A role that may INSERT alone sees to both."""
    await by_trace(own)
    async with role(own, "") as (limited, _):
        pooler = Pooler(limited, servers=2)
        await pooler.open()
        try:
            async with writing(pooler.url if pooled else limited) as one:
                rows = [record(trace_id=f"t-{number}") for number in range(60)]
                again = [record(trace_id=f"t-{number}") for number in range(0, 60, 20)]
                for row in [*rows[:50], *again, *rows]:
                    one.submit(row)
                assert await one.drain(PATIENCE) == 0, one.trouble
                assert (one.written, one.quarantined, one.dropped) == (110, 3, 0)
                assert {kept.call_id for kept, _, _ in one.refused} == {row.call_id for row in again}
                assert all(code == "23505" and "trace_id" in reason for _, code, reason in one.refused)
        finally:
            await pooler.close()
    assert await stored(own) == 60


async def test_a_key_that_is_added_under_load(own: str) -> None:
    """It is seen when it first refuses a row."""
    async with writing(own) as one:
        put(one, 1, trace_id="t-1")
        assert await one.drain(PATIENCE) == 0, one.trouble
        await by_trace(own)
        bad = put(one, 1, trace_id="t-1")
        put(one, 20)
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert (one.written, one.quarantined) == (21, 1)
        assert one.refused[0][0].call_id == bad[0].call_id
    assert await stored(own) == 21


async def test_a_key_that_is_only_looked_at_in_the_end(own: str) -> None:
    """PostgreSQL allows no ON CONFLICT where a key is deferrable: what is there already is found out without."""
    parts = await query(own, f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{T}'::regclass")
    await do(own, *(f"ALTER TABLE {part} ADD UNIQUE (call_id) DEFERRABLE INITIALLY DEFERRED" for (part,) in parts))
    async with writing(own) as one:
        rows = put(one, 30)
        assert await one.drain(PATIENCE) == 0, one.trouble
        for row in [*rows, *(record() for _ in range(30))]:
            one.submit(row)
        assert await one.drain(PATIENCE) == 0, one.trouble
        assert (one.written, one.quarantined, one.dropped) == (90, 0, 0)
    assert await stored(own) == 60
