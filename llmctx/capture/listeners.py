"""The call logs of this process that hear its calls: of several for one table only the first.

Two would write each call twice. There are several where a platform imports the application's module once for each graph
in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_started: Final[dict[object, tuple[object, Callable[[], object]]]] = {}
"""Call log -> what it writes into, and what lets it listen; in the order in which they were started."""


def add(call_log: object, target: object, listen: Callable[[], object]) -> None:
    """Let `call_log` listen, or wait for the one that listens for `target` now."""
    _started.setdefault(call_log, (target, listen))
    _let_first_listen()


def remove(call_log: object) -> None:
    """Let the next one for its target listen instead of `call_log`, which has ended."""
    _started.pop(call_log, None)
    _let_first_listen()


def _let_first_listen() -> None:
    targets = set()
    for target, listen in tuple(_started.values()):
        if target not in targets:
            listen()
        targets.add(target)
