"""The journal is the queue: bounded in memory, bounded on disk, and nothing in it is written twice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llmctx import bind
from llmctx.calllog import CallLog
from llmctx.core.diagnostics import diagnostics
from llmctx.delivery.destination import Destination, Row
from llmctx.delivery.journal import pack_record
from tests.kit.disk import full_disk
from tests.kit.lives import Switch, homes
from tests.kit.rows import rows_of
from tests.kit.support import Talker, wait_until

model = Talker()


@pytest.fixture
def switch(database: str, tmp_path: Path) -> Switch:
    return Switch(database, tmp_path)


def test_with_fsync(database: str) -> None:
    """The same rows, whatever it is that they survive."""
    with CallLog(database, durability="fsync") as call_log:
        for _ in range(20):
            model.invoke("hello")
        assert call_log.flush(60) == 0
    assert len(rows_of(database)) == 20


def test_the_journal_is_the_queue(switch: Switch) -> None:
    """Memory stays bounded while rows wait on disk, with their texts, and all are written in the end."""
    with CallLog(switch.url, memory_bytes=256 * 1024) as call_log:
        with bind(user_id="u", session_id="s"):
            for number in range(300):
                with call_log.record(model="m", prompt=f"{number} " + "words " * 1000):
                    pass
        assert call_log.flush(0.2) == 300
        sink: Any = call_log._worker.sink
        assert sink._batcher.waiting_bytes < 256 * 1024
        stats = call_log.stats()
        assert (stats.waiting, stats.dropped, stats.balanced) == (300, 0, True)
        switch.on()
        assert call_log.flush(30) == 0
        assert (call_log.stats().written, call_log.stats().balanced) == (300, True)
    rows = rows_of(switch.url)
    assert len({row.call_id for row in rows}) == len(rows) == 300
    assert all("words" in row.prompt_snapshot for row in rows)
    assert homes() == []


def test_a_full_journal(switch: Switch) -> None:
    """Snapshots go first, then the newest calls, and every one of them is counted."""
    with CallLog(switch.url, memory_bytes=64 * 1024, journal_bytes=1024 * 1024) as call_log:
        for number in range(1, 1501):
            with call_log.record(model="m", prompt="words " * 300):
                pass
            if number % 250 == 0:  # or the pipeline falls behind, and it is not the journal that is full
                wait_until(lambda: not call_log._worker.pipeline.is_busy, "the pipeline")
        stats = call_log.stats()
        assert stats.balanced
        assert stats.dropped > 0
        switch.on()
        assert call_log.flush(30) == 0
        stats = call_log.stats()
        assert stats.balanced
        assert stats.written + stats.dropped == 1500
        with call_log.record(model="m", prompt="words again"):
            pass
        assert call_log.flush(30) == 0
    rows = rows_of(switch.url)
    assert len(rows) == stats.written + 1
    bare = [row for row in rows if row.prompt_snapshot is None]
    assert 0 < len(bare) < len(rows)
    assert all("journal was full" in str(row.attributes) for row in bare)
    assert rows[-1].prompt_snapshot


def test_closed_and_started_again_with_rows_left(switch: Switch) -> None:
    """What was left at the end of the first life is written in the second, once, and the ledger adds up."""
    call_log = CallLog(switch.url, shutdown_timeout_s=0.2, memory_bytes=64 * 1024)
    with call_log:
        for _ in range(50):
            with call_log.record(model="m", prompt="words " * 1000):
                pass
    assert call_log.stats().waiting == 50
    assert call_log.stats().balanced
    switch.on()
    with call_log:
        model.invoke("hello")
        wait_until(lambda: call_log.flush(1) == 0, "all to be written")
        wait_until(lambda: len(homes()) == 1, "the former directory to go")
        assert call_log.stats().balanced
        assert call_log.stats().written == 51
    assert len(rows_of(switch.url)) == 51


class Pile(Destination):
    """Keeps the rows that it is given."""

    name = "a pile"
    takes_packed = True

    def __init__(self) -> None:
        self.rows: list[Row] = []

    async def store(self, rows: Sequence[Row]) -> None:
        self.rows += rows


@pytest.mark.parametrize("journal_bytes", [1024 * 1024, 1024 * 1024 * 1024])
def test_rows_come_packed_as_the_journal_has_them(journal_bytes: int) -> None:
    """Whole ones and such as were stripped of their texts, because the journal was full."""
    pile = Pile()
    with CallLog(destination=pile, journal_bytes=journal_bytes, memory_bytes=64 * 1024 * 1024) as call_log:
        for _ in range(500):
            with call_log.record(model="m", prompt="words " * 300):
                pass
        assert call_log.flush(60) == 0
    assert len(pile.rows) == 500
    assert all(row.packed in (None, pack_record(row.record)) for row in pile.rows)
    assert any(row.packed is not None for row in pile.rows)
    assert all(row.size > len(row.packed or b"") for row in pile.rows)


@pytest.mark.parametrize("durability", ["journal", "memory"])
def test_no_row_is_packed_for_whom_does_not_ask(durability: str) -> None:
    pile = Pile()
    pile.takes_packed = durability == "memory"  # type: ignore[misc]  # of this one alone
    with CallLog(destination=pile, durability=durability) as call_log:
        model.invoke("hello")
        assert call_log.flush(60) == 0
    assert [row.packed for row in pile.rows] == [None]


def test_memory_alone(database: str) -> None:
    """`durability="memory"` touches no disk."""
    with CallLog(database, durability="memory") as call_log:
        model.invoke("hello")
        assert call_log.flush(60) == 0
    assert list(Path(os.environ["LLMCTX_JOURNAL_DIR"]).iterdir()) == []


def test_what_is_lost_with_the_process_is_said(switch: Switch, caplog: pytest.LogCaptureFixture) -> None:
    """Of rows for which neither the database nor the disk had room, at the end."""
    diagnostics.reset()  # said once a minute
    call_log = CallLog(switch.url).start()
    for _ in range(5):
        model.invoke("kept")
    wait_until(lambda: not call_log._worker.pipeline.is_busy, "the journal to have them")
    assert call_log.flush(0.2) == 5
    with full_disk(takes_parts=False):
        for _ in range(7):
            model.invoke("lost")
        assert call_log.close(0.2) == 12
    assert "closed with 12 of its calls not in the database: 7 of them lost with this process, the next" in caplog.text
    switch.on()
    with CallLog(switch.url) as after:
        wait_until(lambda: after.stats().adopted >= 5, "the rows of the journal")
    assert {row.status for row in rows_of(switch.url) if row.prompt_snapshot and "kept" in row.prompt_snapshot} == {
        "ok"
    }
