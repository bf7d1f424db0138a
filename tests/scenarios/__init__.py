"""The execution shapes in which a LangChain or LangGraph application can call a model, in one table.

Each shape is driven by twenty users at once whose waits interleave. Each prompt carries its owner, and says who can
know it (`tests.kit.support.Known`); `promises/test_attribution.py` holds every row against it, with and without
`carry=True`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.scenarios.world import World

Shape = Callable[["World"], Awaitable[None]]

SHAPES: Final[dict[str, Shape]] = {}


def shape(run: Shape) -> Shape:
    """Enter `run` into the table, under its family (the name of its module) and its own name."""
    return enter(run.__name__, run, family=run.__module__)


def enter(name: str, run: Shape, *, family: str) -> Shape:
    """`shape`, for variants that are made in a loop."""
    key = f"{family.rsplit('.', 1)[-1]}:{name}"
    assert key not in SHAPES, f"two shapes are called {key}"
    SHAPES[key] = run
    return run
