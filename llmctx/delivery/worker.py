"""The background thread: its event loop, its sleep, its watchdog, its end. What it does with calls is `pipeline.py`.

One thread per process with a loop of its own, so that nothing of ours ever runs on the application's loop or in its
executor. The way in is a deque: appending is all that the caller's thread does. The worker is woken only when it
sleeps; while calls keep coming it looks by itself, once per linger. The thread that puts a call in also sees whether
the worker has been silent for too long, and starts another one if it has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Final

from llmctx.capture.open_calls import OpenCall
from llmctx.core.diagnostics import diagnostics
from llmctx.core.guard import guard, guard_harmless
from llmctx.core.locks import RecoverableLock
from llmctx.core.pause import pause
from llmctx.core.process import is_left_alone
from llmctx.core.sigterm import is_ending, listen_for_end
from llmctx.core.threads import PIPELINE, DaemonThread, daemon_thread, outside_loop, wait_at_most
from llmctx.delivery.held_sink import HeldSink
from llmctx.delivery.lasting_task import LastingTask
from llmctx.delivery.linger import Linger
from llmctx.delivery.pipeline import Pipeline
from llmctx.delivery.sink import RecordingSink
from llmctx.settings import Settings

_HOUSEKEEPING_S: Final = 1.0
_LEDGER_S: Final = 60.0
_RESTART_S: Final = 0.5
_BUSY_S: Final = 30.0  # for calls that are not in the journal yet
_SILENT_S: Final = 3.0  # it says something at least once per housekeeping


def _all_that_wait(worker: Worker, *_: object) -> int:
    return worker.waiting


class Worker:
    """The thread of one call log in one process. Made by the application's thread."""

    def __init__(self, settings: Settings, pipeline: Pipeline, make_sink: Callable[[], RecordingSink]) -> None:
        self._settings = settings
        self.pipeline = pipeline
        self.held = HeldSink(pipeline, make_sink)
        self._queue = pipeline.queue
        self._shared = pipeline.shared_registry
        self._linger = Linger(settings.linger_ms / 1000)
        self._beat = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: asyncio.Event | None = None
        self._urgent: asyncio.Event | None = None
        self._thread: DaemonThread | None = None
        self._last: DaemonThread | None = None  # it may be about to end
        self._idle = self._stopping = self._asleep = False
        self._ready = threading.Event()
        """Its loop runs."""
        self._starting = RecoverableLock(lost_s=30.0)  # a forked child's first calls may come from two threads at once
        self._hurry = 0
        self.on_ledger: Callable[[], None] | None = None
        """Called once a minute."""
        self.on_look: Callable[[], None] | None = None
        """Called about once a second."""
        self.on_first_call: Callable[[], None] | None = None
        """Called when the thread is started by a call, in a forked child."""

    # -- from any thread --------------------------------------------------------------------------------------------

    def announce(self, call: OpenCall) -> None:
        """Mark a call that starts, so that it is known even if the process dies. Waits for nothing, never raises."""
        try:
            if self._asleep:
                self._start_once()
            self.held.mark(call)
        except Exception as problem:  # noqa: BLE001  the call must go on
            diagnostics.count("journal_start_failed", "a start marker could not be written to the journal", exc=problem)

    def put(self, call: OpenCall) -> None:
        """Take an ended call. Waits for nothing."""
        self._queue.put(call)
        if self._idle:
            self._wake()
        elif time.monotonic() - self._beat > _SILENT_S:
            self.ensure_running()

    def ensure_running(self) -> None:
        """Start the thread if it has died without a word, or could not be started."""
        with self._starting:
            self._beat, beaten = time.monotonic(), self._beat
            if not beaten or self._stopping or self._asleep or self.running:
                return
            has_died = self._thread is not None
            try:
                self.start(wait=False)
            except Exception as problem:  # noqa: BLE001  no thread is to be had
                diagnostics.count(
                    "pipeline_not_started",
                    "the pipeline's thread cannot be started: %s. Calls wait in memory; llmctx tries again.", problem,
                )  # fmt: skip
            else:
                if has_died:
                    diagnostics.count("pipeline_died", "the pipeline's thread had died and was restarted")

    def start(self, *, wait: bool = True) -> None:
        """Start the thread; once it runs, return. Where it cannot be started, raise: the next call tries again."""
        if (last := self._last) is not None:
            last.join(_RESTART_S if self._stopping else 0.0)
            if last.is_alive():  # two would be in each other's way
                self._thread, self._stopping = last, False
                return
        begun = threading.Event()
        self._ready.clear()
        self._beat = time.monotonic() - _SILENT_S + _RESTART_S
        self._stopping, self._last, self._thread = False, None, None
        thread = daemon_thread(self._main, begun, name=PIPELINE)
        thread.start()
        self._last = self._thread = thread
        self._beat = time.monotonic()
        self._asleep = False
        if wait:
            outside_loop(begun.wait)(5.0)  # and no longer, whatever the disk does: the application is starting

    async def wait_until_ready(self, timeout_s: float = 5.0) -> float:
        """Return once the thread's loop runs or there is none, after `timeout_s` at the latest: the seconds left."""
        deadline = time.monotonic() + timeout_s
        # polled: waiting in a thread would take one of the application's
        while self._begins() and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return max(0.0, deadline - time.monotonic())

    @guard_harmless("flush_failed", otherwise=lambda _: False)
    def _begins(self) -> bool:
        """Return whether there is a thread whose loop does not run yet: it may be loading the database's driver."""
        self.ensure_running()
        return self.running and not self._ready.is_set()

    def start_when_needed(self) -> None:
        """Start with the first call, without waiting for the thread: a forked child may never make one."""
        self._asleep = self._idle = True
        if self._shared is not None:
            self._shared.on_news = self._start_once  # others are to know its threads all the same

    @property
    def running(self) -> bool:
        """Return whether the thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Return the number of calls that have ended, and that neither the database nor a broker has."""
        return self.pipeline.waiting + self.held.waiting

    @property
    def sink(self) -> RecordingSink | None:
        """Return the sink, once it is made."""
        return self.held.sink

    def drain(self, timeout_s: float) -> Future[int] | None:
        """Ask a thread that is ready to store everything within `timeout_s` seconds. Never waits.

        The future's result is how many calls are left. None where no loop runs.
        """
        loop = self._loop
        if loop is None or not self.running:
            return None
        draining = self._drain(timeout_s)
        try:
            return asyncio.run_coroutine_threadsafe(draining, loop)
        except RuntimeError:  # the loop has just closed
            draining.close()
            return None

    def hasten(self, timeout_s: float, patience_s: float) -> None:
        """Start `drain`, and wait for the journal alone: the first rows take long, and the process may end at once."""
        deadline = time.monotonic() + patience_s
        if self.drain(timeout_s) is not None:
            while self.pipeline.is_busy and time.monotonic() < deadline:
                outside_loop(pause)(0.001)

    def flush(self, timeout_s: float) -> int:
        """Wait until the thread is ready, start `drain`, and wait for it. Return how many calls are left."""
        deadline = time.monotonic() + timeout_s
        while True:
            if self._begins():
                outside_loop(self._ready.wait)(max(0.0, deadline - time.monotonic()))
            left_s = max(0.0, deadline - time.monotonic())
            if (draining := self.drain(left_s)) is None:
                break
            try:
                return draining.result(left_s + 1.0)
            except (TimeoutError, CancelledError):  # or the thread has just ended: it may be about to start again
                if time.monotonic() > deadline:
                    break
        return self.waiting

    async def aflush(self, timeout_s: float) -> int:
        """Flush as `flush` does, for coroutines. Never raises."""
        left_s = await self.wait_until_ready(timeout_s)
        draining = self._begin_drain(left_s)
        if draining is not None:
            await asyncio.wait({draining}, timeout=left_s + 1.0)
        return self._drained(draining)

    @guard("flush_failed", "%s failed: rows are still being written")
    def _begin_drain(self, timeout_s: float) -> asyncio.Future[int] | None:
        draining = self.drain(timeout_s)
        return None if draining is None else asyncio.wrap_future(draining)

    @guard("flush_failed", "%s failed: rows are still being written", otherwise=_all_that_wait)
    def _drained(self, draining: asyncio.Future[int] | None) -> int:
        if draining is not None and draining.done() and not draining.cancelled() and draining.exception() is None:
            return draining.result()
        return self.waiting

    def stop(self, timeout_s: float) -> None:
        """End the thread, whatever is left: that goes into the journal."""
        thread = self._ask_to_stop()
        begun = time.monotonic()
        while thread is not None and thread.is_alive() and (left_s := self._patience_s(begun, timeout_s)) > 0:
            thread.join(left_s)
        self._take_the_rest(thread)

    async def astop(self, timeout_s: float) -> None:
        """Stop as `stop` does, for coroutines. Never raises."""
        thread = self._ask_to_stop()
        begun = time.monotonic()
        # polled: waiting in a thread would take one of the application's
        while thread is not None and thread.is_alive() and self._patience_s(begun, timeout_s) > 0:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        self._take_the_rest(thread)

    @guard_harmless("close_failed", otherwise=lambda self, begun, timeout_s: 0.0)
    def _patience_s(self, begun: float, timeout_s: float) -> float:
        """Return for how long to wait on for the thread, and then to ask again.

        What has not come into the journal when the process ends is lost: it may be loading the driver, or get little
        of a busy machine's time.
        """
        past_s = time.monotonic() - begun
        if past_s < timeout_s:
            return timeout_s - past_s
        return min(0.05, _BUSY_S - past_s) if self.pipeline.is_busy else 0.0

    @guard_harmless("close_failed")
    def _take_the_rest(self, thread: DaemonThread | None) -> None:
        """Bring calls into the journal that no thread was there to take."""
        if self.pipeline.is_busy and (thread is None or not thread.is_alive()):
            self.held.close_with_the_rest()

    @guard_harmless("close_failed")
    def _ask_to_stop(self) -> DaemonThread | None:
        self._stopping = True
        thread, loop, self._thread = self._thread, self._loop, None
        if thread is not None and loop is not None and thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has just closed by itself
                loop.call_soon_threadsafe(self._set_work, self._urgent)
        return thread

    def _wake(self) -> None:
        self._idle = False
        listen_for_end()  # here, for a server's handler is there by then, and calls are made in its own thread
        if self._asleep:
            self._start_once()
        elif (loop := self._loop) is not None:
            with contextlib.suppress(RuntimeError):  # closing: close() drains what is left
                loop.call_soon_threadsafe(self._set_work)

    def _start_once(self) -> None:
        with self._starting:
            if self._asleep:
                if self.on_first_call is not None:
                    self.on_first_call()
                self.held.open()  # here and now: a child may leave at once, and its call is to be known all the same
                self.start(wait=False)

    # -- in the thread ----------------------------------------------------------------------------------------------

    def _set_work(self, *others: asyncio.Event | None) -> None:
        for event in filter(None, (self._work, *others)):
            event.set()

    def _main(self, begun: threading.Event) -> None:
        while not self._stopping:
            try:
                # A loop that could not be made leaves itself open, and half of its socket pair: where sockets are
                # forbidden (pytest-socket), that is to be known before.
                socket.socket(getattr(socket, "AF_UNIX", socket.AF_INET)).close()
                # whatever the application debugs is not our loop, nor what it nests: libraries replace asyncio.run
                with asyncio.Runner(debug=False) as runner:
                    runner.get_loop()  # before there is a coroutine that it would have to run
                    runner.run(self._run(begun))
            except BaseException as problem:  # noqa: BLE001  a thread has no caller to raise to, and nothing else stores
                diagnostics.count("pipeline_died", "the pipeline stopped and is restarted", exc=problem)
                self._loop = None
                self._ready.clear()
                begun.set()
                pause(_RESTART_S)
            finally:
                self._loop = None
        self.held.close_with_the_rest()
        begun.set()
        self._ready.set()

    async def _run(self, begun: threading.Event) -> None:
        self._work, self._urgent = asyncio.Event(), asyncio.Event()
        self.pipeline.recover()
        sink, self._loop = self.held.open(), asyncio.get_running_loop()
        self._loop.set_exception_handler(diagnostics.count_loop_failure)
        lasting = [LastingTask("writer", sink.run, "llmctx-sink")]
        if self._shared is not None:
            lasting.append(LastingTask("registry", self._shared.run, "llmctx-registry"))
        self._ready.set()
        begun.set()
        next_ledger, next_look, is_up_to_date = time.monotonic() + _LEDGER_S, 0.0, True
        try:
            while not self._stopping:
                is_steady = self._linger.has_company and not self._hurry
                if not self._queue and not is_steady:
                    await self._rest()
                if is_up_to_date and (self._queue or is_steady):
                    await self._linger_for_company()
                is_up_to_date = await self.pipeline.process(sink)
                now = self._beat = time.monotonic()
                if now > next_look:
                    next_look = now + _HOUSEKEEPING_S / 2
                    await self._keep_house(sink)
                if now > next_ledger:
                    next_ledger += _LEDGER_S
                    if self.on_ledger is not None:
                        outside_loop(self.on_ledger)()
                for task in lasting:
                    task.ensure_running()
        finally:
            if self._stopping:
                self.held.close()
            for task in lasting:
                await task.cancel()
            if self._shared is not None:
                await self._shared.aclose()

    async def _keep_house(self, sink: RecordingSink) -> None:
        if self.held.open_calls is not None:
            outside_loop(self.held.open_calls.sweep)(self._settings.call_limit_s)
        self.held.open()  # its journal may have to be begun anew
        if self.on_look is not None:
            outside_loop(self.on_look)()
        if outside_loop(is_left_alone)():  # end with the process, which only this thread keeps alive
            if self.held.open_calls is not None:
                outside_loop(self.held.open_calls.close)()
            while not await self.pipeline.process(sink):
                pass
            await sink.drain(self._settings.shutdown_timeout_s)
            self._stopping = True

    async def _linger_for_company(self) -> None:
        """Wait for more calls, and while the application needs the interpreter; not while a `drain` waits for us."""
        assert self._urgent is not None
        self._linger.begin()
        while not (self._hurry or self._stopping or is_ending()):
            self._urgent.clear()
            await wait_at_most(self._urgent, self._linger.next_s())
            self._beat = time.monotonic()
            if self._queue.is_overloaded or self._linger.is_over(len(self._queue)):
                break
        self._linger.end(len(self._queue))

    async def _rest(self) -> None:
        """Sleep until a call comes, or until it is time to look after the open ones."""
        assert self._work is not None
        self._work.clear()
        self._idle = True
        if not self._queue:  # else one came before `_idle` was seen
            await wait_at_most(self._work, _HOUSEKEEPING_S)
        self._idle = False

    async def _drain(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        self._hurry += 1
        try:
            self._set_work(self._urgent)
            # polled: the deque is filled by other threads, which set no event
            while self.pipeline.is_busy and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            if self._shared is not None:
                await self._shared.publish(min(1.0, max(0.0, deadline - time.monotonic())))
            sink = self.held.sink
            left = 0 if sink is None else await sink.drain(max(0.0, deadline - time.monotonic()))
            return left + len(self._queue) + self.pipeline.in_progress
        finally:
            self._hurry -= 1
