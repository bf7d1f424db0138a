"""The execution shapes in which a LangChain or LangGraph application can call a model, in one table.

A scenario is an async function that takes a `World` and makes calls. `@shape` enters it in `SHAPES` under the name of
its module and its own (`threads:bare_thread`); `enter` does so for variants that are made in a loop. There are no tests
in this folder: `promises/test_attribution.py` runs every entry twice, with and without `carry=True`, and holds each row
against what the scenario said of the call.

`World` (`world.py`) is what one run has: twenty users, each with a session and a LangGraph thread, a call log with a
sink in memory (`world.log`, `world.sink`), an executor, a graph with wrapped nodes and one with bare ones, a book.
    - `each(do)` runs `do(user)` for all users at once, so that their waits interleave.
    - `through(endpoint)` does so inside a request of each user, behind `ContextMiddleware`.
    - `detach(coroutine)` starts a task that no request waits for; the world waits for it in the end.
    - `complaints()` waits for everything, flushes, and says what is wrong with the rows. None is what is wanted.

`Book` (`kit/support.py`) holds the truth. Every prompt comes from `world.prompt(user, status, known=...)`: it carries a
number by which its row is found again, and the book notes whose call it is and how it will end. `None` for the user
means that no user owns it. `held_against(rows)` demands exactly one row for each prompt, with the user, the session and
the status that were noted; a row without ids must give a reason.

`Known` says who can know whose call it is:
    - "always": some source tells, in whatever mode. Missing ids are a failure.
    - "carried": only `carry=True` tells. Without it the row has the right ids, or none and a reason; never another's.
    - "never": without `carry=True` nothing tells, not even that the call is no user's: a bare prompt handed to a worker
      that was started inside some request. With `carry=True` even that row must be right.

`kept_by(open_calls)` lists what a call log still holds of calls that have ended. Scenarios that cancel or abandon calls
assert that it is empty: whatever happened, no run, task or twin stays in memory.
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
