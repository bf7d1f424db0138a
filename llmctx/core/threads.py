"""Blocking work and event loops: in a daemon thread beside the loop, or in the loop's own thread while it stands."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from llmctx.core.pause import pause

PIPELINE: Final = "llmctx-pipeline"
"""The name of the thread in which nothing but the pipeline runs."""
_START_S: Final = 2.0
_NO_MEMORY_S: Final = 0.1  # between two attempts to tell a loop something for which there is no memory

P = ParamSpec("P")
T = TypeVar("T")


class _Thread(threading.Thread):
    """A daemon thread whose start returns: Python waits for ever for one that dies before it says that it runs.

    That is what becomes of a thread for which the system has room, and Python no memory.
    """

    def __init__(self, target: Callable[..., object], args: tuple[object, ...], name: str) -> None:
        super().__init__(target=target, args=args, name=name, daemon=True)
        self._turn = threading.Lock()
        self._is_given_up = False

    def start(self) -> None:
        """Start it, or raise RuntimeError; then it does nothing, should it begin after all."""
        begun: threading.Event = self._started  # type: ignore[attr-defined]  # Python's own, of any version
        begun.wait = functools.partial(begun.wait, _START_S)  # type: ignore[method-assign]  # for `start` below
        super().start()
        with self._turn:
            self._is_given_up = not begun.is_set()
        if self._is_given_up:
            raise RuntimeError("can't start new thread")

    def run(self) -> None:
        with self._turn:
            if self._is_given_up:
                return
        super().run()


class _NativeThread:
    """A daemon thread of the operating system where gevent has made greenlets of those of `threading`.

    In a greenlet the pipeline's event loop would be the running one of the application's as well.
    """

    def __init__(self, target: Callable[..., object], args: tuple[object, ...], name: str) -> None:
        self._target, self._args, self._name = target, args, name
        self._alive = False

    def start(self) -> None:
        self._alive = True
        sys.modules["gevent.monkey"].get_original("_thread", "start_new_thread")(self._run, ())

    def _run(self) -> None:
        try:
            threading.current_thread().name = self._name
            self._target(*self._args)
        finally:
            self._alive = False

    def is_alive(self) -> bool:
        return self._alive

    def join(self, timeout: float | None = None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._alive and (deadline is None or time.monotonic() < deadline):
            pause(0.002)  # gevent's: other greenlets run meanwhile


DaemonThread = threading.Thread | _NativeThread


def daemon_thread(target: Callable[..., object], *args: object, name: str) -> DaemonThread:
    """Return a daemon thread, not started yet: one of the operating system, whatever is patched."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return _NativeThread(target, args, name)
    return _Thread(target, args, name)


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
        while True:
            try:
                loop.call_soon_threadsafe(tell, result, problem)
            except MemoryError:  # there will be some, and the loop waits
                pause(_NO_MEMORY_S)
            except RuntimeError:  # the loop is closed
                return
            else:
                return

    daemon_thread(run, name="llmctx-aside").start()
    return await future


def outside_loop(work: Callable[P, T]) -> Callable[P, T]:
    """Return `work`, synchronous, so that it runs as if its thread had no running event loop.

    For the pipeline's thread: watchdogs of blocking calls (blockbuster, which `langgraph dev` starts) raise in any
    thread with a running loop, but files, pauses and locks keep nothing waiting there that is not ours. `work` must
    not start tasks.
    """

    @functools.wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio._get_running_loop()
        if loop is None:
            return work(*args, **kwargs)
        asyncio._set_running_loop(None)
        try:
            return work(*args, **kwargs)
        finally:
            asyncio._set_running_loop(loop)

    return run


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Wait until `event` is set, which it is after `seconds`: a deadline that raises costs more turns of the loop."""
    timer = asyncio.get_running_loop().call_later(seconds, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()
