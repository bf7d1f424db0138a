"""The ledger: what became of every call that has started. `call_log.stats()`, logged once a minute when it must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmctx.capture.open_calls import OpenCalls
from llmctx.core.diagnostics import diagnostics
from llmctx.delivery.sink import NullSink
from llmctx.delivery.worker import Worker


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
    adopted: int = 0
    """Beside all that: rows of processes that have died, written by this one."""
    trouble: str | None = None
    """Why rows wait for the database; None while all is well."""
    incidents: Mapping[str, int] = field(default_factory=dict)
    """How often what went wrong, by cause."""
    published: int = 0
    """Of the waiting ones, those that the message broker has (`LLMCTX_TRANSPORT`)."""
    has_journal: bool = False
    """Rows that wait are in a journal on disk: they survive this process."""

    @property
    def balanced(self) -> bool:
        return self.started == self.written + self.waiting + self.quarantined + self.dropped


def compute_stats(worker: Worker, calls: OpenCalls) -> Stats:
    """Return the ledger as it stands. Exact at rest; while calls are on their way, counts may be one apart."""
    pipeline, sink = worker.pipeline, NullSink() if worker.sink is None else worker.sink
    waiting, published, written = worker.waiting, sink.published, sink.written
    still_open = len(calls)
    return Stats(
        started=calls.started,
        written=pipeline.submitted - pipeline.refused_calls if written is None else written,
        waiting=waiting + published + still_open,
        quarantined=sink.quarantined,
        dropped=pipeline.refused_calls + sink.given_up,
        open=still_open,
        adopted=sink.recovered,
        trouble=sink.last_error,
        incidents=diagnostics.by_cause(),
        published=published,
        has_journal=sink.journal_bytes > 0,
    )


def compute_figures(worker: Worker, calls: OpenCalls) -> dict[str, float]:
    """Return the ledger and the state of the journal as numbers, for metrics."""
    stats = compute_stats(worker, calls)
    sink = NullSink() if worker.sink is None else worker.sink
    return {
        "open": stats.open,
        "waiting": stats.waiting,
        "published": stats.published,
        "written": stats.written,
        "quarantined": stats.quarantined,
        "dropped": stats.dropped,
        "adopted": stats.adopted,
        "journal_bytes": sink.journal_bytes,
        "journal_oldest_s": sink.oldest_s,
    }


def log_if_wrong(stats: Stats) -> None:
    """Log the ledger in one line, but only while something is wrong."""
    if stats.trouble or stats.dropped or stats.quarantined:
        diagnostics.count(
            "ledger",
            "calls: %d started, %d written, %d waiting, %d quarantined, %d dropped%s",
            *(stats.started, stats.written, stats.waiting, stats.quarantined, stats.dropped),
            f"; {stats.trouble}" if stats.trouble else "",
        )


def count_left(worker: Worker, left: int) -> None:
    """Count that a call log was closed before `left` calls had reached the database, and say what becomes of them."""
    lost = left if (sink := worker.sink) is None else min(left, sink.perishable)
    kept = f": {lost} of them lost with this process, the next one writes the others"
    kept = "" if lost == left else kept if lost else " yet: the next process writes what is left"
    diagnostics.count("closed_with_rows_left", "closed with %d of its calls not in the database%s", left, kept)
