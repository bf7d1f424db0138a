"""Who is to blame for a refused batch: only a row after whose refusal another one was taken."""

from __future__ import annotations

import pytest

from llmctx.delivery.bisect import isolate
from llmctx.delivery.destination import Failure

DRIFT = Failure("config", "23502", "a new column must not be empty")


class Table:
    """Takes numbers, all of a part or none; after `changes_after` parts it takes nothing any more."""

    def __init__(self, bad: set[int], changes_after: int | None = None) -> None:
        self.bad = bad
        self.left = changes_after
        self.rows: list[int] = []
        self.statements = 0
        self.broken_for = 0

    @property
    def has_changed(self) -> bool:
        return (self.left is not None and self.left <= 0) or self.statements < self.broken_for

    async def store(self, part: list[int]) -> None:
        self.statements += 1
        if self.has_changed or self.bad & set(part):
            raise ValueError("refused")
        self.rows += part
        if self.left is not None:
            self.left -= 1

    async def probe(self) -> Failure | None:
        return DRIFT if self.has_changed else None


@pytest.mark.parametrize("bad", [{0}, {499}, {3, 250, 251, 400}, set(range(500)), set(range(0, 500, 10))])
async def test_the_bad_ones_are_found_and_the_others_stored(bad: set[int]) -> None:
    """However many there are."""
    table = Table(bad)
    verdict = await isolate(list(range(500)), table.store, table.probe)
    assert verdict.failure is None
    assert {row for row, _ in verdict.poison_rows} == bad
    assert sorted(table.rows) == sorted(set(range(500)) - bad)


async def test_one_of_five_hundred_takes_few_statements() -> None:
    """Two for each halving."""
    table = Table({123})
    await isolate(list(range(500)), table.store, table.probe)
    assert table.statements <= 20


@pytest.mark.parametrize("after", range(10))
async def test_a_table_that_changes_during_the_search(after: int) -> None:
    """What it refuses from then on is not the rows' fault: they are kept."""
    table = Table({7, 300}, changes_after=after)
    verdict = await isolate(list(range(500)), table.store, table.probe)
    assert verdict.failure is not None or not table.has_changed
    assert {row for row, _ in verdict.poison_rows} <= {7, 300}
    assert not {row for row, _ in verdict.poison_rows} & set(table.rows)


@pytest.mark.parametrize("after", range(1, 30))
async def test_a_table_that_is_mended_during_the_search(after: int) -> None:
    """What it refused until then was not the rows' fault, but for those that it refuses still."""
    table = Table({7, 300})
    table.broken_for = after
    verdict = await isolate(list(range(500)), table.store, table.probe)
    kept = set(range(500)) - set(table.rows)
    assert {row for row, _ in verdict.poison_rows} == (kept if verdict.failure is None else set())
    assert kept == {7, 300} or verdict.failure is not None


async def test_a_table_that_takes_nothing_is_soon_left_alone() -> None:
    """Not every row is tried."""
    table = Table(set(), changes_after=0)
    verdict = await isolate(list(range(500)), table.store, table.probe)
    assert (verdict.poison_rows, bool(verdict.failure)) == ([], True)
    assert table.statements < 40


async def test_an_outage_ends_the_search() -> None:
    """Nothing was found out about the rows that were not tried."""

    async def gone(part: list[int]) -> None:
        raise ConnectionResetError

    async def probe() -> Failure | None:
        raise AssertionError("nobody is there to be asked")

    verdict = await isolate([1, 2, 3], gone, probe)
    assert verdict.poison_rows == []
    assert verdict.failure is not None
    assert verdict.failure.kind == "reconnect"
