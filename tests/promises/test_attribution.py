"""However a call leaves its request, its row carries the request's ids, and never somebody else's.

The table is `tests/scenarios`. Without `carry=True`, what nobody could know has no ids, and a reason. `make test` runs
a part of the table, each shape of it in one of the two modes; `make shapes` runs all of it in both, and once more on a
machine that is busy, with the garbage collector at work all the time.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil
import sys
import threading
from collections.abc import Iterator

import pytest

import tests.scenarios
from tests.scenarios import SHAPES, Shape
from tests.scenarios.world import USERS, World

for _module in pkgutil.iter_modules(tests.scenarios.__path__):
    if _module.name == "__main__":
        continue
    importlib.import_module(f"tests.scenarios.{_module.name}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cells = [(run, carry) for run in SHAPES.values() for carry in (False, True)]
    names = [f"{name}-{mode}" for name in SHAPES for mode in ("plain", "carry")]
    if not metafunc.config.getoption("--all-shapes"):
        # a seventh of it, in turns with and without carry: neighbours in the table are variants of each other
        chosen = range(0, len(cells), 7)
        cells, names = [cells[i] for i in chosen], [names[i] for i in chosen]
    metafunc.parametrize(("run", "carry"), cells, ids=names)


@pytest.fixture
def busy(request: pytest.FixtureRequest) -> Iterator[None]:
    """With `--busy`: another thread wants the interpreter all the time, and garbage is collected at odd moments."""
    if not request.config.getoption("--busy"):
        yield
        return
    over = threading.Event()

    def burn() -> None:
        while not over.is_set():
            sum(range(2_000))

    thread = threading.Thread(target=burn)
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(0.0005)
    gc.set_threshold(97, 2, 2)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)


async def test_every_call_is_attributed(run: Shape, carry: bool, busy: None) -> None:
    """Twenty users at once: each call is one row, of the right user and session, with the right status."""
    world = World(carry=carry)
    async with world.log:
        await run(world)
        complaints = await world.complaints()
    assert not complaints, f"{len(complaints)}: {complaints[:8]}"
    assert len(world.book.truths) >= USERS
