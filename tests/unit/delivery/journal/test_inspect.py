"""Journals can be searched, and a user taken out of them."""

from __future__ import annotations

from pathlib import Path

from llmctx.delivery.journal import Journal, erase
from tests.kit.journals import die, new_id, record, taken


def test_a_user_is_forgotten(tmp_path: Path) -> None:
    """In the journals of the dead, their markers too, and in quarantine; living ones are counted."""
    dead, living = Journal(tmp_path), Journal(tmp_path)
    for user in ("alice", "bob"):
        dead.start(new_id(), 1.0, {"user_id": user, "model": "m"})
        dead.append([record(user_id=user)])
        dead.dead_letters.append(record(user_id=user), "22021", "no")
    die(dead)
    assert erase(tmp_path, lambda columns: columns.get("user_id") != "alice") == (3, 1)
    records, lost = taken(living)
    assert [row.user_id for row in (*records, *lost)] == ["bob", "bob"]
    assert [found.record.user_id for found in living.dead_letters.read()] == ["bob"]
    living.close()
    assert not any(b"alice" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
