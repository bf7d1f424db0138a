"""Compare the rows with the provider's log: how many calls were made, for which patient, and which row each has.

Rows and calls are matched by what stands in the prompt: patient, visit, task. Neither recorder has a say in that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from llmctx.cli.demo.provider_protocol import TASK, TRUTH
from llmctx.cli.demo.scenarios import WAYS, Way, way_of

Key = tuple[str, str, str]
"""Patient, visit and task: a call, or a few equal ones."""
Row = Mapping[str, Any]
K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Match(Generic[K, R]):
    """Equal calls, and the rows that are about them."""

    key: K
    calls: int
    rows: Sequence[R]

    @property
    def lost(self) -> int:
        """Return how many of the calls have no row."""
        return max(0, self.calls - len(self.rows))

    @property
    def extra(self) -> int:
        """Return how many rows there are beyond one for a call."""
        return max(0, len(self.rows) - self.calls)


def match(calls: Mapping[K, int], rows: Iterable[R], key_of: Callable[[R], K]) -> Iterator[Match[K, R]]:
    """Yield for every key of a call or a row how many calls were made under it, and the rows that it has."""
    found: dict[K, list[R]] = {}
    for row in rows:
        found.setdefault(key_of(row), []).append(row)
    for key in calls.keys() | found.keys():
        yield Match(key, calls.get(key, 0), found.get(key, ()))


@dataclass(slots=True, kw_only=True)
class Score:
    """Counts for `calls`, the requests that the provider saw: `rows + lost == calls + duplicates + unsent`."""

    calls: int = 0
    rows: int = 0
    right: int = 0
    """Rows with the true session_id and user_id."""
    wrong: int = 0
    """Rows with the ids of another patient or visit."""
    unattributed: int = 0
    """Rows that lack an id."""
    duplicates: int = 0
    """Rows beyond one for a call."""
    lost: int = 0
    """Calls without a row."""
    unsent: int = 0
    """Rows of calls that failed, or were cancelled, before they reached the provider. These are no fault."""

    @property
    def clean(self) -> bool:
        """Tell whether every call is exactly one row with the right ids."""
        return not (self.wrong or self.unattributed or self.duplicates or self.lost)

    @property
    def share(self) -> float:
        """Return the share of calls whose row has the right ids; a call without a row counts as one without ids."""
        return self.right / max(1, self.rows + self.lost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The scores of one run, in total and by way."""

    total: Score
    ways: Mapping[str, Score]


def key_of(row: Row) -> Key | None:
    """Return whose call a row is about, by its prompt."""
    prompt = str(row["prompt_snapshot"] or "")
    task, truth = TASK.search(prompt), TRUTH.findall(prompt)
    return (*truth[-1], task[1]) if task and truth else None


def compare(log: Iterable[Mapping[str, Any]], rows: Iterable[Row]) -> Comparison:
    """Match the rows of one run with the provider's log, and count."""
    called: Counter[Key | None] = Counter((entry["patient"], entry["visit"], entry["task"]) for entry in log)
    total, ways = Score(), {way.key: Score() for way in WAYS}
    for found in match(called, rows, key_of):
        key = found.key
        for score in (total,) if key is None else (total, ways[way_of(key[1], key[2]).key]):
            _add(score, found)
    return Comparison(total=total, ways=ways)


def _add(score: Score, match: Match[Key | None, Row]) -> None:
    score.calls += match.calls
    score.rows += len(match.rows)
    score.lost += match.lost
    unsent = min(match.extra, sum(not row["success"] for row in match.rows)) if match.calls == 0 else 0
    score.unsent += unsent
    score.duplicates += match.extra - unsent
    truth = match.key[:2] if match.key else (None, None)
    for row in match.rows:
        ids = row["user_id"], row["session_id"]
        if any(known is not None and known != true for known, true in zip(ids, truth, strict=True)):
            score.wrong += 1
        elif None in ids:
            score.unattributed += 1
        else:
            score.right += 1


def rows_on(rows: Iterable[Row], way: Way) -> list[Row]:
    """Return the rows of the calls that went that way."""
    keys = ((row, key_of(row)) for row in rows)
    return [row for row, key in keys if key and key[2].split()[0] in way.tasks and way_of(key[1], key[2]) is way]


def patient_of(row: Row) -> str:
    """Return the patient for whom the row's call was made."""
    key = key_of(row)
    return key[0] if key else ""


async def read_rows(url: str, table: str) -> list[Row]:
    """Return all rows of a table of the demo's own database."""
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            # the table's name is one of our two constants
            return [dict(row) for row in (await connection.execute(text(f"SELECT * FROM {table}"))).mappings()]
    finally:
        await engine.dispose()
