"""The numbers of tasks: asyncio counts them, and names each `Task-12` that is given no name of its own.

Of two tasks the one with the lower number was created first; so a task is older than what was done in one with a higher
number.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from llmctx.identity.scope import Scope

_PREFIX: Final = "Task-"


def number_of(task: asyncio.Task[Any]) -> int:
    """Return the number of `task`; 0 if it has another name."""
    name = task.get_name()
    number = name[len(_PREFIX) :] if name.startswith(_PREFIX) else ""
    return int(number) if number.isdecimal() else 0


def number_at_work(scope: Scope) -> int:
    """Return the number of the task that runs here and now in `scope`, or of the scope's own; 0 if they have none."""
    running = asyncio.current_task() if asyncio._get_running_loop() is not None else None
    numbers = [number_of(task) for task in (running, scope.anchor.owner) if isinstance(task, asyncio.Task)]
    return max(numbers, default=0)
