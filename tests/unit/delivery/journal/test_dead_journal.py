"""What a dead process left is written by a living one, once."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmctx.delivery.journal import Journal
from tests.kit.journals import WHO, die, files, new_id, record, taken


def test_what_a_dead_process_left_is_adopted(tmp_path: Path) -> None:
    """Records that are not done are written again; calls without one are lost, with their identity."""
    dead = Journal(tmp_path)
    done, kept, both = record(), record(prompt_snapshot="p"), record()
    lost_id, created = new_id(), time.time()
    for one in (done, kept, both):
        dead.start(one.call_id.bytes, one.created_at.timestamp(), WHO)
    dead.start(lost_id, created, {**WHO, "agent_key": "a", "unheard_of": 1, "status": "ok"})
    assert dead.append([done, kept]) == 2
    assert dead.append([both]) == 1
    dead.mark_done([done.call_id.bytes])
    die(dead)
    living = Journal(tmp_path)
    records, lost = taken(living)
    assert records == [kept, both]
    [one] = lost
    assert one.call_id.bytes == lost_id
    assert one.created_at == datetime.fromtimestamp(created, UTC)
    assert (one.status, one.success, one.user_id, one.agent_key, one.model) == ("lost", False, "u", "a", "m")
    assert taken(living) == ([], [])
    assert living.close() == 0
    assert os.listdir(tmp_path) == ["quarantine"]


def test_what_was_being_made_when_its_process_was_killed_goes_as_well(tmp_path: Path) -> None:
    """Directories that nobody has named yet, and files half written; in time those of the living would be older."""
    dead = Journal(tmp_path)
    dead.append([record()])
    (tmp_path / dead.name / ".new-0123").write_bytes(b"half")
    (tmp_path / "quarantine" / ".new-4567").write_bytes(b"half")
    (tmp_path / ".new-89ab").mkdir()
    (tmp_path / ".new-7-cdef").mkdir()
    (tmp_path / ".new-7-cdef" / "lock").touch()
    (tmp_path / ".new-being-made").mkdir()
    for path in tmp_path.rglob(".new-[0-9]*"):
        os.utime(path, (time.time() - 7200,) * 2)
    die(dead)
    living = Journal(tmp_path)
    assert len(taken(living)[0]) == 1
    living.close()
    assert sorted(os.listdir(tmp_path)) == [".new-being-made", "quarantine"]
    assert os.listdir(tmp_path / "quarantine") == []


def test_a_living_process_is_left_alone(tmp_path: Path) -> None:
    """Also one of the same process, and by itself."""
    one, other = Journal(tmp_path), Journal(tmp_path)
    one.append([record()])
    assert taken(other) == taken(one) == ([], [])
    assert not other.has_orphans()
    assert one.close() == 1  # now it is for others
    assert other.has_orphans()
    assert len(taken(other)[0]) == 1
    assert not other.has_orphans()
    other.close()


def test_an_adopter_that_gives_up_leaves_it_to_the_next(tmp_path: Path) -> None:
    """Nothing goes before `finish`."""
    dead = Journal(tmp_path)
    dead.append([record()])
    die(dead)
    living = Journal(tmp_path)
    with pytest.raises(KeyError):
        for adopted in living.recover():
            with adopted:
                assert len(adopted) == 1
                raise KeyError
    assert len(taken(living, finish=False)[0]) == 1
    assert len(taken(living)[0]) == 1
    assert len(taken(living)[0]) == 0
    living.close()


def test_what_is_adopted_twice_is_appended_once(tmp_path: Path) -> None:
    """An adopter that could not finish meets the same rows again."""
    one = Journal(tmp_path)
    rows = [record(), record()]
    assert one.append(rows) == one.append(rows) == 2
    assert one.pending == 2
    assert list(one.pending_records()) == rows
    one.mark_done([row.call_id.bytes for row in rows])
    one.close()


def test_a_damaged_record_makes_its_call_lost_and_harms_no_other(tmp_path: Path) -> None:
    """A bit in the middle of one of three."""
    dead = Journal(tmp_path)
    rows = [record(prompt_snapshot=f"unique-{number}") for number in range(3)]
    for row in rows:
        dead.start(row.call_id.bytes, row.created_at.timestamp(), WHO)
    dead.append(rows)
    [path] = files(dead, "records")
    path.write_bytes(path.read_bytes().replace(b"unique-1", b"unique-!"))
    die(dead)
    living = Journal(tmp_path)
    [adopted] = living.recover()
    records, lost = taken(living)
    assert records == [rows[0], rows[2]]
    assert [row.call_id for row in lost] == [rows[1].call_id]
    assert adopted.damage.places == 1
    living.close()
