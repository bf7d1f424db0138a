"""What recording adds to a call, beside a handler that appends to a deque, until the rows are in PostgreSQL."""

from __future__ import annotations

from typing import Any, Final

from bench.paired import measure

WAYS: Final = ("one after another", "200 graphs of 5 nodes at once", "4 threads")


def run(database_url: str) -> dict[str, Any]:
    """Return `paired.measure` for each way of calling, with the ratio of both recorders' wall time."""
    return {way: with_ratio(measure(way, ("deque", "llmctx"), database_url)) for way in WAYS}


def with_ratio(found: dict[str, Any]) -> dict[str, Any]:
    recorders = found["recorders"]
    return {**found, "times_deque": recorders["llmctx"]["wall_us"] / recorders["deque"]["wall_us"]}
