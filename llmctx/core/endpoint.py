"""The database or broker to which rows go: one may have several names, and one name may lead to several."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A database or broker, by its name and by what identifies it under any name."""

    name: str = ""
    """In words, without secrets."""
    ids: frozenset[str] = frozenset()
    """Its identifiers under any name; empty if it was never reached, or has none."""


def is_same_endpoint(here: Endpoint, other: Endpoint, *, goes_by_our_name: bool) -> bool:
    """Return whether rows that were to go to `other` may go `here`. Where `other` was never reached, its name tells."""
    return not here.ids.isdisjoint(other.ids) if other.ids else goes_by_our_name
