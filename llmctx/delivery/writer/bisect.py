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

from llmctx.storage.db_errors import Trouble, classify

_SAMPLE: Final = 8  # so many refused in a row ask for a probe

Row = TypeVar("Row")


@dataclass(slots=True)
class Verdict(Generic[Row]):
    """Who is to blame, and for what. With `trouble` the search was given up: the rest must be kept."""

    to_blame: list[tuple[Row, Trouble]] = field(default_factory=list)
    trouble: Trouble | None = None


async def isolate(
    rows: list[Row],
    store: Callable[[list[Row]], Awaitable[None]],
    probe: Callable[[], Awaitable[Trouble | None]],
) -> Verdict[Row]:
    """Store what can be stored of `rows`, which were refused together.

    `store` takes all that it is given, or raises and takes nothing. `probe` says why a row beyond suspicion would be
    refused now; None if it would not.
    """
    verdict = await _search(rows, store, probe)
    if verdict.trouble is not None or not verdict.to_blame:
        verdict.to_blame.clear()
        return verdict
    again: Verdict[Row] = Verdict()
    for row, _ in verdict.to_blame:
        try:
            await store([row])
        except Exception as problem:  # noqa: BLE001  sorted by what it says
            trouble = classify(problem)
            if trouble.is_outage:
                return Verdict(trouble=trouble)
            again.to_blame.append((row, trouble))
    if again.to_blame and (refused := await probe()) is not None:
        return Verdict(trouble=refused)
    return again


async def _search(
    rows: list[Row],
    store: Callable[[list[Row]], Awaitable[None]],
    probe: Callable[[], Awaitable[Trouble | None]],
) -> Verdict[Row]:
    """Who seems to blame."""
    verdict: Verdict[Row] = Verdict()
    suspects: list[tuple[Row, Trouble]] = []
    todo = _halves(rows)
    while todo:
        part = todo.pop()
        try:
            await store(part)
        except Exception as problem:  # noqa: BLE001  sorted by what it says
            trouble = classify(problem)
            if trouble.is_outage:
                verdict.trouble = trouble
                return verdict
            if len(part) > 1:
                todo += _halves(part)
                continue
            suspects.append((part[0], trouble))
            if todo and len(suspects) < _SAMPLE:
                continue
            refused = await probe()
            if refused is not None:
                verdict.trouble = refused if refused.is_outage else trouble
                return verdict
        verdict.to_blame += suspects
        suspects.clear()
    return verdict


def _halves(rows: list[Row]) -> list[list[Row]]:
    """The first one last, for it is taken first."""
    half = len(rows) // 2
    return [rows[half:], rows[:half]] if half else [rows]
