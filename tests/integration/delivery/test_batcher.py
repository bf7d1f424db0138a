"""The writer against real databases: what is stored, what waits, what is refused, and how it heals."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from llmctx.core.record import DEFAULT_TABLE
from llmctx.delivery.pace import Pace
from tests.kit.batchers import adds_up, troubled
from tests.kit.databases import T, drop_trigger, healed, holding, put, refuse_while, slow_rows
from tests.kit.proxy import Proxy
from tests.kit.rows import PATIENCE, batcher_of, query, record, stored, writing
from tests.kit.support import wait_for


async def test_batches(any_database: str) -> None:
    """Many rows arrive in batches, each once, with every column."""
    full = record(
        trace_id="t", agent_key="a", temperature=0.5, max_tokens=7, prompt_snapshot='"p"',
        finished_at=datetime.now(UTC), cost_usd=Decimal("0.000000001"), streamed=True, attributes={"k": ["v", 1]},
    )  # fmt: skip
    async with writing(any_database, batch_rows=100) as one:
        for row in [full, *(record() for _ in range(1233))]:
            assert one.submit(row)
        assert await one.drain(PATIENCE) == 0
        assert (one.written, one.waiting, one.waiting_bytes) == (1234, 0, 0)
    assert await stored(any_database) == 1234
    (row,) = await query(any_database, f"SELECT * FROM {DEFAULT_TABLE} WHERE agent_key = 'a'")
    assert (row.trace_id, row.temperature, row.max_tokens, row.prompt_snapshot) == ("t", 0.5, 7, '"p"')


async def test_delivering_twice_is_harmless(any_database: str) -> None:
    """The same records again, in the same batch and in another: one row each."""
    rows = [record() for _ in range(50)]
    for batches in ([*rows, *rows], rows):
        async with writing(any_database) as one:
            for row in batches:
                one.submit(row)
            assert await one.drain(PATIENCE) == 0
    assert await stored(any_database) == 50


async def test_what_was_in_hand_when_the_writer_was_stopped_is_kept(any_database: str) -> None:
    """Cancelled at any moment, and started again, it stores everything once."""
    one = batcher_of(any_database, batch_rows=50)
    for _ in range(1000):
        one.submit(record())
    for steps in range(40):
        task = asyncio.create_task(one.run())
        for _ in range(steps * 3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert one.written + one.waiting == 1000
    task = asyncio.create_task(one.run())
    assert await one.drain(PATIENCE) == 0
    task.cancel()
    await asyncio.wait([task])
    assert await stored(any_database) == 1000


@pytest.mark.parametrize("bulk", ["prompt_snapshot", "error_message", "attributes"])
async def test_memory_is_bounded(nowhere: str, bulk: str) -> None:
    """While the database is away snapshots go first, then the newest rows are refused, all of it counted."""
    cap = 1_000_000
    value: Any = {"a": "x" * 9000} if bulk == "attributes" else "x" * 9000
    async with writing(nowhere, memory_bytes=cap) as one:
        taken = sum(one.submit(record(**{bulk: value})) for _ in range(2000))
        assert one.waiting_bytes <= cap // 2  # the other half is for calls on their way to the writer
        assert (one.waiting, one.dropped) == (taken, 2000 - taken)
        assert one.dropped > 0
        if bulk == "prompt_snapshot":
            whole = sum(waiting.record.prompt_snapshot is not None for waiting in one._queue)
            assert 25 < whole < taken
            assert one.snapshots_dropped >= taken - whole - len(one._batch)


async def test_a_bound_that_is_reached_is_left_again(gate: Proxy, database: str) -> None:
    """After the outage rows are taken as before."""
    async with writing(gate.url, memory_bytes=100_000) as one:
        refused = sum(not one.submit(record(prompt_snapshot='"x"')) for _ in range(500))
        assert refused == one.dropped > 0
        await gate.open()
        assert await one.drain(PATIENCE) == 0
        assert one.waiting_bytes == 0
        assert one.submit(record(prompt_snapshot='"last"'))
        assert await one.drain(PATIENCE) == 0
    assert await stored(database) == 501 - refused


async def test_where_there_is_no_room_for_company_none_is_waited_for(database: str) -> None:
    """As where the journal has more rows than the memory: what is stored makes room for them."""
    async with writing(database) as one:
        one._pace = Pace(longest_s=3600.0, rows=10**9)
        for _ in range(20):
            one._pace.count(time.monotonic())
        for number in range(1, 4):
            while one.offer(record(prompt_snapshot="x" * 1000), 50_000):
                pass
            taken = one.waiting + one.written
            await wait_for(lambda taken=taken: one.written == taken, f"batch {number}", PATIENCE)  # type: ignore[misc]
    assert await stored(database) == taken > 60


@pytest.mark.parametrize("code", ["53100", "57014", "40P01", "40001", "53200", "58030"])
async def test_a_busy_server_loses_nothing_and_is_not_pressed(own: str, code: str) -> None:
    """Disk full, deadlock, statement_timeout: rows wait, are tried seldom, and are stored when it is over."""
    await refuse_while(own, "true", code)
    async with writing(own) as one:
        put(one, 300)
        await troubled(one)
        tries, start = one.attempts, time.monotonic()
        await wait_for(lambda: time.monotonic() - start > 3, "some time to pass")
        assert one.attempts - tries <= 5
        assert (one.waiting, one.quarantined) == (300, 0)
        await drop_trigger(own)
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert adds_up(one, 300)
    assert await stored(own) == 300


async def test_a_locked_table(own: str) -> None:
    """A migration holds it: we give up our place in the queue, and come back."""
    async with writing(own) as one:
        put(one, 1)
        assert await one.drain(PATIENCE) == 0, one.last_error
        async with holding(own, f"LOCK TABLE {T} IN ACCESS EXCLUSIVE MODE"):
            put(one, 10)
            await wait_for(lambda: "55P03" in (one.last_error or ""), "the lock's timeout")
        await healed(one)
        assert await one.drain(PATIENCE) == 0, one.last_error
    assert await stored(own) == 11


async def test_a_server_that_is_too_slow_for_a_batch(own: str) -> None:
    """It is given less at once."""
    await slow_rows(own, "true", 0.005)
    async with writing(own, statement_timeout_s=0.5) as one:
        put(one, 400)
        assert await one.drain(60) == 0
    assert await stored(own) == 400


async def test_huge_rows_go_one_by_one(database: str) -> None:
    """No statement grows beyond the bytes of a batch, but for a single row that is bigger."""
    async with writing(database, batch_bytes=1_000_000, memory_bytes=64 * 1024 * 1024) as one:
        put(one, 12, prompt_snapshot="x" * 900_000)
        put(one, 1, prompt_snapshot="x" * 3_000_000)
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert one.attempts == 13
    assert await stored(database) == 13
