"""CallLog: the one object an application makes. Owns settings, registry, pipeline and handler, and starts them.

The constructor only stores. `start` (or `async with`, or `lifespan`) starts the pipeline's thread and lets the handler
hear every LLM call of the process; `close` undoes both and waits for the database, but never for long.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from llmctx import carrying, handover
from llmctx.attribution import decide, hear
from llmctx.context import EMPTY, ID_FIELDS, CallContext, current_scope
from llmctx.extract import failure_of, prompt_of_text
from llmctx.handler import CallLogHandler, Recorder, hear_everything, hear_nothing
from llmctx.handler import active as active_recorders
from llmctx.incidents import incidents
from llmctx.open_calls import OpenCall, OpenCalls
from llmctx.pipeline import Pipeline
from llmctx.record import COLUMNS, Sink, Status
from llmctx.registry import Registry, registry_of
from llmctx.registry.base import active as active_registries
from llmctx.settings import Settings, load, shown_url

_alive: Final[weakref.WeakSet[CallLog]] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Stats:
    """The ledger, and what went wrong. At rest `started == written + waiting + quarantined + dropped`."""

    started: int
    """Calls that have started, ever."""
    written: int
    """Rows that the database has."""
    waiting: int
    """Calls that are open, or on their way."""
    quarantined: int
    """Rows that the database refuses for what is in them."""
    dropped: int
    """Calls that have no row and will have none."""
    open: int
    """Of the waiting ones, those that have not ended yet."""
    trouble: str | None = None
    """Why rows wait for the database; None while all is well."""
    incidents: Mapping[str, int] = field(default_factory=dict)
    """How often what went wrong, by cause."""

    @property
    def balanced(self) -> bool:
        return self.started == self.written + self.waiting + self.quarantined + self.dropped


class CallLog:
    """Records the LLM calls of this process.

        call_log = CallLog("postgresql+asyncpg://…")
        app = FastAPI(lifespan=call_log.lifespan)

    Args:
        database_url: where the rows go; by default `LLMCTX_DATABASE_URL`, else a SQLite file.
        sink: somewhere else to put the records, for tests (`llmctx.testing.MemorySink`).
        registry: thread_id -> identity; by default in memory, or in the Redis of `LLMCTX_REGISTRY_URL`.
        settings: any of `llmctx.settings.Settings`, by name.

    Raises `ConfigError` for a setting that cannot be used. A database that is away, or a table that is missing, is no
    error: rows wait, and the log says why.
    """

    def __init__(
        self,
        database_url: str | None = None,
        *,
        sink: Sink | None = None,
        registry: Registry | None = None,
        **settings: Any,
    ) -> None:
        self.settings: Settings = load(database_url=database_url, **settings)
        self.registry: Registry = registry if registry is not None else registry_of(self.settings)
        self._sink = sink
        self._pipeline, open_calls = self._make_pipeline()
        self._recorder = Recorder(
            open_calls, self.registry, snapshot_bytes=self.settings.snapshot_bytes, late_s=self.settings.late_s
        )
        self.handler = CallLogHandler(recorder=self._recorder)
        """For `callbacks=`, where `capture="explicit"`."""
        self._started = False
        self._starts = 0
        self._exit_s: float | None = None
        """What is left of `shutdown_timeout_s` when the interpreter ends."""

    def __repr__(self) -> str:
        state = "started" if self._started else "not started"
        return f"<CallLog {shown_url(self.settings.database_url)} {state}>"

    def _make_pipeline(self) -> tuple[Pipeline, OpenCalls]:
        pipeline = Pipeline(self.settings, self.registry, self._make_sink)
        open_calls = OpenCalls(pipeline.put)
        pipeline.open_calls = open_calls
        pipeline.on_ledger = self._log_ledger
        pipeline.on_first_call = self._close_with_the_child
        return pipeline, open_calls

    def _make_sink(self) -> Sink:
        if self._sink is not None:
            return self._sink
        from llmctx.writer import Writer  # late: a call log with a sink of its own needs no database driver

        return Writer(self.settings)

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start recording. Starting what is started does nothing; each `start` wants its `close`."""
        self._starts += 1
        if self._started:
            return self
        self._pipeline.start()
        self._started = True
        self._recorder.enabled = True
        active_recorders.append(self._recorder)
        active_registries.append(self.registry)
        if self.settings.capture == "all":
            hear_everything(self._recorder, self.handler)
        if self.settings.carry:
            carrying.install(self)
        handover.configure(self.settings.handover_key, self.settings.handover_invalid)
        _alive.add(self)
        return self

    def close(self, timeout: float | None = None) -> int:
        """Stop recording, wait for what is on its way, at most `timeout` seconds. Returns the calls left."""
        if not self._stop_hearing():
            return 0
        left = self.flush(timeout)
        self._pipeline.stop(1.0)
        return self._closed(left)

    async def aclose(self, timeout: float | None = None) -> int:  # noqa: ASYNC109  it is what close() has
        """`close` for coroutines: waits without holding up the event loop."""
        if not self._stop_hearing():
            return 0
        left = await self.aflush(timeout)
        self._pipeline.stop(1.0)
        return self._closed(left)

    def _stop_hearing(self) -> bool:
        """True for the last of as many `close` as there were `start`."""
        if not self._started:
            return False
        self._starts -= 1
        if self._starts > 0:
            return False
        self._started = False
        self._recorder.enabled = False
        if self._recorder in active_recorders:
            active_recorders.remove(self._recorder)
        if self.registry in active_registries:
            active_registries.remove(self.registry)
        hear_nothing(self._recorder)
        carrying.remove(self)
        self._recorder.open_calls.close()
        _alive.discard(self)
        return True

    def _closed(self, left: int) -> int:
        if left:
            incidents.note("closed_with_rows_left", "closed, and %d calls have not reached the database", left)
        return left

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """`FastAPI(lifespan=call_log.lifespan)`; in a lifespan of one's own, `async with call_log` does the same."""
        async with self:
            yield

    # -- waiting, and counting ----------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> int:
        """Wait until every call that has ended is in the database. Returns how many are not when time is up.

        `timeout` is in seconds, by default `shutdown_timeout_s`. Calls that are still open are not waited for.
        """
        timeout = self.settings.shutdown_timeout_s if timeout is None else timeout
        draining = self._pipeline.drain(timeout)
        if draining is None:
            return self._pipeline.waiting
        try:
            return draining.result(timeout + 1.0)
        except (TimeoutError, CancelledError):  # cancelled: the pipeline has just ended
            return self._pipeline.waiting

    async def aflush(self, timeout: float | None = None) -> int:  # noqa: ASYNC109  it is what flush() has
        """`flush` for coroutines."""
        timeout = self.settings.shutdown_timeout_s if timeout is None else timeout
        draining = self._pipeline.drain(timeout)
        if draining is None:
            return self._pipeline.waiting
        done, _ = await asyncio.wait({asyncio.wrap_future(draining)}, timeout=timeout + 1.0)
        for future in done:
            if not future.cancelled() and future.exception() is None:
                return future.result()
        return self._pipeline.waiting

    def stats(self) -> Stats:
        """The ledger as it stands. Exact at rest; while calls are on their way, counts may be one apart."""
        pipeline, calls = self._pipeline, self._recorder.open_calls
        sink = pipeline.sink
        waiting = pipeline.waiting
        quarantined = getattr(sink, "quarantined", 0)
        written = getattr(sink, "written", None)
        still_open = len(calls)
        return Stats(
            started=calls.started,
            written=pipeline.taken - pipeline.refused if written is None else written,
            waiting=waiting + still_open,
            quarantined=quarantined,
            dropped=pipeline.refused,
            open=still_open,
            trouble=getattr(sink, "trouble", None),
            incidents=dict(incidents.counts),
        )

    def _log_ledger(self) -> None:
        """Once a minute, but only while something is wrong."""
        stats = self.stats()
        if stats.trouble or stats.dropped or stats.quarantined:
            incidents.note(
                "ledger",
                "%d calls started, %d written, %d waiting, %d quarantined, %d dropped%s",
                *(stats.started, stats.written, stats.waiting, stats.quarantined, stats.dropped),
                f"; {stats.trouble}" if stats.trouble else "",
            )

    # -- by hand ------------------------------------------------------------------------------------------------------

    def record(
        self, *, model: str, prompt: str | None = None, identity: CallContext | None = None, **fields: Any
    ) -> Recording:
        """Record a call that LangChain does not make: `with call_log.record(model=…, prompt=…) as call:`.

        The identity is that of the current scope, or `identity`. `fields` are columns of the row; what is known
        later is given to `call.set(...)`. An exception in the block makes the row an error, and passes.
        """
        return Recording(self._recorder, identity or EMPTY, {"model": model, **fields}, prompt)

    def _restart_in_child(self) -> None:
        """After a fork: the parent's rows are the parent's; the child begins with nothing, on its first call."""
        self._pipeline, open_calls = self._make_pipeline()
        self._pipeline.start_when_needed()
        self._recorder.open_calls = open_calls

    def _close_with_the_child(self) -> None:
        """A child of `multiprocessing` ends without `atexit`, but not without this."""
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            util.Finalize(None, _close_at_exit, args=(self,), exitpriority=100)


class Recording:
    """A call recorded by hand. Use it as a context manager; see `CallLog.record`."""

    def __init__(self, recorder: Recorder, identity: CallContext, fields: dict[str, Any], prompt: str | None) -> None:
        self._recorder = recorder
        self._identity = identity
        self._fields: dict[str, Any] = {}
        self._prompt = prompt
        self._call: OpenCall | None = None
        self.set(**fields)

    def set(self, **fields: Any) -> None:
        """Set columns of the row: `response="…"`, `prompt_tokens=12`, `finish_reason="stop"`, …

        A name that is no column is a TypeError. `response` and `reasoning` are texts and become snapshots.
        """
        for name, value in fields.items():
            if name in _WITNESSED:
                raise TypeError(
                    f"{name!r} is part of the identity: give record(identity=CallContext(…)), or use bind()"
                )
            if name not in _SETTABLE:
                raise TypeError(f"{name!r} is no column of a call; there are: {', '.join(sorted(_SETTABLE))}")
            self._fields[name] = value

    def __enter__(self) -> Self:
        recorder = self._recorder
        if recorder.enabled:
            hearing = hear(None, explicit=self._identity)
            call = self._call = OpenCall(None, hearing, decide(hearing, recorder.registry, late_s=recorder.late_s))
            call.scope = current_scope()
            if self._prompt is not None:
                call.prompt = prompt_of_text(self._prompt, recorder.snapshot_bytes)
            recorder.open_calls.start_manual(call)
        else:
            incidents.note("no_call_log", "a call was recorded before its CallLog was started: it has no row")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        call = self._call
        if call is None:
            return
        call.fields = self._fields
        if error is None:
            self._recorder.open_calls.end(call, Status.OK)
        elif isinstance(error, (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)):
            self._recorder.open_calls.end(call, Status.CANCELLED)
        else:
            failure = failure_of(error)
            self._recorder.open_calls.end(call, Status.ERROR, failure=failure)


_MINTED: Final = frozenset(
    {"call_id", "created_at", "finished_at", "status", "success", "latency_ms", "run_id", "parent_run_id"}
)
_BOUNDED: Final = frozenset({"prompt_snapshot", "response_snapshot", "reasoning_snapshot"})  # made from the texts
_WITNESSED: Final = frozenset({"identity_source", "identity_reason", *ID_FIELDS})
_SETTABLE: Final = (frozenset(COLUMNS) - _MINTED - _BOUNDED - _WITNESSED) | {"response", "reasoning"}


def _each_alive(do: Callable[[CallLog], object]) -> None:
    for call_log in list(_alive):
        try:
            do(call_log)
        except Exception as problem:  # noqa: BLE001  the interpreter is ending, or has just forked
            incidents.note("lifecycle_failed", "a call log could not follow the process", exc=problem)


def _close_at_exit(call_log: CallLog) -> None:
    call_log._starts = 1
    call_log.close(call_log._exit_s)


def _flush_at_exit(call_log: CallLog) -> None:
    began = time.monotonic()
    call_log.flush()
    call_log._exit_s = max(0.0, call_log.settings.shutdown_timeout_s - (time.monotonic() - began))


def _flush_before_exit() -> None:
    _each_alive(_flush_at_exit)


# A script that ends without close() still gets its rows written. Servers end through their lifespan instead. The
# first hook comes while a connection can still be made: later no thread starts, and asyncio cannot look up a host.
getattr(threading, "_register_atexit", atexit.register)(_flush_before_exit)
atexit.register(_each_alive, _close_at_exit)

_closed_gates: Final[list[threading.Lock]] = []


def _before_fork() -> None:
    """Wait until nobody is in the middle of something that does not survive a fork, at most a second."""
    for call_log in list(_alive):
        gate: threading.Lock | None = getattr(call_log._pipeline.sink, "fork_gate", None)
        if gate is not None and gate.acquire(timeout=1.0):
            _closed_gates.append(gate)


def _after_fork_in_parent() -> None:
    while _closed_gates:
        _closed_gates.pop().release()


def _after_fork_in_child() -> None:
    _closed_gates.clear()
    _each_alive(CallLog._restart_in_child)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
