"""A seed: a life, a schedule of faults drawn by it, and the judgement."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.faults.judge import Verdict
from tests.faults.nemesis import torment
from tests.faults.world import World


async def tormented(
    world: World, seconds: float, names: list[str] | None = None, say: Callable[[str], None] = print
) -> Verdict:
    """Everything that the world's seed stands for, done to one of two workers and to what they need."""
    world.begin_life()
    world.begin_company()
    await world.living()
    await torment(world, random.Random(world.seed), seconds, names, say)
    return await world.settled()
