"""The writer against real databases: what is stored, what waits, what is refused, and how it heals."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import make_url

from llmctx.core.record import DEFAULT_TABLE
from llmctx.delivery.writer import writer
from llmctx.delivery.writer.writer import Writer
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.kit.proxy import Proxy
from tests.kit.rows import PATIENCE, do, query, record, stored, writing
from tests.kit.support import wait_for

# -- storing --------------------------------------------------------------------------------------------------------


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
    one = Writer(load(database_url=any_database, batch_rows=50))
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


async def test_a_role_that_may_only_insert(empty_database: str) -> None:
    """The application's role needs INSERT on the table, and nothing else."""
    migrate_it = asyncio.to_thread(migrate.upgrade, load(database_url=empty_database))
    await migrate_it
    role = "llmctx_writer_only"
    await do(
        empty_database,
        f"DROP ROLE IF EXISTS {role}",
        f"CREATE ROLE {role} LOGIN PASSWORD 'w'",
        f"GRANT INSERT ON {DEFAULT_TABLE} TO {role}",
    )
    try:
        limited = make_url(empty_database).set(username=role, password="w").render_as_string(hide_password=False)
        rows = [record() for _ in range(10)]
        async with writing(limited) as one:
            for row in [*rows, *rows]:
                one.submit(row)
            assert await one.drain(PATIENCE) == 0
            assert one.trouble is None
        with pytest.raises(Exception, match="permission denied"):
            await stored(limited)
        assert await stored(empty_database) == 10
    finally:
        await do(empty_database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


# -- rows that the database refuses ---------------------------------------------------------------------------------


async def refuse_poison(url: str) -> None:
    """Let the database refuse rows whose model is called poison."""
    if url.startswith("postgresql"):
        await do(url, f"ALTER TABLE {DEFAULT_TABLE} ADD CONSTRAINT no_poison CHECK (model <> 'poison')")
    else:
        await do(
            url,
            f"CREATE TRIGGER no_poison BEFORE INSERT ON {DEFAULT_TABLE} WHEN NEW.model = 'poison' "
            "BEGIN SELECT RAISE(ABORT, 'poison'); END",
        )


@pytest.fixture
def own_database(any_empty_database: str) -> str:
    """A migrated database of this test's own, whose schema it may change."""
    migrate.upgrade(load(database_url=any_empty_database))
    return any_empty_database


@pytest.mark.parametrize("bad", [[50], [0], [99], [0, 1, 2, 50, 98, 99], list(range(100))])
async def test_a_poison_row_never_takes_its_batch_along(own_database: str, bad: list[int]) -> None:
    """Of a hundred rows the good ones are stored, the bad ones set aside and counted."""
    await refuse_poison(own_database)
    async with writing(own_database) as one:
        for number in range(100):
            one.submit(record(model="poison" if number in bad else "good"))
        assert await one.drain(PATIENCE) == 0
        assert (one.written, one.quarantined, one.dropped) == (100 - len(bad), len(bad), 0)
        assert one.waiting_bytes == 0
    assert await stored(own_database) == 100 - len(bad)


async def test_a_value_that_the_driver_refuses_is_poison(any_database: str) -> None:
    """Not an outage, which would keep everything waiting behind it."""
    async with writing(any_database) as one:
        one.submit(record(model=object()))
        one.submit(record())
        assert await one.drain(PATIENCE) == 0
        assert (one.written, one.quarantined) == (1, 1)


# -- databases that are not there, or not as they should be ---------------------------------------------------------


@pytest.fixture
async def gate(database: str) -> AsyncIterator[Proxy]:
    gate = Proxy(database)
    try:
        yield gate
    finally:
        await gate.remove()


async def test_a_database_that_is_not_there_at_start(gate: Proxy, database: str) -> None:
    """Rows wait, the reason is told, and they are stored once it is up."""
    async with writing(gate.url) as one:
        for _ in range(100):
            one.submit(record())
        await wait_for(lambda: one.trouble is not None, "the writer to notice")
        assert await one.drain(0.2) == 100
        await gate.open()
        assert await one.drain(PATIENCE) == 0
        assert one.trouble is None
    assert await stored(database) == 100


async def test_a_database_that_goes_and_comes_back(gate: Proxy, database: str) -> None:
    """Connections are cut in the middle of the load, several times: nothing is lost, nothing is double."""
    await gate.open()
    async with writing(gate.url, batch_rows=20) as one:
        for number in range(1000):
            one.submit(record())
            if number % 250 == 100:
                await wait_for(lambda: one.written > 0, "a first row")
                await gate.close()
                one.submit(record())
                await wait_for(lambda: one.trouble is not None, "the writer to notice")
                await gate.open()
        assert await one.drain(PATIENCE) == 0
    assert await stored(database) == 1004


async def test_a_database_that_does_not_answer(gate: Proxy, database: str) -> None:
    """A black hole: the deadline lets go of the connection, and a new one is used when it answers again."""
    await gate.open()
    async with writing(gate.url, statement_timeout_s=0.3, connect_timeout_s=0.3) as one:
        one.submit(record())
        assert await one.drain(PATIENCE) == 0
        gate.flowing.clear()
        one.submit(record())
        await wait_for(lambda: one.trouble is not None, "the deadline")
        gate.flowing.set()
        assert await one.drain(PATIENCE) == 0
    assert await stored(database) == 2


async def test_a_missing_table_that_is_made_under_load(any_empty_database: str) -> None:
    """No table: everything waits, and the log says what to do. `llmctx migrate`: everything is stored."""
    async with writing(any_empty_database) as one:
        for _ in range(200):
            one.submit(record())
        await wait_for(lambda: one.trouble is not None, "the writer to notice")
        assert (one.waiting, one.quarantined) == (200, 0)
        await asyncio.to_thread(migrate.upgrade, load(database_url=any_empty_database))
        for _ in range(200):
            one.submit(record())
        assert await one.drain(PATIENCE) == 0
    assert await stored(any_empty_database) == 400


@pytest.mark.parametrize("columns", [("cost_usd",), ("attributes",), ("node", "provider", "attributes", "cached")])
async def test_a_table_that_lacks_columns(
    own_database: str, columns: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their values are left out. When the columns appear under load they are noticed."""
    monkeypatch.setattr(writer, "_LOOK_AGAIN_S", 0.1)
    types = {
        "cost_usd": "numeric(18, 9)",
        "attributes": "jsonb",
        "node": "text",
        "provider": "text",
        "cached": "boolean",
    }
    await do(own_database, *(f"ALTER TABLE {DEFAULT_TABLE} DROP COLUMN {name}" for name in columns))
    known: dict[str, Any] = {
        "cost_usd": Decimal(1),
        "node": "n",
        "provider": "p",
        "attributes": {"a": 1},
        "cached": True,
    }
    async with writing(own_database) as one:
        one.submit(record(**known))
        assert await one.drain(PATIENCE) == 0
        await do(own_database, *(f"ALTER TABLE {DEFAULT_TABLE} ADD COLUMN {name} {types[name]}" for name in columns))

        async def full() -> int:
            one.submit(record(**known))
            assert await one.drain(PATIENCE) == 0
            ((count,),) = await query(
                own_database, f"SELECT count(*) FROM {DEFAULT_TABLE} WHERE {columns[0]} IS NOT NULL"
            )
            return int(count)

        async with asyncio.timeout(PATIENCE):
            while not await full():
                pass
        assert one.quarantined == 0


async def test_a_column_that_vanishes_under_load(own_database: str) -> None:
    """The insert is compiled anew; no row is lost for it."""
    async with writing(own_database) as one:
        one.submit(record(node="n"))
        assert await one.drain(PATIENCE) == 0
        await do(own_database, f"ALTER TABLE {DEFAULT_TABLE} DROP COLUMN node")
        for _ in range(50):
            one.submit(record(node="n"))
        assert await one.drain(PATIENCE) == 0
        assert (one.written, one.quarantined) == (51, 0)


async def test_columns_that_are_not_ours(own_database: str) -> None:
    """They may be there. One that must not be empty is a mistake of the table's, not of the rows: those wait."""
    await do(own_database, f"ALTER TABLE {DEFAULT_TABLE} ADD COLUMN tenant text")
    async with writing(own_database) as one:
        one.submit(record())
        assert await one.drain(PATIENCE) == 0
        if not own_database.startswith("postgresql"):
            return
        await do(
            own_database,
            f"ALTER TABLE {DEFAULT_TABLE} ADD COLUMN region text NOT NULL DEFAULT ''",
            f"ALTER TABLE {DEFAULT_TABLE} ALTER COLUMN region DROP DEFAULT",
        )
        for _ in range(20):
            one.submit(record())
        await wait_for(lambda: one.trouble is not None, "the writer to notice")
        assert one.quarantined == 0
        await do(own_database, f"ALTER TABLE {DEFAULT_TABLE} ALTER COLUMN region DROP NOT NULL")
        assert await one.drain(PATIENCE) == 0
        assert one.written == 21


# -- memory ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="nowhere-", dir="/tmp")
    yield f"postgresql+asyncpg://u@/d?host={folder}"
    shutil.rmtree(folder)


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
