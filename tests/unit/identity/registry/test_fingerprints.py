"""Fingerprints: what they may forget, and in which direction they err."""

from __future__ import annotations

from llmctx.identity.registry.fingerprints import Fingerprints


def test_a_name_knows_whether_it_had_another_owner() -> None:
    """Also one who is unknown."""
    prints = Fingerprints(100)
    assert "t" not in prints
    assert [prints.record("t", owner) for owner in ("a", "a", "b", "a")] == [False, False, True, True]
    assert "t" in prints
    assert [prints.record("u", owner) for owner in (None, "a", None)] == [False, True, True]


def test_no_number_of_names_makes_another_owner_unseen() -> None:
    """Where there is no room, names count as used by others; memory stays the same."""
    prints = Fingerprints(10)
    for number in range(150_000):
        prints.record(f"t-{number}", "a")
    assert all(prints.record(f"t-{number}", "b") for number in range(0, 150_000, 97))
    assert sum(table.slots for table in prints._tables) <= 3 * 2**16


def test_names_in_use_are_told_from_new_ones() -> None:
    """As many as the registry holds, and several times more, hardly cost a new one its owner."""
    prints = Fingerprints(10_000)
    for number in range(80_000):
        prints.record(f"t-{number}", "a")
    assert sum(prints.record(f"new-{number}", "b") for number in range(1_000)) < 30
    assert sum(prints.record(f"t-{number}", "a") for number in range(80_000)) < 1_600


def test_after_a_day_there_is_room_again() -> None:
    """The oldest table goes when nothing has been written to it for so long."""
    prints = Fingerprints(10, keep_s=0.0)
    for number in range(150_000):
        prints.record(f"t-{number}", "a")
    assert not prints.record("new", "b")
    assert sum(table.slots for table in prints._tables) <= 3 * 2**16
