"""A task that runs as long as its loop: where it ends, that is counted, and it is started again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from llmctx.core.diagnostics import diagnostics


class LastingTask:
    """Run `run()` in the running loop, again whenever `ensure_running` finds it ended. `what` names it in the log."""

    def __init__(self, what: str, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._what, self._run, self._name = what, run, name
        self._task = self._start()

    def _start(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._run(), name=self._name)

    def ensure_running(self) -> None:
        """Start it again if it has ended."""
        if self._task.done():
            problem = None if self._task.cancelled() else self._task.exception()
            diagnostics.count(f"{self._what}_died", "the %s stopped and is restarted", self._what, exc=problem)
            self._task = self._start()

    async def cancel(self) -> None:
        """End it, and wait until it has ended."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task
