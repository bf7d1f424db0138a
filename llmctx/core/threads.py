"""Blocking work beside an event loop, in a daemon thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run_in_daemon_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own, for what reads much. Not in an executor: the interpreter would wait for it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, problem: BaseException | None) -> None:
        if future.cancelled():
            return
        if problem is not None:
            future.set_exception(problem)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # there was no problem, so it is one

    def run() -> None:
        result: T | None = None
        problem: BaseException | None = None
        try:
            result = work()
        except Exception as found:  # noqa: BLE001  it goes to the caller
            problem = found
        try:
            loop.call_soon_threadsafe(tell, result, problem)
        except RuntimeError:  # the loop is closed
            return

    threading.Thread(target=run, name="llmctx-aside", daemon=True).start()
    return await future
