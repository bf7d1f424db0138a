"""The background thread: takes ended calls, makes records of them, hands them to the sink.

One thread per process with an event loop of its own, so that nothing of ours ever runs on the application's loop or
in its executor. The way in is a deque: appending is all that the caller's thread does. The thread is woken only when
it sleeps; while calls keep coming it looks by itself, once per linger. Whoever puts a call in also sees whether the
thread has been silent for too long, and starts another one if it has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

from llmctx.capture.open_calls import OpenCall, OpenCalls
from llmctx.core.diagnostics import diagnostics
from llmctx.core.guard import harmless
from llmctx.core.locks import RecoverableLock
from llmctx.core.record import CallRecord, Sink, Source, without_snapshots
from llmctx.core.scheduling import Throttle, yield_gil
from llmctx.delivery.call_queue import LEAST_BYTES, CallQueue
from llmctx.delivery.pricing import Prices
from llmctx.delivery.redact import Redactor
from llmctx.delivery.registry_lookup import lookup_remote
from llmctx.delivery.row import Texts, bare_record_of, record_of, record_of_prompt
from llmctx.identity import remote
from llmctx.identity.registry.base import Registry, SharedRegistry
from llmctx.identity.resolution import UNDECIDED, reconsider
from llmctx.settings import Settings
from llmctx.storage.sanitize import clean

_HOUSEKEEPING_S: Final = 1.0
_LEDGER_S: Final = 60.0
_RESTART_S: Final = 0.5
_CHUNK: Final = 50  # records between two looks at everything else that runs in the loop
_SILENT_S: Final = 3.0  # it says something at least once per housekeeping
_ASKED: Final = 500  # calls of which a shared registry is asked at once


class Pipeline:
    """From an ended call to a record in the sink. Made by the application's thread, run by its own."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        make_sink: Callable[[], Sink],
        redactor: Redactor | None = None,
    ) -> None:
        self._settings = settings
        self._texts = Texts(settings.content, settings.snapshot_bytes, redactor)
        self._prices = Prices(settings.price_file)
        self._registry = registry
        self._make_sink = make_sink
        self._shared: SharedRegistry | None = registry if remote.is_shared(registry) else None
        self._queue = CallQueue(max(LEAST_BYTES, settings.memory_bytes // 2))
        self._in_hand: list[OpenCall] = []
        self._throttle = Throttle(settings.linger_ms / 1000)
        self._suspects: list[OpenCall] = []
        """Calls over which the thread has died once. If it does so again they are dropped."""
        self._beat = 0.0
        self._mark: Callable[[OpenCall], None] | None = None
        self._sink: Sink | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: asyncio.Event | None = None
        self._urgent: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._last: threading.Thread | None = None  # it may be about to end
        self._idle = self._stopping = self._asleep = False
        self._ready = threading.Event()
        self._starting = RecoverableLock(lost_s=30.0)  # a forked child's first calls may come from two threads at once
        self.open_calls: OpenCalls | None = None
        self.on_ledger: Callable[[], None] | None = None
        self.on_first_call: Callable[[], None] | None = None
        """Told when the thread is started by a call, in a forked child."""
        self._hurry = self.taken = self.refused = 0

    # -- from any thread --------------------------------------------------------------------------------------------

    def announce(self, call: OpenCall) -> None:
        """Hear of a call that starts, so that it is known even if the process dies. Waits for nothing, never raises."""
        try:
            if self._asleep:
                self._start_once()
            if self._mark is not None:
                self._mark(call)
        except Exception as problem:  # noqa: BLE001  the call must go on
            diagnostics.count("journal_start_failed", "a start marker could not be written to the journal", exc=problem)

    def put(self, call: OpenCall) -> None:
        """Take an ended call. Waits for nothing."""
        self._queue.put(call)
        if self._idle:
            self._wake()
        elif time.monotonic() - self._beat > _SILENT_S:
            self.look_after()

    def look_after(self) -> None:
        """Start the thread again if it has died without a word."""
        with self._starting:
            self._beat, beaten = time.monotonic(), self._beat
            if beaten and not self._stopping and not self._asleep and not self.running:
                diagnostics.count("pipeline_died", "the pipeline's thread has died and is restarted")
                with contextlib.suppress(RuntimeError):  # no thread is to be had: whoever comes next tries again
                    self.start(wait=False)

    def start(self, *, wait: bool = True) -> None:
        """Start the thread; once it runs, return."""
        if (last := self._last) is not None:
            last.join(_RESTART_S if self._stopping else 0.0)
            if last.is_alive():  # two would be in each other's way
                self._thread, self._stopping = last, False
                return
        ready = self._ready = threading.Event()
        self._beat = time.monotonic()
        self._stopping = self._asleep = False
        self._last = threading.Thread(target=self._main, args=(ready,), name="llmctx-pipeline", daemon=True)
        self._thread = self._last
        self._thread.start()
        if wait:
            ready.wait(5.0)  # and no longer, whatever the disk does: the application is starting

    def start_when_needed(self) -> None:
        """Start with the first call, without waiting for the thread: a forked child may never make one."""
        self._asleep = self._idle = True
        if self._shared is not None:
            self._shared.on_news = self._start_once  # others are to know its threads all the same

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Calls that have ended and are not in the sink's hands, or wait in the sink."""
        return len(self._queue) + len(self._queue.refused) + len(self._in_hand) + getattr(self._sink, "waiting", 0)

    @property
    def sink(self) -> Sink | None:
        return self._sink

    def drain(self, timeout_s: float) -> Future[int] | None:
        """Ask for everything to be written, at most for so long. The future tells how many are left."""
        self.look_after()
        if self.running and not self._ready.wait(min(timeout_s, 5.0)):
            return None
        loop = self._loop
        if loop is None or not self.running:
            return None
        draining = self._drain(timeout_s)
        try:
            return asyncio.run_coroutine_threadsafe(draining, loop)
        except RuntimeError:  # the loop has just closed
            draining.close()
            return None

    def stop(self, timeout_s: float) -> None:
        """End the thread, whatever is left: that goes into the journal."""
        thread = self._ask_to_stop()
        if thread is not None:
            thread.join(timeout_s)

    async def astop(self, timeout_s: float) -> None:
        """`stop` for coroutines. Never raises."""
        thread = self._ask_to_stop()
        deadline = time.monotonic() + timeout_s
        # polled: waiting in a thread would take one of the application's
        while thread is not None and thread.is_alive() and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    @harmless("close_failed")
    def _ask_to_stop(self) -> threading.Thread | None:
        self._stopping = True
        thread, loop, self._thread = self._thread, self._loop, None
        if thread is not None and loop is not None and thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has just closed by itself
                loop.call_soon_threadsafe(self._set_work, self._urgent)
        return thread

    def _wake(self) -> None:
        self._idle = False
        if self._asleep:
            self._start_once()
        elif (loop := self._loop) is not None:
            with contextlib.suppress(RuntimeError):  # closing: close() drains what is left
                loop.call_soon_threadsafe(self._set_work)

    def _start_once(self) -> None:
        with self._starting:
            if self._asleep:
                self._open_sink()  # here and now: a child may leave at once, and its call is to be known all the same
                self.start(wait=False)
                if self.on_first_call is not None:
                    self.on_first_call()

    # -- in the pipeline's thread -----------------------------------------------------------------------------------

    def _set_work(self, *others: asyncio.Event | None) -> None:
        for event in filter(None, (self._work, *others)):
            event.set()

    def _main(self, ready: threading.Event) -> None:
        while not self._stopping:
            try:
                asyncio.run(self._run(ready))
            except BaseException as problem:  # noqa: BLE001  a thread has nobody to raise to, and nobody else writes
                diagnostics.count("pipeline_died", "the pipeline stopped and is restarted", exc=problem)
                time.sleep(_RESTART_S)
            finally:
                self._loop = None
                ready.set()
        if self._sink is not None:
            self._close_sink(self._sink)

    async def _run(self, ready: threading.Event) -> None:
        self._work, self._urgent = asyncio.Event(), asyncio.Event()
        self._recover()
        sink, self._loop = self._open_sink(), asyncio.get_running_loop()
        self._loop.set_exception_handler(diagnostics.count_loop_failure)
        run = getattr(sink, "run", None)
        background = None if run is None else asyncio.create_task(run(), name="llmctx-sink")
        talking = None if self._shared is None else asyncio.create_task(self._shared.run(), name="llmctx-registry")
        ready.set()
        next_ledger, next_look = time.monotonic() + _LEDGER_S, 0.0
        try:
            while not self._stopping:
                if not self._queue:
                    await self._rest()
                if self._queue:
                    await self._linger()
                await self._process(sink)
                now = self._beat = time.monotonic()
                if self.open_calls is not None and now > next_look:
                    next_look = now + _HOUSEKEEPING_S / 2
                    self.open_calls.sweep(self._settings.call_limit_s)
                    self._open_sink()  # its journal may have to be begun anew
                if now > next_ledger:
                    next_ledger += _LEDGER_S
                    if self.on_ledger is not None:
                        self.on_ledger()
                if background is not None and background.done():
                    self._report(background)
                    background = asyncio.create_task(run(), name="llmctx-sink")  # type: ignore[misc]  # not None here
                if talking is not None and self._shared is not None and talking.done():
                    self._report(talking, "registry")
                    talking = asyncio.create_task(self._shared.run(), name="llmctx-registry")
        finally:
            if self._stopping:
                self._close_sink(sink)
            for task in filter(None, (background, talking)):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
            if self._shared is not None:
                await self._shared.aclose()

    def _open_sink(self) -> Sink:
        """The sink, which outlives its thread: what waits in it is still to be written."""
        if self._sink is None:
            self._sink = self._make_sink()
        begin = getattr(self._sink, "open", None)
        if begin is not None and begin():
            self._mark = getattr(self._sink, "mark", None)
            if self._mark is not None and self.open_calls is not None:
                for call in self.open_calls.under_way():
                    self._mark(call)
        return self._sink

    def _close_sink(self, sink: Sink) -> None:
        """First what is left goes to the sink, without asking anybody: then its journal is complete."""
        while self._queue:
            self._take(sink, _CHUNK)
        self._mark = None
        getattr(sink, "close", lambda: None)()

    def _recover(self) -> None:
        """The thread has died, or begins: calls that it had in hand come first, unless they are what kills it."""
        guilty = [call for call in self._in_hand if call in self._suspects]
        self.taken, self.refused = self.taken + len(guilty), self.refused + len(guilty)
        self._suspects = [call for call in self._in_hand if call not in guilty]
        self._queue.extendleft(reversed(self._suspects))
        self._in_hand = []

    async def _linger(self) -> None:
        """Wait for company, and while the application needs the interpreter; but not while somebody waits for us."""
        assert self._urgent is not None
        linger_s = self._settings.linger_ms / 1000
        self._throttle.begin()
        while not self._hurry and not self._stopping:
            self._urgent.clear()
            due = time.monotonic() + linger_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), linger_s)
            self._beat = now = time.monotonic()
            if self._queue.overloaded or not self._throttle.should_wait(len(self._queue), now - due):
                return

    @staticmethod
    def _report(task: asyncio.Task[None], what: str = "writer") -> None:
        problem = None if task.cancelled() else task.exception()
        diagnostics.count(f"{what}_died", "the %s stopped and is restarted", what, exc=problem)

    async def _rest(self) -> None:
        """Sleep until a call comes, or until it is time to look after the open ones."""
        assert self._work is not None
        self._work.clear()
        self._idle = True
        if not self._queue:  # else one came before `_idle` was seen
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._work.wait(), _HOUSEKEEPING_S)
        self._idle = False

    async def _process(self, sink: Sink) -> None:
        queue = self._queue
        done = asked = 0
        while queue:
            most = _CHUNK
            if self._shared is not None:
                if done == asked:
                    asked += min(len(queue), _ASKED)
                    await lookup_remote(self._shared, [queue[number] for number in range(asked - done)])
                most = min(most, asked - done)
            done += self._take(sink, most)
            await asyncio.sleep(0)
        queue.overloaded = False

    def _take(self, sink: Sink, most: int) -> int:
        """Make records of at most so many calls, and give them to the sink. Returns how many there were."""
        queue, calls = self._queue, self._in_hand
        gone = queue.drain_refused(getattr(sink, "forget", None))
        self.taken, self.refused = self.taken + gone, self.refused + gone
        is_ours = hasattr(sink, "submit_all")
        if self._suspects or not is_ours:
            most = 1  # whichever it is that kills the thread, it shall not take others along
        while queue and len(calls) < most:
            calls.append(queue.popleft())
        records = []
        for call in calls:
            if (record := self._record(call)) is not None:
                records.append(record)
            yield_gil()
        # ours takes no call twice; and what is in nobody's hand would be lost with the thread
        self._in_hand = calls if is_ours else []
        handed = self._submitted(sink, records)
        self._in_hand = []
        if calls[0] in self._suspects:
            self._suspects.remove(calls[0])
        self.taken += len(calls)
        self.refused += len(calls) - handed
        return len(calls)

    @staticmethod
    def _submitted(sink: Sink, records: Sequence[CallRecord]) -> int:
        """Give `records` to the sink. Returns how many it has taken."""
        try:
            if hasattr(sink, "submit_all"):
                return len(records) - int(sink.submit_all(records))
            return sum(sink.submit(record) for record in records)
        except Exception as problem:  # noqa: BLE001  it may be the team's own
            diagnostics.count("sink_failed", "the sink raised: calls are lost", exc=problem)
            return 0

    def _record(self, call: OpenCall) -> CallRecord | None:
        bare = self._queue.is_without_texts(call)
        try:
            call.attribution = reconsider(
                call.attribution, call.candidates, self._registry, late_s=self._settings.late_s
            )
        except Exception as problem:  # noqa: BLE001  a registry may be the team's own
            if call.attribution.source is Source.THREAD:  # others, who were to be asked, may have used it as well
                call.attribution = UNDECIDED
            diagnostics.count(
                "registry_failed", "the registry failed: a row keeps the identity known at its start", exc=problem
            )
        for make in (record_of, record_of_prompt, bare_record_of):
            try:
                record = self._prices.priced(clean(make(call, self._texts)))
                if bare:
                    without_snapshots(record, "calls came faster than they could be made into rows")
                return record
            except Exception as problem:  # noqa: BLE001  one call must not stop the others
                diagnostics.count("record_failed", "a call could not be turned into a row", exc=problem)
        return None

    async def _drain(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        self._hurry += 1
        try:
            self._set_work(self._urgent)
            # polled: the deque is filled by other threads, which set no event
            while (self._queue or self._in_hand) and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            if self._shared is not None:
                await self._shared.publish(min(1.0, max(0.0, deadline - time.monotonic())))
            drain = getattr(self._sink, "drain", None)
            left: int = 0 if drain is None else await drain(max(0.0, deadline - time.monotonic()))
            return left + len(self._queue) + len(self._in_hand)
        finally:
            self._hurry -= 1
