"""Whose a journal is: which process is alive, and for which place its rows wait."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmctx.core.endpoint import Endpoint
from llmctx.delivery.journal import Journal, inspect_directory, owner
from tests.kit.disk import full_disk
from tests.kit.journals import die, record, taken

HERE = Endpoint("here", frozenset({"a"}))


def noted(journal: Journal, **changed: Any) -> None:
    """Let the journal of a process that has died say something else of it."""
    folder = os.open(journal.directory / journal.name, os.O_RDONLY)
    assert owner.write(replace(owner.this_process(), **changed), folder)
    os.close(folder)


LIVES = """
import fcntl, sys
from llmctx.delivery.journal import Journal
fcntl.flock = lambda *_: None  # a lock that holds on no other node
journal = Journal(sys.argv[1])
journal.start(b"1" * 16, 1.0, {"model": "m"})
print("ready", flush=True)
sys.stdin.read(1)
"""


def test_a_process_whose_lock_is_free_is_alive_as_long_as_it_runs(tmp_path: Path) -> None:
    """And dead afterwards, also where nobody has waited for it."""
    process = subprocess.Popen([sys.executable, "-c", LIVES, str(tmp_path)], stdin=-1, stdout=-1, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        living = Journal(tmp_path)
        assert taken(living) == ([], [])
        assert [one.alive for one in inspect_directory(tmp_path).processes] == [True, True]
        process.kill()
        deadline = time.monotonic() + 60
        while not (found := taken(living)[1]) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [row.status for row in found] == ["lost"]
        living.close()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("other", [{"boot": "another"}, {"namespace": "pid:[1]"}, {"host": "b", "boot": "c"}])
def test_a_process_elsewhere_is_alive_as_long_as_it_says_so(tmp_path: Path, other: dict[str, str]) -> None:
    """On another node, in another container, before a restart: told by the time of its note."""
    journal = Journal(tmp_path)
    journal.append([record()])
    die(journal)
    noted(journal, **other)
    living = Journal(tmp_path)
    assert taken(living) == ([], [])
    past = time.time() - 3600
    os.utime(tmp_path / journal.name / owner.FILE, (past, past))
    assert len(taken(living)[0]) == 1
    living.close()


def test_a_process_id_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    """It was not started at the same time."""
    journal = Journal(tmp_path)
    journal.append([record()])
    die(journal)
    noted(journal, pid=os.getppid(), started="1")
    assert len(taken(Journal(tmp_path))[0]) == 1


def test_a_living_process_says_so(journal: Journal) -> None:
    """Also where what it said was cut."""
    file = journal.directory / journal.name / owner.FILE
    past = time.time() - 3600
    os.utime(file, (past, past))
    journal.checkpoint()
    assert time.time() - file.stat().st_mtime < 60
    os.truncate(file, 0)
    journal._beaten_at = 0.0
    journal.checkpoint()
    assert file.stat().st_size


def test_a_journal_that_was_closed_may_be_recovered_by_others(tmp_path: Path) -> None:
    """Its process lives on, and says that it does not write there any more."""
    journal = Journal(tmp_path, endpoint=HERE)
    journal.append([record()])
    assert journal.close() == 1
    (seen,) = inspect_directory(tmp_path).processes
    assert (seen.alive, seen.endpoint) == (False, HERE)


def test_rows_of_another_place_stay(tmp_path: Path) -> None:
    """Of the same name or not; such as never reached one belong to the name."""
    for endpoint in (Endpoint("here"), HERE, Endpoint("here", frozenset({"b"}))):
        journal = Journal(tmp_path / "name", endpoint=endpoint)
        journal.append([record(model=",".join(endpoint.ids) or "unknown")])
        die(journal)
    elsewhere = Journal(tmp_path / "alias", endpoint=HERE)
    elsewhere.append([record(model="alias")])
    die(elsewhere)
    living = Journal(tmp_path / "name", endpoint=HERE)
    found = []
    for dead in living.recover(lambda at, is_here: bool(at.ids & HERE.ids) or (is_here and not at.ids),
                               [tmp_path / "alias"]):  # fmt: skip
        with dead:
            found += [row.model for row in dead.rows()]
            dead.finish()
    assert sorted(found) == ["a", "alias", "unknown"]
    living.close()


def test_a_name_is_remembered_with_its_place(tmp_path: Path) -> None:
    """A process that never reaches its database belongs to the one that the name led to last."""
    journal = Journal(tmp_path)
    journal.note_endpoint(HERE)
    journal.close()
    later = Journal(tmp_path, endpoint=Endpoint("here"))
    assert later.endpoint == HERE
    later.note_endpoint(other := Endpoint("here", frozenset({"b"})))
    later.close()
    assert Journal(tmp_path, endpoint=Endpoint("here")).endpoint == other


def test_a_call_that_has_its_record_in_another_journal_of_its_process_is_not_lost(tmp_path: Path) -> None:
    """It was killed while it moved from one to the other."""
    first, second = Journal(tmp_path), Journal(tmp_path)
    row = record()
    first.start(row.call_id.bytes, 1.0, {"model": "m"})
    second.append([row])
    die(first)
    die(second)
    records, lost = taken(Journal(tmp_path), finish=False)
    assert (records, lost) == ([row], [])


def test_a_journal_that_was_left_on_a_full_disk_can_be_taken(tmp_path: Path) -> None:
    """By another process, as long as this one lives."""
    journal = Journal(tmp_path, endpoint=HERE)
    journal.append([record()])
    folder = os.open(journal.directory / journal.name, os.O_RDONLY)
    with full_disk():
        assert journal.leave_to_recovery() == 1
    noted_owner = owner.read(folder)
    os.close(folder)
    assert noted_owner is not None
    assert noted_owner.closed
    assert noted_owner.endpoint == HERE
