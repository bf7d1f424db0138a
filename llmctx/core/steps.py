"""Steps of starting and stopping, of which each is worth taking where another fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmctx.core.guard import guard


@guard("life_failed", "%s failed: a part of a CallLog could not be started or stopped")
def attempt(step: Callable[..., object], *args: object) -> bool:
    """Take one of several steps. Return True if it did not fail."""
    step(*args)
    return True


def add(among: list[Any], one: object) -> None:
    """Add `one`, once."""
    if one not in among:
        among.append(one)


def remove(among: list[Any], one: object) -> None:
    """Remove `one`, if it is there."""
    if one in among:
        among.remove(one)
