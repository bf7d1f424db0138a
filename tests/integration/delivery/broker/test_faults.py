"""Shippers, a broker and the database die one after another while rows flow: each row is in the table, once.

`make scale` goes on for longer, with applications that die as well, and all brokers at once.
"""

from __future__ import annotations

import random

import pytest

from tests.kit.brokers import Brokers
from tests.scale.world import world

pytestmark = pytest.mark.timeout(900)  # servers that start and elect leaders, on a busy machine


async def test_all_that_can_die(broker_cluster: Brokers, database: str) -> None:
    """One to four shippers and back, killed with -9; the leader, the connections to the database."""
    flow = {"streams": 2, "pause_s": 0.01, "rows": 20}
    async with world(database, broker_cluster, random.Random(1), **flow) as one:
        await one.progress()
        for name in ("one shipper", "four shippers", "database", "leader", "all shippers", "one is left"):
            await one.suffer(name)
        verdict = await one.judge()
    assert verdict.findings == []
    assert verdict.rows == verdict.distinct == verdict.made > 300
