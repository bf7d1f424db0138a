"""Files of the journal go when their rows are done, stay within their bounds, and survive a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from llmctx.delivery.journal import Damage, Journal, Kind, read, unpack_record
from tests.kit.journals import WHO, files, new_id, record


def test_files_go_when_their_rows_are_done(journal: Journal) -> None:
    """And their markers with them; what is open is carried on."""
    open_id = new_id()
    journal.start(open_id, 1.0, WHO)
    for _ in range(20):
        rows = [record(prompt_snapshot="x" * 3000) for _ in range(20)]
        for row in rows:
            journal.start(row.call_id.bytes, 1.0, WHO)
        assert journal.append(rows) == 20
        journal.mark_done([row.call_id.bytes for row in rows])
        journal.checkpoint()
    assert journal.used_bytes < 200_000
    assert len(files(journal, "records")) <= 2
    [starts] = files(journal, "starts")
    assert starts.stat().st_size < 2000
    assert [found.payload[:16] for found in read(starts) if found.kind == Kind.START] == [open_id]
    journal.mark_done([open_id])


def test_a_row_that_waits_keeps_its_file(journal: Journal) -> None:
    """And no other."""
    stuck = record()
    journal.append([stuck])
    for _ in range(10):
        rows = [record(prompt_snapshot="x" * 3000) for _ in range(25)]
        journal.append(rows)
        journal.mark_done([row.call_id.bytes for row in rows])
        journal.checkpoint()
    assert len(files(journal, "records")) <= 3
    assert list(journal.pending_records()) == [stuck]
    journal.mark_done([stuck.call_id.bytes])


def test_the_journal_is_bounded(tmp_path: Path) -> None:
    """It says how many fit; markers still do; there is room again when rows are done."""
    small = Journal(tmp_path, limit_bytes=256 * 1024, segment_bytes=32 * 1024)
    rows = [record(prompt_snapshot="x" * 1000) for _ in range(400)]
    fitted = small.append(rows)
    assert 50 < fitted < 200
    assert small.used_bytes <= 256 * 1024
    assert "full" in (small.last_error or "")
    assert small.append(rows[fitted:]) == 0
    assert small.start(new_id(), 1.0, WHO)
    small.mark_done([row.call_id.bytes for row in rows[:fitted]])
    small.checkpoint()
    assert small.append(rows[fitted : fitted + 50]) == 50
    assert small.last_error is None
    small.close()


@pytest.mark.parametrize("written", [0, 10, 500, 4000])
def test_a_full_disk_leaves_whole_frames_and_heals(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """A write that is short, then refused: what fitted is told, the rest is cut off, later appends are fine."""
    rows = [record(prompt_snapshot="x" * 1000) for _ in range(5)]
    real = os.write
    full = [written]

    def write(fd: int, data: Any) -> int:
        if fd != journal._records:
            return real(fd, data)
        room = full[0]
        if not room:
            raise OSError(errno.ENOSPC, "full")
        full[0] = max(0, room - len(data))
        return real(fd, bytes(data[:room]))

    monkeypatch.setattr(os, "write", write)
    fitted = journal.append(rows)
    assert fitted == (0 if written < 1000 else 2 if written == 4000 else 0)
    assert "No space left" in (journal.last_error or "")
    monkeypatch.undo()
    assert journal.append(rows[fitted:]) == 5 - fitted
    damage = Damage()
    found = [one for one in read(files(journal, "records")[0], damage) if one.kind == Kind.RECORD]
    assert [unpack_record(one.payload) for one in found] == rows
    assert damage.places == 0
    journal.mark_done([row.call_id.bytes for row in rows])


def test_a_disk_that_is_full_does_not_stop_files_from_going(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that makes room again."""
    for _ in range(5):
        rows = [record(prompt_snapshot="x" * 3000) for _ in range(25)]
        journal.append(rows)
        journal.mark_done([row.call_id.bytes for row in rows])
    assert len(files(journal, "records")) > 3

    def full(*args: Any, **kwargs: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", full)
    assert journal.start(new_id(), 1.0, WHO) is False  # and nothing is raised
    journal.checkpoint()
    assert len(files(journal, "records")) == 1
    monkeypatch.undo()
    journal.checkpoint()
    assert len(files(journal, "starts")) == 1
    assert len([found for found in read(files(journal, "starts")[0]) if found.kind == Kind.START]) == 1
    journal.mark_done(list(journal._markers._open))


def test_waiting_for_the_disk_is_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most every so often, and only if something was written."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    lax = Journal(tmp_path)
    lax.append([record()])
    lax.sync()
    assert synced == []
    strict = Journal(tmp_path, fsync_s=0.0)
    strict.append([record()])
    strict.sync()
    strict.sync()
    assert len(synced) == 2  # markers and records, once
    slow = Journal(tmp_path, fsync_s=60.0)
    for _ in range(3):
        slow.append([record()])
        slow.sync()
    assert len(synced) == 4
    for one in (lax, strict, slow):
        one.close()
