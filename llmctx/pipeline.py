"""The background thread: takes ended calls, makes records of them, hands them to the sink.

One thread per process with an event loop of its own, so that nothing of ours ever runs on the application's loop or
in its executor. The way in is a deque: appending is all that the caller's thread does. The thread is woken only when
it sleeps; while calls keep coming it looks by itself, once per linger.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Final, Protocol

from llmctx import elsewhere
from llmctx.attribution import Hearing, Verdict, reconsider
from llmctx.cleaning import clean
from llmctx.incidents import incidents
from llmctx.open_calls import OpenCall, OpenCalls
from llmctx.record import CallRecord, Sink, Source
from llmctx.recording import bare_record_of, record_of
from llmctx.registry.base import Registry, SharedRegistry
from llmctx.settings import Settings

_HOUSEKEEPING_S: Final = 1.0
_LEDGER_S: Final = 60.0
_RESTART_S: Final = 0.5
_CHUNK: Final = 50  # records between two looks at everything else that runs in the loop
_ASKED: Final = 500  # calls of which a shared registry is asked at once


class Background(Protocol):
    """A sink with work of its own, done in the pipeline's loop."""

    waiting: int

    async def run(self) -> None: ...
    async def drain(self, timeout_s: float) -> int: ...


class Pipeline:
    """From an ended call to a record in the sink. Made by the application's thread, run by its own."""

    def __init__(self, settings: Settings, registry: Registry, make_sink: Callable[[], Sink]) -> None:
        self._settings = settings
        self._registry = registry
        self._make_sink = make_sink
        self._shared: SharedRegistry | None = registry if elsewhere.is_shared(registry) else None
        self._queue: deque[OpenCall] = deque()
        self._in_hand = 0
        self._sink: Sink | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: asyncio.Event | None = None
        self._urgent: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._idle = False
        self._hurry = 0
        self._stopping = False
        self._asleep = False
        self._ready = threading.Event()
        self._starting = threading.RLock()  # a forked child's first calls may come from two threads at once
        self.open_calls: OpenCalls | None = None
        self.on_ledger: Callable[[], None] | None = None
        self.on_first_call: Callable[[], None] | None = None
        """Told when the thread is started by a call, in a forked child."""
        self.taken = 0
        self.refused = 0

    # -- from any thread --------------------------------------------------------------------------------------------

    def put(self, call: OpenCall) -> None:
        """Take an ended call. Waits for nothing."""
        self._queue.append(call)
        if self._idle:
            self._wake()

    def start(self, *, wait: bool = True) -> None:
        """Start the thread; once it runs, return."""
        ready = self._ready = threading.Event()
        self._stopping = self._asleep = False
        self._thread = threading.Thread(target=self._main, args=(ready,), name="llmctx-pipeline", daemon=True)
        self._thread.start()
        if wait:
            ready.wait()

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
        return len(self._queue) + self._in_hand + getattr(self._sink, "waiting", 0)

    @property
    def sink(self) -> Sink | None:
        return self._sink

    def drain(self, timeout_s: float) -> Future[int] | None:
        """Ask for everything to be written, at most for so long. The future tells how many are left."""
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
        """End the thread, whatever is left."""
        thread, loop = self._thread, self._loop
        if thread is None:
            return
        self._stopping = True
        if loop is not None and thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has just closed by itself
                loop.call_soon_threadsafe(self._hasten)
        thread.join(timeout_s)
        self._thread = None

    def _wake(self) -> None:
        self._idle = False
        loop = self._loop
        if self._asleep:
            self._start_once()
        elif loop is not None:
            with contextlib.suppress(RuntimeError):  # closing: close() drains what is left
                loop.call_soon_threadsafe(self._set_work)

    def _start_once(self) -> None:
        with self._starting:
            if self._asleep:
                self.start(wait=False)
                if self.on_first_call is not None:
                    self.on_first_call()

    # -- in the pipeline's thread -----------------------------------------------------------------------------------

    def _set_work(self) -> None:
        if self._work is not None:
            self._work.set()

    def _hasten(self) -> None:
        self._set_work()
        if self._urgent is not None:
            self._urgent.set()

    def _main(self, ready: threading.Event) -> None:
        while not self._stopping:
            try:
                asyncio.run(self._run(ready))
            except BaseException as problem:  # noqa: BLE001  a thread has nobody to raise to, and nobody else writes
                incidents.note("pipeline_died", "the pipeline stopped and is started again", exc=problem)
                time.sleep(_RESTART_S)
            finally:
                self._loop = None
                ready.set()

    async def _run(self, ready: threading.Event) -> None:
        self._work, self._urgent = asyncio.Event(), asyncio.Event()
        self._in_hand = 0
        if self._sink is None:  # a sink outlives its thread: what waits in it is still to be written
            self._sink = self._make_sink()
        sink = self._sink
        self._loop = asyncio.get_running_loop()
        run = getattr(sink, "run", None)
        background = None if run is None else asyncio.create_task(run(), name="llmctx-writer")
        talking = None if self._shared is None else asyncio.create_task(self._shared.run(), name="llmctx-registry")
        ready.set()
        next_ledger = time.monotonic() + _LEDGER_S
        next_look = 0.0
        try:
            while not self._stopping:
                if not self._queue:
                    await self._rest()
                else:
                    await self._linger()
                await self._process(sink)
                now = time.monotonic()
                if self.open_calls is not None and now > next_look:
                    next_look = now + _HOUSEKEEPING_S / 2
                    self.open_calls.sweep(self._settings.call_limit_s)
                if now > next_ledger:
                    next_ledger += _LEDGER_S
                    if self.on_ledger is not None:
                        self.on_ledger()
                if background is not None and background.done():
                    self._report(background)
                    background = asyncio.create_task(run(), name="llmctx-writer")  # type: ignore[misc]  # not None here
                if talking is not None and self._shared is not None and talking.done():
                    self._report(talking, "registry")
                    talking = asyncio.create_task(self._shared.run(), name="llmctx-registry")
        finally:
            for task in filter(None, (background, talking)):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
            if self._shared is not None:
                await self._shared.aclose()

    async def _linger(self) -> None:
        """Wait for company, but not while somebody waits for us."""
        assert self._urgent is not None
        if self._hurry or self._stopping:
            return
        self._urgent.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._urgent.wait(), self._settings.linger_ms / 1000)

    @staticmethod
    def _report(task: asyncio.Task[None], what: str = "writer") -> None:
        problem = None if task.cancelled() else task.exception()
        incidents.note(f"{what}_died", "the %s stopped and is started again", what, exc=problem)

    async def _rest(self) -> None:
        """Sleep until a call comes, or until it is time to look after the open ones."""
        assert self._work is not None
        self._work.clear()
        self._idle = True
        if self._queue:  # it came before `_idle` was seen
            self._idle = False
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._work.wait(), _HOUSEKEEPING_S)
        self._idle = False

    async def _process(self, sink: Sink) -> None:
        queue = self._queue
        done = asked = 0
        while queue:
            if done == asked and self._shared is not None:
                asked += min(len(queue), _ASKED)
                await self._ask(self._shared, [queue[number] for number in range(asked - done)])
            call = queue.popleft()
            self._in_hand = 1
            self.taken += 1
            record = self._record(call)
            if record is None or not self._submitted(sink, record):
                self.refused += 1
            self._in_hand = 0
            done += 1
            if done % _CHUNK == 0:
                await asyncio.sleep(0)

    @staticmethod
    async def _ask(registry: SharedRegistry, calls: Sequence[OpenCall]) -> None:
        """Let the registry learn from other processes what these calls lack, in one round trip."""
        unknown = [call.hearing for call in calls if _others_may_tell(call.verdict, call.hearing)]
        if not unknown:
            return
        threads = {hearing.thread_id for hearing in unknown if hearing.thread_id is not None}
        tasks = {hearing.task for hearing in unknown if hearing.task is not None}
        since = max((hearing.started for hearing in unknown if hearing.own is not True), default=0.0)
        try:
            answered = await registry.exchange(threads=threads, tasks=tasks, since=since)
        except Exception as problem:  # noqa: BLE001  a registry may be the team's own
            incidents.note("registry_failed", "the shared registry failed: rows do without", exc=problem)
            answered = False
        for hearing in unknown:
            hearing.answered = answered

    @staticmethod
    def _submitted(sink: Sink, record: CallRecord) -> bool:
        try:
            return sink.submit(record)
        except Exception as problem:  # noqa: BLE001  it may be the team's own
            incidents.note("sink_failed", "the sink raised: a call is lost", exc=problem)
            return False

    def _record(self, call: OpenCall) -> CallRecord | None:
        settings = self._settings
        try:
            call.verdict = reconsider(call.verdict, call.hearing, self._registry, late_s=settings.late_s)
        except Exception as problem:  # noqa: BLE001  a registry may be the team's own
            incidents.note(
                "registry_failed", "the registry failed: a row stays as it was known at its start", exc=problem
            )
        for make in (partial(record_of, content=settings.content, limit=settings.snapshot_bytes), bare_record_of):
            try:
                return clean(make(call))
            except Exception as problem:  # noqa: BLE001  one call must not stop the others
                incidents.note("record_failed", "a call could not be made into a row", exc=problem)
        return None

    async def _drain(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        self._hurry += 1
        try:
            self._hasten()
            # polled: the deque is filled by other threads, which set no event
            while (self._queue or self._in_hand) and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            if self._shared is not None:
                await self._shared.publish(min(1.0, max(0.0, deadline - time.monotonic())))
            drain = getattr(self._sink, "drain", None)
            left: int = 0 if drain is None else await drain(max(0.0, deadline - time.monotonic()))
            return left + len(self._queue) + self._in_hand
        finally:
            self._hurry -= 1


def _others_may_tell(verdict: Verdict, hearing: Hearing) -> bool:
    """Whether other processes may know what is missing, or object to what only this one says of the thread."""
    if hearing.thread_id is None and hearing.task is None:
        return False
    who = verdict.identity
    return who.user_id is None or who.session_id is None or verdict.source is Source.THREAD
