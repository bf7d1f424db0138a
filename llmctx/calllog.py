"""CallLog: the one object an application makes. Owns settings, registry, pipeline and handler, and starts them.

The constructor only stores. `start` (or `async with`, or `lifespan`) starts the pipeline's thread and lets the handler
hear every LLM call of the process; `close` undoes both and waits for the database, but never for long.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlencode
from uuid import UUID

from llmctx.capture import listeners
from llmctx.capture.global_hook import install, uninstall
from llmctx.capture.handler import CallLogHandler
from llmctx.capture.manual import Recording
from llmctx.capture.open_calls import OpenCalls
from llmctx.capture.recorder import Recorder
from llmctx.capture.recorder import active as active_recorders
from llmctx.core import process as lifecycle
from llmctx.core.arguments import check_methods
from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import ConfigError
from llmctx.core.guard import guard, guard_harmless
from llmctx.core.sigterm import stop_listening_for_end
from llmctx.core.steps import add, attempt, remove
from llmctx.core.urls import shown_url
from llmctx.delivery.caching_redactor import redactor_of
from llmctx.delivery.destination import Destination
from llmctx.delivery.destinations import check_packages, default_destination
from llmctx.delivery.ledger import Stats, compute_figures, compute_stats, count_left, log_if_wrong
from llmctx.delivery.pipeline import Pipeline
from llmctx.delivery.redact import Redactor
from llmctx.delivery.sink import RecordingSink, Sink, recording_sink
from llmctx.delivery.worker import Worker
from llmctx.identity import authority, handover
from llmctx.identity.propagation import threads as carrying
from llmctx.identity.registry import Registry, registry_of
from llmctx.identity.registry.base import active as active_registries
from llmctx.identity.scope import EMPTY, CallContext
from llmctx.settings import Settings, load
from llmctx.telemetry.observer import Observer

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from llmctx.migrate import State
    from llmctx.settings.settings import Database

__all__ = ["CallLog", "Recording", "Stats"]

_STOP_S: Final = 1.0  # for what is left to go into the journal, and for the connections to be closed


def _all_that_wait(call_log: CallLog, *_: object) -> int:
    return call_log._worker.waiting


def _let_go(call_log: CallLog) -> bool:
    """Close where it could not be found out whether it was the last `close`: it can be started again."""
    call_log._starts = 0
    call_log._started = call_log._recorder.enabled = False
    return True


class CallLog:
    """Record the LLM calls of this process.

        call_log = CallLog("postgresql+asyncpg://…")
        app = FastAPI(lifespan=call_log.lifespan)

    Args:
        database_url: where the rows go, a URL or a SQLAlchemy engine; else `LLMCTX_DATABASE_URL`, or a SQLite file.
        destination: another place for the rows (`llmctx.delivery.Destination`), with all that the database would get.
        sink: takes the records instead of all that, for tests (`llmctx.testing.MemorySink`).
        registry: thread_id -> identity; by default in memory, or in the Redis of `LLMCTX_REGISTRY_URL`.
        prometheus: a registry of prometheus-client, which gets the metrics of llmctx (`llmctx.prometheus`).
        redact_functions: the team's own; each gets a text and returns it without what must not be kept.
        settings: any of `llmctx.settings.Settings`, by name.

    Raises `ConfigError` for a setting that cannot be used, here and nowhere else. A database that is away, a table that
    is missing, a journal that cannot be written are no errors: rows wait, and the log says why.
    """

    def __init__(
        self,
        database_url: Database | None = None,
        *,
        destination: Destination | None = None,
        sink: Sink | None = None,
        registry: Registry | None = None,
        prometheus: CollectorRegistry | None = None,
        redact_functions: Sequence[Callable[[str], str]] = (),
        **settings: Any,
    ) -> None:
        self.settings: Settings = load(database_url=database_url, **settings)
        check_packages(self.settings)
        check_methods("destination", destination, "prepare", "store")
        check_methods("sink", sink, "submit")
        check_methods("registry", registry, "put", "get", "forget")
        self._redactor = self._make_redactor(redact_functions)
        self.registry: Registry = registry if registry is not None else registry_of(self.settings)
        if destination is not None and sink is not None:
            raise ConfigError("CallLog takes a destination or a sink, not both.")
        self._destination = destination
        self._sink: RecordingSink | None = None if sink is None else recording_sink(sink)
        self.observer = Observer(self.settings, lambda: compute_figures(self._worker, self._recorder.open_calls))
        if prometheus is not None:
            self.observer.add_registry(prometheus)
        self._worker, open_calls = self._make_worker()
        self._recorder = Recorder(
            open_calls, self.registry, snapshot_bytes=self.settings.snapshot_bytes, late_s=self.settings.late_s
        )
        self.handler = CallLogHandler(recorder=self._recorder)
        """For `callbacks=`, where `capture="explicit"`."""
        self.dashboard_url = self.settings.dashboard_url
        """Where the dashboard is reached from outside: `LLMCTX_DASHBOARD_URL`, or what `Dashboard(base_url=…)` says."""
        self._when_closed: list[Callable[[], Awaitable[None]]] = []
        self._started = False
        self._starts = 0
        self._not_begun: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"<CallLog {shown_url(self.settings.database_url)} {'' if self._started else 'not '}started>"

    def _make_worker(self) -> tuple[Worker, OpenCalls]:
        pipeline = Pipeline(self.settings, self.registry, self._redactor, self.observer.observe)
        worker = Worker(self.settings, pipeline, self._make_sink)
        open_calls = worker.held.open_calls = OpenCalls(worker.put, announce=worker.announce)
        worker.on_ledger = lambda: log_if_wrong(self.stats())
        worker.on_look = self._look
        worker.on_first_call = lambda: lifecycle.close_with_the_child(self)
        return worker, open_calls

    def _make_redactor(self, functions: Sequence[Callable[[str], str]]) -> Redactor | None:
        settings = self.settings
        # logs are no place for secrets, whatever the rows may hold; the team's functions are for its own thread
        diagnostics.redact = Redactor(patterns=settings.redact_patterns).redact
        redactor = redactor_of(settings.redact_kinds, settings.redact_patterns, functions)
        return None if settings.content == "full" else redactor

    def _make_sink(self) -> RecordingSink:
        sink = self._new_sink() if self._sink is None else self._sink
        sink.on_write = self.observer.observe_write
        return sink

    def _new_sink(self) -> RecordingSink:
        with lifecycle.import_lock:  # late: not every call log needs it, nor a database driver
            from llmctx.delivery.spool import Spool

            return Spool(self._destination or default_destination(self.settings), self.settings)

    def migrate(self, *, say: Callable[[str], None] | None = None) -> State:
        """Make this call log's table, or bring it up to date: `llmctx.migrate.upgrade(self)`, which says what it does.

        Call it before the application starts, or in its lifespan as `await asyncio.to_thread(call_log.migrate)`.
        """
        from llmctx.migrate import upgrade  # late: no running application needs it

        return upgrade(self.settings, say=say)

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start recording. Starting what is started does nothing; each `start` wants its `close`. Never raises."""
        self._start()
        return self

    @guard("start_failed", "%s failed: calls are recorded in part, or not at all, until it is started again")
    def _start(self, *, wait: bool = True) -> None:
        self._starts += 1
        if not self._started:
            self._started = True
            self._begin(wait=wait)

    def _begin(self, *, wait: bool = True) -> None:
        """Take the steps of a start. Each may be taken again, and is where it fails."""
        attempt(partial(self._worker.start, wait=wait))
        self._recorder.enabled = True
        steps: list[Callable[[], object]] = [
            partial(add, active_registries, self.registry),
            partial(lifecycle.running_call_logs.add, self),
            partial(handover.configure, self.settings.handover_key, self.settings.handover_invalid),
            self._begin_listening,
        ]
        if self.settings.trust_config:
            steps.append(partial(add, authority.trusting, self))
        if self.settings.carry:
            steps.append(partial(carrying.install, self))
        self._not_begun = steps
        self._begin_the_rest()

    def _look(self) -> None:  # once a second
        self._begin_the_rest()
        self.observer.refresh()

    def _begin_the_rest(self) -> None:  # until no step is left
        if self._not_begun and self._started:
            self._not_begun = [step for step in self._not_begun if not attempt(step)]

    def close(self, timeout: float | None = None) -> int:
        """Stop recording, wait for what is on its way, at most `timeout` seconds in all. Returns the calls left.

        With `start` called several times the last `close` stops it; each waits, for a process may end behind any. With
        `transport` it waits as `flush` does. Never raises, and leaves the pipeline's thread stopped on every way out.
        """
        return self._leave(self._for_database(timeout))

    def _leave(self, database_s: float) -> int:
        if not self._stop_hearing():
            return self.flush(database_s) if self._started else 0
        left = 0
        try:
            left = self.flush(database_s)
        finally:
            attempt(self._worker.stop, _STOP_S)
            self._begin_again()
        return self._closed(left)

    async def aclose(self, timeout: float | None = None) -> int:  # noqa: ASYNC109  it is what close() has
        """Close as `close` does, for coroutines: wait without holding up the event loop."""
        database_s = self._for_database(timeout)
        if not self._stop_hearing():
            return await self.aflush(database_s) if self._started else 0
        left = 0
        try:
            left = await self.aflush(database_s)
        finally:
            await self._worker.astop(_STOP_S)
            await self._close_others()
            self._begin_again()
        return self._closed(left)

    async def _close_others(self) -> None:
        for work in self._when_closed:
            try:
                await work()
            except Exception as problem:  # noqa: BLE001  the database may be away, or a loop of another time
                diagnostics.count("close_failed", "a part of the call log could not be closed", exc=problem)

    @guard("start_failed", "%s failed: calls are recorded in part, or not at all, until it is started again")
    def _begin_again(self) -> None:
        """Start again what another thread, or a handler of a signal, has started while it was closed."""
        if self._started:
            self._begin()

    def _begin_listening(self) -> None:
        listeners.add(self, self._target(), self._listen)
        if self._recorder not in active_recorders:
            diagnostics.count(
                "second_call_log",
                "another CallLog of this process writes to the same table: only that one records LangChain's calls",
            )

    def _listen(self) -> None:
        add(active_recorders, self._recorder)
        if self.settings.capture == "all":
            install(self._recorder, self.handler)

    def _stop_listening(self) -> None:
        remove(active_recorders, self._recorder)
        uninstall(self._recorder)
        listeners.remove(self)

    def _target(self) -> object:
        """Return what call logs have in common that would write each call of the process twice."""
        alone = self._sink is not None or self._destination is not None or self.settings.capture != "all"
        return self if alone else (self.settings.database_url, self.settings.table)

    @guard_harmless("close_failed", otherwise=_let_go)
    def _stop_hearing(self) -> bool:
        """Return True for the last of as many `close` as there were `start`."""
        self._starts = max(0, self._starts - 1)
        if self._starts or not self._started:
            return False
        self._started = False
        self._recorder.enabled = False
        attempt(remove, active_registries, self.registry)
        attempt(remove, authority.trusting, self)
        attempt(self._stop_listening)
        attempt(carrying.remove, self)
        attempt(self._recorder.open_calls.close)
        attempt(lifecycle.running_call_logs.discard, self)
        attempt(stop_listening_for_end)
        return True

    @guard_harmless("close_failed", otherwise=lambda self, left: left)
    def _closed(self, left: int) -> int:
        self.observer.refresh()
        if left:
            count_left(self._worker, left)
        return left

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        self._start(wait=False)
        await self._worker.wait_until_ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """Serve as `FastAPI(lifespan=call_log.lifespan)`; in one's own, `async with call_log` does the same."""
        async with self:
            yield

    # -- waiting, and counting ----------------------------------------------------------------------------------------

    @guard("flush_failed", "%s failed: rows are still being written", otherwise=_all_that_wait)
    def flush(self, timeout: float | None = None) -> int:
        """Wait until every call that has ended is in the database. Returns how many are not when time is up.

        `timeout` is in seconds, by default `shutdown_timeout_s`. Open calls are not waited for. With `transport` the
        broker is, and the database half a second more: the journal keeps the `stats().published` rows that it lacks.
        """
        timeout = self.settings.shutdown_timeout_s if timeout is None else timeout
        return self._worker.flush(timeout)

    async def aflush(self, timeout: float | None = None) -> int:  # noqa: ASYNC109  it is what flush() has
        """Flush as `flush` does, for coroutines."""
        return await self._worker.aflush(self.settings.shutdown_timeout_s if timeout is None else timeout)

    def when_closed(self, work: Callable[[], Awaitable[None]]) -> None:
        """Let `aclose` await `work` as well, such as the end of the dashboard's connections."""
        self._when_closed.append(work)

    def stats(self) -> Stats:
        """Return the ledger as it stands. Exact at rest; while calls are on their way, counts may be one apart."""
        return compute_stats(self._worker, self._recorder.open_calls)

    def url(self, call_id: UUID | str) -> str:
        """Return the address of a call's page in the dashboard, for logs, and for pages of the application.

        Raises `ConfigError` where nothing says where the dashboard is.
        """
        if self.dashboard_url is None:
            raise ConfigError(
                "The dashboard's address is not known. Set LLMCTX_DASHBOARD_URL, or Dashboard(base_url=…)."
            )
        return f"{self.dashboard_url.rstrip('/')}/call?{urlencode({'id': str(call_id)})}"

    # -- by hand ------------------------------------------------------------------------------------------------------

    def record(
        self, *, model: str, prompt: str | None = None, identity: CallContext | None = None, **fields: Any
    ) -> Recording:
        """Record a call that LangChain does not make: `with call_log.record(model=…, prompt=…) as call:`.

        The identity is that of the current scope, or `identity`. `fields` are columns of the row; what is known
        later is given to `call.set(...)`. An exception in the block makes the row an error, and passes.
        """
        return Recording(self._recorder, identity or EMPTY, {"model": model, **fields}, prompt)

    # -- the process --------------------------------------------------------------------------------------------------

    def hasten(self, patience_s: float) -> None:
        """Begin to store what waits, as the process is told to end. Return once the journal has it."""
        self._worker.hasten(self._for_database(), patience_s)

    async def flush_at_shutdown(self, spent_s: float) -> None:
        """Flush as a server shuts down, of whose patience so much is spent."""
        await self.aflush(max(0.0, self._for_database() - spent_s))

    def flush_at_exit(self, spent_s: float) -> None:
        """Flush before the interpreter ends, while threads and connections can still be made."""
        self.flush(max(0.0, self._for_database() - spent_s))

    def close_at_exit(self, spent_s: float) -> None:
        """Close as the interpreter ends, of whose patience so much is spent."""
        self._starts = 1
        self._leave(max(0.0, self._for_database() - spent_s))

    def _for_database(self, whole_s: float | None = None) -> float:
        """Return the seconds of `whole_s` for the database; the rest is for the journal. Half, where there are few."""
        whole_s = self.settings.shutdown_timeout_s if whole_s is None else whole_s
        return max(whole_s - _STOP_S, whole_s / 2)

    def after_fork_in_child(self) -> None:
        """Renew after a fork: the parent's rows are the parent's; the child begins with nothing, on its first call."""
        if self._sink is not None:
            self._sink = self._sink.for_child()
        self._worker, open_calls = self._make_worker()
        self._worker.start_when_needed()
        self._recorder.open_calls = open_calls
        self.observer.after_fork_in_child()
