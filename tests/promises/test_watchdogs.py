"""Rows are written beside a watchdog of blocking calls: blockbuster, which `langgraph dev` runs with."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockingError, blockbuster_ctx

from llmctx import bind
from llmctx.calllog import CallLog, Stats
from llmctx.core.diagnostics import diagnostics
from llmctx.delivery.journal import request_rotation
from tests.kit.lives import homes
from tests.kit.rows import rows_of
from tests.kit.support import Talker, wait_until

model = Talker()


@pytest.fixture(autouse=True)
def _from_zero() -> Iterator[None]:
    diagnostics.reset()
    yield
    diagnostics.reset()


async def _calls(count: int) -> None:
    with bind(session_id="s", user_id="u"):
        await asyncio.gather(*(model.ainvoke(f"number {number}") for number in range(count)))
    await model.ainvoke("whose?")  # without ids: its row says from which line it comes


def test_rows_are_written_under_a_watchdog(any_database: str) -> None:
    """Start, calls, rows while it runs, end: nothing of it blocks where that is forbidden."""
    stats = asyncio.run(_under_a_watchdog(any_database))
    assert dict(diagnostics.counts) == {}
    assert stats.written == 242
    rows = rows_of(any_database)
    assert len(rows) == 242
    (attributes, _) = [row.attributes for row in rows if row.user_id is None]
    where = (json.loads(attributes) if isinstance(attributes, str) else attributes)["llmctx"]["where"]
    assert where.startswith(f"{Path(__file__).relative_to(Path.cwd())}:")


def _tidied() -> None:
    """Return once the journal was looked at and tidied, as it is every second: then it has begun the new files."""
    (home,) = [path for path in homes() if path.is_dir()]
    before = set(os.listdir(home))
    request_rotation(home.parent)
    wait_until(lambda: set(os.listdir(home)) != before, "the journal to be tidied", 60.0)


async def _under_a_watchdog(database_url: str) -> Stats:
    with blockbuster_ctx():
        with pytest.raises(BlockingError):
            Path.cwd()
        async with CallLog(database_url, linger_ms=10) as call_log:
            for _ in range(2):
                await _calls(120)
                assert await call_log.aflush(60) == 0
                await asyncio.to_thread(_tidied)
            return call_log.stats()
