"""However a call leaves its request, its row carries the request's ids, and never somebody else's.

The table is `tests/shapes`. Without `carry=True`, what nobody could know has no ids, and a reason.
"""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import tests.shapes
from tests.shapes import SHAPES, Shape
from tests.shapes.world import USERS, World

for _module in pkgutil.iter_modules(tests.shapes.__path__):
    importlib.import_module(f"tests.shapes.{_module.name}")


@pytest.mark.parametrize("carry", [False, True], ids=["plain", "carry"])
@pytest.mark.parametrize("run", SHAPES.values(), ids=SHAPES.keys())
async def test_every_call_is_attributed(run: Shape, carry: bool) -> None:
    """Twenty users at once: each call is one row, of the right user and session, with the right status."""
    world = World(carry=carry)
    async with world.log:
        await run(world)
        complaints = await world.complaints()
    assert not complaints, f"{len(complaints)}: {complaints[:8]}"
    assert len(world.book.truths) >= USERS
