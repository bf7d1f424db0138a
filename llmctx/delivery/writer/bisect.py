"""Finds the rows for which a batch was refused, by halving it, and knows when it is not the rows.

Any code may come from a trigger of the host's, so a code alone condemns nobody. A row is to blame only if the database
took another one *after* it had refused this one: a row of the same batch or, if there was none, a probe. If it takes
nothing any more, it is the table that has changed, and all rows are kept. And the table may have been mended in the
middle of the search: so whoever seems to blame is tried once more, and is to blame if he is refused again, between two
that are taken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from llmctx.storage.db_errors import DatabaseFailure, classify

_SAMPLE: Final = 8  # so many refused in a row ask for a probe

Row = TypeVar("Row")


@dataclass(slots=True)
class BisectResult(Generic[Row]):
    """Who is to blame, and for what. With `trouble` the search was given up: the rest must be kept."""

    poison_rows: list[tuple[Row, DatabaseFailure]] = field(default_factory=list)
    trouble: DatabaseFailure | None = None


async def isolate(
    rows: list[Row],
    store: Callable[[list[Row]], Awaitable[None]],
    probe: Callable[[], Awaitable[DatabaseFailure | None]],
) -> BisectResult[Row]:
    """Store what can be stored of `rows`, which were refused together.

    `store` takes all that it is given, or raises and takes nothing. `probe` says why a row beyond suspicion would be
    refused now; None if it would not.
    """
    result = await _search(rows, store, probe)
    if result.trouble is not None or not result.poison_rows:
        result.poison_rows.clear()
        return result
    again: BisectResult[Row] = BisectResult()
    for row, _ in result.poison_rows:
        try:
            await store([row])
        except Exception as problem:  # noqa: BLE001  sorted by what it says
            trouble = classify(problem)
            if trouble.is_outage:
                return BisectResult(trouble=trouble)
            again.poison_rows.append((row, trouble))
    if again.poison_rows and (refused := await probe()) is not None:
        return BisectResult(trouble=refused)
    return again


async def _search(
    rows: list[Row],
    store: Callable[[list[Row]], Awaitable[None]],
    probe: Callable[[], Awaitable[DatabaseFailure | None]],
) -> BisectResult[Row]:
    """Who seems to blame."""
    result: BisectResult[Row] = BisectResult()
    suspects: list[tuple[Row, DatabaseFailure]] = []
    todo = _halves(rows)
    while todo:
        part = todo.pop()
        try:
            await store(part)
        except Exception as problem:  # noqa: BLE001  sorted by what it says
            trouble = classify(problem)
            if trouble.is_outage:
                result.trouble = trouble
                return result
            if len(part) > 1:
                todo += _halves(part)
                continue
            suspects.append((part[0], trouble))
            if todo and len(suspects) < _SAMPLE:
                continue
            refused = await probe()
            if refused is not None:
                result.trouble = refused if refused.is_outage else trouble
                return result
        result.poison_rows += suspects
        suspects.clear()
    return result


def _halves(rows: list[Row]) -> list[list[Row]]:
    """The first one last, for it is taken first."""
    half = len(rows) // 2
    return [rows[half:], rows[:half]] if half else [rows]
