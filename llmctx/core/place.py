"""The place to which rows go, apart from its name: one place may have several names, and one name several places."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A destination of rows."""

    name: str = ""
    """In words, without secrets."""
    ids: frozenset[str] = frozenset()
    """What it is known by, whatever it is called; empty if it was never reached, or has nothing that tells it."""


def is_of(here: Place, other: Place, *, goes_by_our_name: bool) -> bool:
    """Return whether rows that were to go to `other` may go `here`. Where `other` was never reached, its name tells."""
    return not here.ids.isdisjoint(other.ids) if other.ids else goes_by_our_name
