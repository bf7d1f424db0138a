"""The numbers of tasks: asyncio counts them, and names each `Task-12` that is given no name of its own.

Of two tasks the one with the lower number was created first; so a task is older than what was done in one with a higher
number. A request notes at its end how far asyncio has counted: what was created later may be the work of a timer, or of
another callback, that has inherited the request's context and starts tasks for all.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from llmctx.identity.scope import Scope

_PREFIX: Final = "Task-"
_DIGITS: Final = 20
"""Python makes no number of a text of more than 4300, and asyncio none of so many."""


def number_of(task: asyncio.Task[Any]) -> int:
    """Return the number of `task`; 0 if it has another name."""
    name = task.get_name()
    number = name[len(_PREFIX) :] if name.startswith(_PREFIX) else ""
    return int(number) if number.isdecimal() and len(number) < _DIGITS else 0


def number_at_work(scope: Scope) -> int:
    """Return the number of the task that runs here and now in `scope`, or of the scope's own; 0 if they have none."""
    running = asyncio.current_task() if asyncio._get_running_loop() is not None else None
    numbers = [number_of(task) for task in (running, scope.anchor.owner) if isinstance(task, asyncio.Task)]
    return max(numbers, default=0)


class _NoLoop:
    """A loop that runs nothing."""

    def get_debug(self) -> bool:
        return False

    def call_soon(self, *_: object, **__: object) -> None:
        return None


async def _nothing() -> None:
    """Be what a task is made of that never runs."""


_NO_LOOP: Final[Any] = _NoLoop()
_NOTHING: Final = _nothing()
_NOTHING.close()


def note_end(scope: Scope) -> None:
    """Note how many tasks there were when `scope` closed."""
    task = asyncio.Task(_NOTHING, loop=_NO_LOOP)
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is neither run nor missed
    scope.tasks_at_end = number_of(task)


def is_made_later(task: asyncio.Task[Any], scope: Scope) -> bool:
    """Return whether `task` was created when the request of `scope` was over."""
    return 0 < scope.anchor.tasks_at_end < number_of(task)
