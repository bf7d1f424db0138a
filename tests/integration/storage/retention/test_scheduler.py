"""One of several processes looks after the table."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

from llmctx.core.diagnostics import diagnostics
from llmctx.core.record import DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from llmctx.storage.retention.scheduler import run_daily
from llmctx.storage.rollup import rollup
from tests.kit.rows import query, record, store


async def test_one_of_the_processes_does_it(empty_database: str) -> None:
    """The one that holds the lock; when it goes, the next one does."""
    settings = load(database_url=empty_database, retain="on", retain_days=30)
    await asyncio.to_thread(migrate.upgrade, settings)
    old = datetime.now(UTC) - timedelta(days=400)
    count = f"SELECT count(*) FROM {DEFAULT_TABLE}"
    keepers: list[asyncio.Task[None]] = []

    async def one_more() -> None:
        keepers.append(asyncio.create_task(run_daily(settings, first_s=0.01, look_s=0.2)))

    try:
        await store(settings, record(created_at=old))
        await one_more()
        await wait_for_rows(empty_database, count, 0)
        await store(settings, record(created_at=old))
        await one_more()  # it has to wait for the first one, which has done its work for today
        keepers[0].cancel()
        await wait_for_rows(empty_database, count, 0)
    finally:
        for one in keepers:
            one.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await one
    assert not diagnostics.counts["retain_failed"]


async def wait_for_rows(url: str, statement: str, number: int) -> None:
    deadline = asyncio.get_running_loop().time() + 60
    while (await query(url, statement))[0][0] != number:
        assert asyncio.get_running_loop().time() < deadline, statement
        await asyncio.sleep(0.05)


async def test_totals_are_kept_up_to_date(any_empty_database: str) -> None:
    """Without cron, and without retention."""
    settings = load(database_url=any_empty_database, rollup="on")
    await asyncio.to_thread(migrate.upgrade, settings)
    await store(settings, record(created_at=datetime.now(UTC) - timedelta(days=2)))
    await rollup(settings)  # the tables are there
    keeper = asyncio.create_task(run_daily(settings, first_s=0.01, look_s=0.2))
    try:
        await store(settings, record(created_at=datetime.now(UTC) - timedelta(days=3)))
        await wait_for_rows(any_empty_database, "SELECT sum(calls) FROM llmctx_days", 2)
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
    assert not diagnostics.counts["retain_failed"]
