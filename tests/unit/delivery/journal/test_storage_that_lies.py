"""Disks that fail to keep what they were given, files that are cut or moved, frames without sense."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import uuid_utils

from llmctx.core.record import COLUMNS
from llmctx.delivery.journal import Journal, Kind, frames, inspect_directory
from tests.kit.journals import die, record, taken


def home_of(journal: Journal) -> Path:
    return journal.directory / journal.name


@pytest.mark.parametrize("failures", [1, 3])
def test_what_the_disk_failed_to_keep_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """A second fdatasync would succeed and write nothing: so the pages are thrown away here, as the kernel may do."""
    journal = Journal(tmp_path, fsync_s=0.0)
    safe = [record() for _ in range(5)]
    assert journal.append(safe) == 5
    journal.start(open_id := uuid_utils.uuid7().bytes, 1.0, {"model": "m"})
    journal.sync()
    sizes = {path: path.stat().st_size for path in home_of(journal).iterdir()}
    late = [record() for _ in range(5)]
    assert journal.append(late) == 5
    journal.start(late_id := uuid_utils.uuid7().bytes, 1.0, {"model": "m"})
    real, failed = os.fdatasync, []

    def fdatasync(fd: int) -> None:
        if len(failed) < failures:
            failed.append(fd)
            for path, size in sizes.items():
                if path.exists() and os.path.samestat(path.stat(), os.fstat(fd)):
                    os.truncate(path, size)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    for _ in range(failures + 1):
        journal.sync(now=True)
    assert journal.pending == 10
    assert sorted(one.call_id for one in journal.pending_records()) == sorted(one.call_id for one in safe + late)
    die(journal)
    records, lost = taken(Journal(tmp_path))
    assert {one.call_id for one in records} == {one.call_id for one in safe + late}
    assert {one.call_id.bytes for one in lost} == {open_id, late_id}


@pytest.mark.parametrize("harm", ["truncated", "and grown again", "renamed", "moved away", "removed", "exchanged"])
@pytest.mark.parametrize("file", ["records", "starts", "lock"])
def test_harm_to_a_file_is_noticed(journal: Journal, tmp_path: Path, file: str, harm: str) -> None:
    """And to no other: an intact journal is left as it is."""
    journal.append([record() for _ in range(3)])
    journal.start(uuid_utils.uuid7().bytes, 1.0, {"model": "m"})
    assert journal.is_intact
    assert journal.is_intact
    (path,) = home_of(journal).glob(f"{file}*")
    if file == "lock" and harm in ("truncated", "and grown again"):
        return
    if harm in ("truncated", "and grown again"):
        size = path.stat().st_size
        os.truncate(path, 0)
        with path.open("ab") as other:
            other.write(b"x" * (2 * size if harm == "and grown again" else 0))
    elif harm == "renamed":
        path.rename(path.with_name(path.name + ".1"))
    elif harm == "moved away":
        path.rename(tmp_path / "elsewhere")
    elif harm == "removed":
        path.unlink()
    else:
        shutil.copy(path, tmp_path / "copy")
        path.unlink()
        shutil.copy(tmp_path / "copy", path)
    assert not journal.is_intact


def test_what_can_be_read_of_a_harmed_file_is_read(journal: Journal, tmp_path: Path) -> None:
    """By its descriptor, or under another name."""
    rows = [record(prompt_snapshot="x" * 3000) for _ in range(40)]
    assert journal.append(rows) == 40
    first, *_, last = sorted(home_of(journal).glob("records-*"))
    first.rename(first.with_name("backup.1"))
    last.rename(tmp_path / "elsewhere")
    assert list(journal.pending_records()) == rows
    journal.mark_done([row.call_id.bytes for row in rows])


NONSENSE: list[Any] = [None, 7, -1e308, "", "text", [], [1], {}, {"a": 1}, True, "2026-13-45", "9" * 400, 2**70]


def test_a_frame_that_makes_no_sense_costs_itself_alone(tmp_path: Path) -> None:
    """Sound by its checksum, nonsense by its content, of every kind, among good ones."""
    rng = random.Random(1)
    journal = Journal(tmp_path)
    good = [record() for _ in range(20)]
    home = home_of(journal)
    (file,) = home.glob("records-*")
    with file.open("ab") as other:
        for row in good:
            journal.append([row])
            for _ in range(30):
                kind = rng.choice([*Kind, 99])
                payload: bytes = uuid_utils.uuid7().bytes
                if kind == Kind.START:
                    payload += struct.pack("<d", rng.choice([1.0, float("nan"), float("inf"), -1e300, 1e300]))
                columns = {name: rng.choice(NONSENSE) for name in rng.sample(COLUMNS, 6)}
                payload += json.dumps(
                    rng.choice([columns, {**columns, "call_id": str(row.call_id)}, rng.choice(NONSENSE[:-1])])
                    if kind != Kind.DONE
                    else {}, default=str,
                ).encode()  # fmt: skip
                if kind in (Kind.DONE, Kind.END):
                    payload = uuid_utils.uuid7().bytes + b"odd"
                other.write(frames.frame(kind, payload[: rng.choice([len(payload), 3, 0])]))
                other.flush()
    torn = record()
    journal.start(torn.call_id.bytes, 1.0, {"model": "m"})
    with file.open("ab") as other:
        other.write(frames.frame(Kind.RECORD, torn.call_id.bytes + b'{"model": ["m"]}'))
    die(journal)
    (seen,) = inspect_directory(tmp_path).processes
    assert seen.records >= 20
    records, lost = taken(Journal(tmp_path))
    assert {row.call_id for row in good} <= {row.call_id for row in records}
    assert torn.call_id in {row.call_id for row in lost}
    assert not home.exists()
