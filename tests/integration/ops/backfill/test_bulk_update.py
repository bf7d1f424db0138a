"""Steps are whole, whatever breaks or stands between."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmctx.core.record import DEFAULT_TABLE
from llmctx.ops.backfill import backfill, undo
from llmctx.settings import load
from tests.kit.pooler import Pooler
from tests.kit.rows import nobody, query, record, store, who


async def test_a_break_leaves_whole_steps_and_the_next_run_goes_on(database: str, tmp_path: Path) -> None:
    """Ctrl-C after the first thousand rows."""
    settings = load(database_url=database)
    await store(settings, record(user_id="ada", session_id="s-1"), *(nobody(session_id="s-1") for _ in range(1500)))

    def interrupt(more: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await backfill(settings, do=True, undo_file=tmp_path / "one", progress=interrupt)
    count = f"SELECT count(*) FROM {DEFAULT_TABLE} WHERE user_id IS NULL"
    assert await query(database, count) == [(500,)]
    await backfill(settings, do=True, undo_file=tmp_path / "two")
    assert await query(database, count) == [(0,)]
    assert await undo(settings, tmp_path / "one", do=True) == 1000


async def test_behind_a_pooler(database: str, tmp_path: Path) -> None:
    """Each transaction meets another server: what is known is kept all the same, and nothing is left behind there."""
    settings = load(database_url=database)
    gaps = [nobody(trace_id=f"t-{n}") for n in range(300)]
    await store(settings, *gaps, *(record(user_id=f"u-{n}", trace_id=f"t-{n}") for n in range(300)))
    one = Pooler(database, servers=3)
    await one.open()
    try:
        behind = load(database_url=one.url)
        report = await backfill(behind, do=True, undo_file=tmp_path / "undo")
        assert report.filled == {"trace": 300}
        assert await who(settings, gaps[7]) == ("u-7", "s", "backfill:trace", None)
        assert await undo(behind, tmp_path / "undo", do=True) == 300
        assert {row[0] for row in [(await query(one.url, "SHOW lock_timeout"))[0] for _ in range(3)]} == {"0"}
    finally:
        await one.close()
