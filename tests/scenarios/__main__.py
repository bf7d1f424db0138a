"""`python -m tests.scenarios [family …]`: in how many scenarios every row is right, and what is wrong in the others.

With `carry=True` and without, by the strict judge: what nobody could know counts as missing as well. Where a row bears
another user's name, the scenario is listed; "bare" are those prompts to a worker that was started in a request.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import sys
from collections import Counter

import tests.scenarios
from tests.scenarios import SHAPES, Shape
from tests.scenarios.world import World


async def verdict(run: Shape, *, carry: bool) -> str:
    world = World(carry=carry)
    async with world.log:
        await run(world)
        unexpected = await world.complaints()
    strict = world.book.held_against(world.sink.records, carry=True)
    if any("WRONG" in complaint for complaint in unexpected):
        return "wrong"
    if unexpected:
        return "failed"
    if any("WRONG" in complaint for complaint in strict):
        return "wrong, bare"
    return "missing" if strict else "right"


def main(families: list[str]) -> int:
    for module in pkgutil.iter_modules(tests.scenarios.__path__):
        if module.name != "__main__":
            importlib.import_module(f"tests.scenarios.{module.name}")
    chosen = {name: run for name, run in SHAPES.items() if not families or name.partition(":")[0] in families}
    failures = 0
    for carry in (False, True):
        counts: Counter[str] = Counter()
        for name, run in chosen.items():
            found = asyncio.run(verdict(run, carry=carry))
            counts[found] += 1
            if found in ("wrong", "failed"):
                failures += 1
                print(f"  {found}: {name}", file=sys.stderr)
        mode = "carry=True" if carry else "default"
        print(f"{mode}: {len(chosen)} scenarios, {', '.join(f'{n} {what}' for what, n in counts.most_common())}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
