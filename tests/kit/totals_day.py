"""A process that changes rows and makes totals, in random order, until it is killed.

python -m tests.kit.totals_day URL SEED DIRECTORY
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from llmctx.delivery.pricing import Prices
from llmctx.ops.backfill import backfill, undo
from llmctx.ops.erase import Subject, erase
from llmctx.ops.recompute import recompute
from llmctx.settings import Settings, load
from llmctx.storage.filters import Filters
from llmctx.storage.retention import Policy, retain
from llmctx.storage.rollup import rollup
from tests.kit.rows import record, store

DAYS = 6
PRICES = '[{"model": "m", "input": 1, "output": 2}, {"model": "large", "input": 3, "output": 4}]'


class Day:
    """What may happen on a day."""

    def __init__(self, settings: Settings, chance: random.Random, directory: Path) -> None:
        self.settings, self.chance, self.directory = settings, chance, directory

    async def late_rows(self) -> None:
        """Rows of the last days, some without a user or a cost, come in."""
        chance, now = self.chance, datetime.now(UTC)
        await store(
            self.settings,
            *(
                record(
                    created_at=now - timedelta(seconds=int(chance.random() ** 3 * DAYS * 86_400)),
                    model=chance.choice(["m", "large"]),
                    session_id=f"s-{(number := chance.randrange(40))}",
                    user_id=chance.choice([None, f"u-{number % 9}"]),
                    success=(success := chance.random() > 0.2),
                    status="ok" if success else "error",
                    prompt_tokens=10,
                    completion_tokens=chance.choice([None, 20]),
                    latency_ms=int(chance.lognormvariate(6, 1)),
                    cost_usd=chance.choice([None, Decimal("0.000000123")]),
                )
                for _ in range(chance.randrange(1, 120))
            ),
        )

    async def erasure(self) -> None:
        user = Subject(user=f"u-{self.chance.randrange(9)}")
        await erase(self.settings, user, do=True, blank=self.chance.random() < 0.5, wait_s=0)

    async def filling(self) -> None:
        """With a way back that is taken at times."""
        way_back = self.directory / f"{self.chance.randrange(2**60)}.jsonl"
        report = await backfill(self.settings, do=True, undo_file=way_back)
        if report.undo_file and self.chance.random() < 0.4:
            await undo(self.settings, way_back, do=True)

    async def pricing(self) -> None:
        prices = self.directory / "prices.json"
        prices.write_text(PRICES)
        again = self.chance.random() < 0.3
        await recompute(self.settings, Prices(str(prices)), Filters(), do=True, again=again)

    async def retention(self) -> None:
        days = self.chance.randrange(DAYS - 2, DAYS)
        await retain(self.settings, Policy(rows=days, errors=days + self.chance.randrange(2), exact=True), do=True)

    async def totals(self) -> None:
        await rollup(self.settings, verify=self.chance.random() < 0.1)

    async def go_on(self) -> None:
        """Do one of these after another."""
        ways: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.late_rows, 6), (self.totals, 6), (self.erasure, 2), (self.filling, 2), (self.pricing, 2),
            (self.retention, 1),
        ]  # fmt: skip
        while True:
            way = self.chance.choices([one for one, _ in ways], [often for _, often in ways])[0]
            await way()
            print(way.__name__, flush=True)


if __name__ == "__main__":
    url, seed, directory = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Day(load(database_url=url), random.Random(int(seed)), Path(directory)).go_on())
