"""Rows that a database refused are kept with their reason."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from llmctx.delivery import journal as package
from llmctx.delivery.journal import Journal
from tests.kit.journals import record


def test_refused_rows_are_kept_with_their_reason(tmp_path: Path) -> None:
    """For every process, until they are removed."""
    one, other = Journal(tmp_path), Journal(tmp_path)
    rows = [record(prompt_snapshot=text) for text in ("a", "b", "c")]
    for row in rows:
        assert one.dead_letters.append(row, "22021", "invalid \ud800 byte")
    assert len(other.dead_letters) == 3
    kept = list(other.dead_letters.read())
    assert [found.record for found in kept] == rows
    assert {(found.sqlstate, found.reason) for found in kept} == {("22021", "invalid ? byte")}
    assert abs((datetime.now(UTC) - kept[0].at).total_seconds()) < 60
    assert other.dead_letters.remove([rows[1].call_id, UUID(int=1)]) == 1
    assert [found.record for found in one.dead_letters.read()] == [rows[0], rows[2]]
    one.close()
    other.close()


def test_the_quarantine_is_bounded(tmp_path: Path) -> None:
    """What does not fit is refused, not half of it."""
    root = os.open(tmp_path, os.O_RDONLY)
    small = package.DeadLetters(root, limit_bytes=3500)
    assert [small.append(record(prompt_snapshot="x" * 500), "22021", "no") for _ in range(4)] == [
        True,
        True,
        False,
        False,
    ]
    assert len(small) == 2
    small.close()
    os.close(root)
