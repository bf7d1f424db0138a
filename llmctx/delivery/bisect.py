"""Find the rows for which a batch was refused, by halving it, and notice when it is not the rows.

A trigger of the host's may raise any code, so a code alone proves nothing. A row is to blame only if the destination
took another one *after* it had refused this one: a row of the same batch or, if there was none, a probe. If it takes
nothing any more, the table has changed, and all rows are kept. And the table may have been mended in the middle of the
search: so each suspect is tried once more, and is to blame if it is refused again, between two rows that are taken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from llmctx.delivery.destination import Failure, classify_by_type

_SAMPLE: Final = 8  # so many refused in a row ask for a probe

Row = TypeVar("Row")


@dataclass(slots=True)
class BisectResult(Generic[Row]):
    """The rows to blame, each with its failure. With `failure` the search was given up: keep all other rows."""

    poison_rows: list[tuple[Row, Failure]] = field(default_factory=list)
    failure: Failure | None = None


async def isolate(
    rows: list[Row],
    store: Callable[[list[Row]], Awaitable[None]],
    probe: Callable[[], Awaitable[Failure | None]],
    classify: Callable[[BaseException], Failure] = classify_by_type,
) -> BisectResult[Row]:
    """Store what can be stored of `rows`, which were refused together.

    `store` takes all rows of a part, or raises. `probe` returns why a row beyond suspicion would be refused now; None
    if it would be taken. `classify` returns what an exception of `store` means.
    """
    result = await _search(rows, store, probe, classify)
    if result.failure is not None or not result.poison_rows:
        result.poison_rows.clear()
        return result
    again: BisectResult[Row] = BisectResult()
    for row, _ in result.poison_rows:
        try:
            await store([row])
        except Exception as problem:  # noqa: BLE001  sorted by what it says
            failure = classify(problem)
            if failure.is_outage:
                return BisectResult(failure=failure)
            again.poison_rows.append((row, failure))
    if again.poison_rows and (refused := await probe()) is not None:
        return BisectResult(failure=refused)
    return again


async def _search(
    rows: list[Row],
    store: Callable[[list[Row]], Awaitable[None]],
    probe: Callable[[], Awaitable[Failure | None]],
    classify: Callable[[BaseException], Failure],
) -> BisectResult[Row]:
    """Return the rows that seem to be to blame."""
    result: BisectResult[Row] = BisectResult()
    suspects: list[tuple[Row, Failure]] = []
    todo = _halves(rows)
    while todo:
        part = todo.pop()
        try:
            await store(part)
        except Exception as problem:  # noqa: BLE001  sorted by what it says
            failure = classify(problem)
            if failure.is_outage:
                result.failure = failure
                return result
            if len(part) > 1:
                todo += _halves(part)
                continue
            suspects.append((part[0], failure))
            if todo and len(suspects) < _SAMPLE:
                continue
            refused = await probe()
            if refused is not None:
                result.failure = refused if refused.is_outage else failure
                return result
        result.poison_rows += suspects
        suspects.clear()
    return result


def _halves(rows: list[Row]) -> list[list[Row]]:
    """Return the halves of `rows`, the first one last: `pop` takes it first."""
    half = len(rows) // 2
    return [rows[half:], rows[:half]] if half else [rows]
