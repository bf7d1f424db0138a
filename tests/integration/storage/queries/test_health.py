"""The state of the table, and counts that say what they are."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.settings import load
from llmctx.storage import queries
from llmctx.storage.engine import write_connection
from llmctx.storage.queries import Count, Filters
from llmctx.storage.rollup import rollup
from tests.kit.calls import NOON, TABLE, row


async def test_health_knows_what_is_there_and_what_is_missing(connection: AsyncConnection, any_database: str) -> None:
    """The newest row, its months, and how far the totals are."""
    await connection.execute(TABLE.insert(), [row(1, finished_at=NOON + timedelta(minutes=2)), row(0)])
    await connection.commit()
    found = await queries.health(connection, TABLE)
    assert (found.newest, found.finished) == (NOON + timedelta(minutes=1), NOON + timedelta(minutes=2))
    assert found.totals is None
    assert (found.bytes or 0) > 8192
    if connection.dialect.name == "postgresql":
        assert [part.is_default for part in found.partitions].count(True) == 1
        assert found.missing_months == []
        later = await queries.health(connection, TABLE, now=found.as_of + timedelta(days=2000))
        assert len(later.missing_months) == 2
    await connection.rollback()
    settings = load(database_url=any_database)
    await rollup(settings, now=NOON + timedelta(days=1))
    found = await queries.health(connection, TABLE)
    assert found.totals is not None
    assert (found.totals.until, found.totals.stale) == (NOON + timedelta(hours=22), Count(0))


async def test_counts_are_capped_or_estimated_and_say_so(connection: AsyncConnection, any_database: str) -> None:
    """No list is counted to its end."""
    await connection.execute(TABLE.insert(), [row(n) for n in range(20)])
    await connection.commit()
    assert await queries.count_calls(connection, TABLE, Filters(user="ada"), cap=10) == Count(10, capped=True)
    assert await queries.count_calls(connection, TABLE, cap=20) == Count(20)
    await connection.rollback()
    async with write_connection(load(database_url=any_database)) as owner:
        await owner.exec_driver_sql(f"ANALYZE {TABLE.name}")
        await owner.commit()
    assert await queries.estimate_rows(connection, TABLE) == Count(20, estimated=True)
