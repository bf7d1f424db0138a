"""The metrics of llmctx, each declared once, and what a row and the ledger add to them.

`Meter` is what keeps them, in prometheus-client or in OpenTelemetry. Labels are bounded, for a
label may come from a client: a hundred models and agents, then `other`. None of them is an id of a person, a session, a
thread, a trace or a call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import orjson

from llmctx.core.guard import guard_harmless
from llmctx.core.record import CallRecord, Status
from llmctx.telemetry.attributes import EndedCall


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric, by its name in Prometheus."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()
    worst: bool = False
    """Of several workers the largest value counts, not the sum."""

    @property
    def otel_name(self) -> str:
        """Return its name in OpenTelemetry: `llmctx.calls` for `llmctx_calls_total`."""
        return self.name.removesuffix("_total").removesuffix("_seconds").replace("_", ".", 1)

    @property
    def unit(self) -> str:
        """Return the unit of its values, as OpenTelemetry spells it."""
        return "s" if "_seconds" in self.name else "By" if self.name.endswith("_bytes") else "1"


_MODEL: Final = ("provider", "model")

CALLS: Final = Measure("llmctx_calls_total", "counter", "Calls that have ended.", (*_MODEL, "agent", "status"))
DURATION: Final = Measure("llmctx_call_duration_seconds", "histogram", "How long calls took.", _MODEL)
TTFT: Final = Measure("llmctx_call_ttft_seconds", "histogram", "Until the first token of a stream.", _MODEL)
TOKENS: Final = Measure("llmctx_tokens_total", "counter", "Tokens, by type.", (*_MODEL, "type"))
COST: Final = Measure("llmctx_cost_usd_total", "counter", "US dollars, where a price is known.", (*_MODEL, "agent"))
UNPRICED: Final = Measure("llmctx_calls_unpriced_total", "counter", "Calls whose cost is unknown.", _MODEL)
ERRORS: Final = Measure("llmctx_errors_total", "counter", "Calls that failed.", (*_MODEL, "code"))
IDENTITY: Final = Measure(
    "llmctx_identity_total", "counter", "Calls by how their identity is known.", ("source", "complete")
)
MISSING: Final = Measure("llmctx_identity_missing_total", "counter", "Calls that lack an id, by reason.", ("reason",))
WRITE: Final = Measure("llmctx_write_seconds", "histogram", "From a batch to its commit.")
DROPPED_LABELS: Final = Measure(
    "llmctx_metrics_labels_dropped_total", "counter", "Values of labels that are counted as `other`."
)
INCIDENTS: Final = Measure("llmctx_incidents_total", "counter", "What went wrong inside of llmctx.", ("cause",))
BUILD: Final = Measure(
    "llmctx_build_info", "gauge", "1; its labels say what runs.", ("version", "durability", "content"), worst=True
)
LEDGER: Final = {
    "open": Measure("llmctx_open_calls", "gauge", "Calls that have not ended yet."),
    "waiting": Measure("llmctx_waiting_rows", "gauge", "Calls that are open or on their way to the database."),
    "published": Measure("llmctx_published_rows", "gauge", "Of the waiting rows, those that the message broker has."),
    "journal_bytes": Measure("llmctx_journal_bytes", "gauge", "Bytes in the journal."),
    "journal_oldest_s": Measure(
        "llmctx_journal_oldest_seconds", "gauge", "Age of the oldest row that waits for the database.", worst=True
    ),
    "written": Measure("llmctx_rows_written_total", "counter", "Rows that the database has."),
    "quarantined": Measure("llmctx_rows_quarantined_total", "counter", "Rows that the database refuses."),
    "dropped": Measure("llmctx_rows_dropped_total", "counter", "Calls that have no row and will have none."),
    "adopted": Measure("llmctx_rows_adopted_total", "counter", "Rows of dead processes that were written."),
}
"""Figure of the ledger -> its metric."""

MEASURES: Final = (
    *(CALLS, DURATION, TTFT, TOKENS, COST, UNPRICED, ERRORS, IDENTITY, MISSING),
    *(WRITE, DROPPED_LABELS, INCIDENTS, BUILD),
    *LEDGER.values(),
)

OTHER: Final = "other"
_MOST: Final = {"model": 100, "agent": 100, "provider": 100, "code": 50}
_LONGEST: Final = 128


class Meter(ABC):
    """Keeps metrics. Any thread may call it."""

    is_of_process = True
    """Whether a forked child begins with what its parent has counted."""

    def __init__(self) -> None:
        self.incidents: dict[str, int] = {}
        """Those that were counted already; of the whole process, however many call logs it has."""

    @abstractmethod
    def add(self, measure: Measure, labels: tuple[str, ...], value: float) -> None:
        """Add `value` to a counter or a gauge, or to a histogram as one observation."""

    @abstractmethod
    def set(self, measure: Measure, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge of which the largest value counts."""

    def add_call(self, call: EndedCall, record: CallRecord) -> None:  # noqa: B027  most have nothing to add
        """Count an ended call under names that are not llmctx's."""


class Labels:
    """Bound the values of labels in this process, or in all workers of its server, also those that come after it.

    Args:
        shared: a file in which workers note the values that they use, as JSON lines.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self._known: dict[str, set[str]] = {name: set() for name in _MOST}
        self._shared = shared
        self._read_bytes = 0
        self.dropped_values = 0
        """Values that became `other`, since the last look."""

    def bound(self, label: str, value: str | None) -> str:
        """Return `value`, or `other` once there are too many; an empty text where it is unknown."""
        if not value:
            return ""
        value = value[:_LONGEST]
        known = self._known[label]
        if value not in known and len(known) < _MOST[label]:
            self._learn()
            if value not in known and len(known) < _MOST[label]:
                known.add(value)
                self._note(label, value)
        if value not in known:
            self.dropped_values += 1
            return OTHER
        return value

    @guard_harmless("telemetry_failed")
    def _learn(self) -> None:
        """Learn the values that other workers have noted."""
        if self._shared is None or not self._shared.exists():
            return
        with self._shared.open("rb") as file:
            file.seek(self._read_bytes)
            for line in file:
                if line.endswith(b"\n"):  # not one that is being written
                    self._read_bytes += len(line)
                    label, value = orjson.loads(line)
                    self._known[label].add(value)

    @guard_harmless("telemetry_failed")
    def _note(self, label: str, value: str) -> None:
        if self._shared is not None:
            with self._shared.open("ab") as file:
                file.write(orjson.dumps([label, value]) + b"\n")


def count_call(meter: Meter, record: CallRecord, labels: Labels) -> None:
    """Count a call that has ended."""
    about = labels.bound("provider", record.provider), labels.bound("model", record.model)
    agent = labels.bound("agent", record.agent_key)
    meter.add(CALLS, (*about, agent, record.status or ""), 1)
    if record.latency_ms is not None:
        meter.add(DURATION, about, record.latency_ms / 1000)
    if record.streamed and record.ttft_ms is not None:
        meter.add(TTFT, about, record.ttft_ms / 1000)
    for kind, count in _tokens(record):
        meter.add(TOKENS, (*about, kind), count)
    if record.cost_usd is None:
        meter.add(UNPRICED, about, 1)
    else:
        meter.add(COST, (*about, agent), float(record.cost_usd))
    if record.status == Status.ERROR:
        meter.add(ERRORS, (*about, labels.bound("code", record.error_code)), 1)
    complete = _COMPLETE[record.session_id is not None, record.user_id is not None]
    meter.add(IDENTITY, (record.identity_source or "", complete), 1)
    if complete != "both":
        meter.add(MISSING, (record.identity_reason or "",), 1)
    if labels.dropped_values:
        meter.add(DROPPED_LABELS, (), labels.dropped_values)
        labels.dropped_values = 0


_COMPLETE: Final = {(True, True): "both", (True, False): "session", (False, True): "user", (False, False): "none"}


def _tokens(record: CallRecord) -> Iterator[tuple[str, int]]:
    for kind, count in (
        ("input", record.prompt_tokens),
        ("output", record.completion_tokens),
        ("cache_read", record.cached_tokens),
        ("reasoning", record.reasoning_tokens),
    ):
        if count and count > 0:
            yield kind, count
