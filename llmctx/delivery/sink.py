"""The pipeline's way out: `Sink`, the least that one needs, and `RecordingSink`, all that one can do.

Derive from `RecordingSink` to take part in more than the hand-over: start markers, the ledger, a graceful end. What is
not overridden has an honest default. An object with `submit` alone is wrapped once, by `recording_sink`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from llmctx.core.record import CallRecord

if TYPE_CHECKING:  # whatever reads a journal would load LangChain
    from llmctx.capture.open_calls import OpenCall


class Sink(Protocol):
    """A receiver of records."""

    def submit(self, record: CallRecord) -> bool:
        """Take `record` without waiting. Return False to refuse it: the caller counts it as dropped."""
        ...


class RecordingSink(ABC):
    """Base class of sinks. The pipeline's thread calls everything but `mark`."""

    deduplicates: ClassVar[bool] = False
    """Set it where a record that is given twice is taken once. Only then does the pipeline hand over several records at
    a time, and hand them over again after its thread has died in the middle of that."""

    on_write: Callable[[float], object] | None = None
    """Told how many seconds a batch took to be stored. Set by the call log; never raises."""

    # -- taking ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def submit(self, record: CallRecord) -> bool:
        """Take `record` without waiting. Return False to refuse it: the caller counts it as dropped."""

    def submit_all(self, records: Sequence[CallRecord]) -> int:
        """Take `records` without waiting. Return how many were refused."""
        return sum(not self.submit(record) for record in records)

    def open(self) -> bool:
        """Open what is not open, or has to be opened anew. Return True if `mark` is to be called from now on.

        Called at the start, in a forked child also by the thread that makes the first call, and every half second.
        After each True all calls that are under way are marked (again).
        """
        return False

    def mark(self, call: OpenCall) -> None:  # noqa: B027  a sink without start markers has nothing to do
        """Note that `call` has started. Called by the application's threads: take microseconds, wait for nothing."""

    def forget(self, call_ids: Sequence[bytes]) -> None:  # noqa: B027  as above
        """Discard the marks of these calls (16 bytes each): they get no rows."""

    # -- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work in the background, in the pipeline's loop, until cancelled. Run again if it ends by itself."""
        await asyncio.Event().wait()

    async def drain(self, timeout_s: float) -> int:
        """Wait until nothing waits any more, at most `timeout_s` seconds. Return how many records are left."""
        return self.waiting

    def close(self) -> None:  # noqa: B027  as above
        """Close what `open` has opened. It may be opened again."""

    def for_child(self) -> RecordingSink:
        """Return the sink that a forked child uses instead, which must not touch what it has inherited."""
        return self

    # -- the ledger -----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Return the number of records that were taken and are not stored yet."""
        return 0

    @property
    def published(self) -> int:
        """Return the number of waiting ones that a broker has."""
        return 0

    @property
    def written(self) -> int | None:
        """Return the number of this process's records that are stored; None where to take is to store."""
        return None

    @property
    def quarantined(self) -> int:
        """Return the number of records kept as dead letters."""
        return 0

    @property
    def given_up(self) -> int:
        """Return the number of records that were taken and are lost."""
        return 0

    @property
    def recovered(self) -> int:
        """Return the number of records of dead processes that this one has stored; they are counted nowhere else."""
        return 0

    @property
    def last_error(self) -> str | None:
        """Return why records wait, in a sentence; None while all is well."""
        return None

    @property
    def journal_bytes(self) -> int:
        """Return how large the journal is."""
        return 0

    @property
    def oldest_s(self) -> float:
        """Return the age of the oldest record that waits, in seconds; 0 if none does."""
        return 0.0

    @property
    def perishable(self) -> int:
        """Return the number of records that wait and do not survive this process."""
        return self.waiting


class NullSink(RecordingSink):
    """A sink that takes nothing: stands for one that is not made yet."""

    def submit(self, record: CallRecord) -> bool:
        """Refuse `record`."""
        return False


class _SubmitOnly(RecordingSink):
    """A sink of the team's that has `submit` and promises nothing else."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def submit(self, record: CallRecord) -> bool:
        return bool(self._sink.submit(record))


def recording_sink(sink: Sink) -> RecordingSink:
    """Return `sink`, wrapped if it is no `RecordingSink`."""
    return sink if isinstance(sink, RecordingSink) else _SubmitOnly(sink)
