"""A seed: a world, a life, an hour of torment in a minute, and the judgement."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.faults.cluster import Cluster
from tests.faults.judge import Verdict
from tests.faults.nemesis import torment
from tests.faults.world import world


@dataclass(slots=True)
class Outcome:
    seed: int
    done: list[str]
    verdict: Verdict


async def run_seed(cluster: Cluster, seed: int, seconds: float, names: list[str] | None = None) -> Outcome:
    """Everything that this seed stands for."""
    rng = random.Random(seed)
    async with world(cluster, seed) as one:
        one.begin_life()
        await one.living()
        done = await torment(one, rng, seconds, names)
        return Outcome(seed, done, await one.settled())
