"""`Destination`: the one thing to write for rows to go somewhere else. Everything before it comes for nothing.

`CallLog(destination=…)` puts it behind a `Spool` (journal, start markers, recovery after kill -9, exact ledger) and a
`Batcher` (batches by rows and bytes, back-off, bisection of refused batches, dead letters). `destinations/sql` is one.

The contract:

- **Threads.** All methods are called in the event loop of the pipeline's thread, never two of them at a time but for
  `maintain`. Block neither for longer than a few milliseconds; what blocks goes into a thread.
- **Time.** `prepare`, `store` and `probe` end by themselves, with `TimeoutError` if need be. They may be cancelled.
- **Idempotence.** The same row may come twice: after a failure, a cancellation, or by the process that recovers the
  journal of a dead one. The second must do no harm; (call_id, created_at) is its key, the same each time.
- **All or nothing.** `store` has taken all rows of the batch when it returns. When it raises it may have taken some, if
  those do no harm when they come again.
- **Errors.** Raise anything. `classify` says whether it is about the place, whose rows are kept and tried again, or
  about a row, which is then found by halving the batch and kept as a dead letter.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from llmctx.core.endpoint import Endpoint
from llmctx.core.failure import Failure as Failure
from llmctx.core.locks import ForkGate
from llmctx.core.record import CallRecord


@dataclass(slots=True, eq=False)
class Row:
    """A record in a batch."""

    record: CallRecord
    attributes_json: str | None
    """The record's `attributes`, as JSON that any database stores."""
    size: int
    """About how many bytes it holds."""
    packed: bytes | None = None
    """The record as the journal has it (`pack_record`), for a destination that `takes_packed`, where that was made."""


def classify_by_type(problem: BaseException) -> Failure:
    """Return `problem` as a failure: errors of values are a row's, all else is an outage, which loses nothing."""
    is_poison = isinstance(problem, (ValueError, TypeError, ArithmeticError, RecursionError))
    name = type(problem).__name__
    text = (str(problem) or name).strip().splitlines()[0][:300]
    return Failure("poison" if is_poison else "reconnect", name, text, name)


class Destination(ABC):
    """A place for rows. Only `store` has to be written; the constructor should do no more than remember.

    Attributes:
        name: the place in a few words, for logs, without secrets. Part of `key`: it tells two places apart.
        remedy: what to do about a failure of kind *config*, for logs.
        can_probe: whether `probe` is overridden to try a row. Otherwise rows are kept on any *config* failure, and
            `classify` alone decides which failures follow the row.
        divides_batches: whether a batch comes in halves after an outage: a place may be too slow for so much.
        confirms_later: whether `store` hands rows on to a place that may lose them: they are stored when `follow` has
            been told so.
        takes_packed: whether `store` uses `Row.packed`, so that a row is not packed once more after the journal.
        longest_wait_s: between two attempts after failures that follow one another.
        idle_s: without rows for so long `close` is called: a server has few connections, and applications need them.
        fork_gate: held while rows are stored, where an open connection does not survive a fork of the process.
    """

    name: str = ""
    remedy: str = "see its documentation"
    can_probe: ClassVar[bool] = False
    divides_batches: ClassVar[bool] = True
    confirms_later: ClassVar[bool] = False
    takes_packed: ClassVar[bool] = False
    longest_wait_s: float = 2.0
    idle_s: float = 30.0
    fork_gate: ForkGate | None = None

    @property
    def key(self) -> str:
        """Return the name of the journals' directory: processes with the same key recover one another's rows."""
        # without the module, which is another one where it is run as a script
        return hashlib.sha256(f"{type(self).__qualname__} {self.name}".encode()).hexdigest()[:16]

    @property
    def endpoint(self) -> Endpoint | None:
        """Return what is known of where rows go; None as long as only a connection could tell (`prepare`).

        Journals belong to a place, not to its name: processes recover those of the same place.
        """
        return Endpoint(self.name, frozenset({self.key}))

    async def prepare(self) -> bool:
        """Connect, and look at what is there. Return True if that has changed since the last time.

        Called before the first batch, after each failure and each `close`, while `is_stale`, and once before a row is
        suspected: the batch is tried again if something has changed.
        """
        return False

    @property
    def is_stale(self) -> bool:
        """Return True to have `prepare` called before the next batch."""
        return False

    @abstractmethod
    async def store(self, rows: Sequence[Row]) -> None:
        """Store `rows`, or raise. See the contract above."""

    async def probe(self, record: CallRecord) -> None:  # noqa: B027  as below
        """Raise what `store` would raise for `record`, which is beyond suspicion, and leave nothing of it behind."""

    def classify(self, problem: BaseException) -> Failure:
        """Return what an exception of `prepare`, `store` or `probe` means. Must not raise."""
        return classify_by_type(problem)

    async def reset(self, failure: Failure) -> None:
        """Let go of connections after `failure`; `prepare` or `store` comes next."""
        await self.close()

    async def close(self) -> None:  # noqa: B027  without connections there is nothing to close
        """Let go of connections, at the end or because no rows come. It may be used again."""

    def follow(  # noqa: B027  where rows are stored there is nothing to follow
        self, on_stored: Callable[[Sequence[bytes]], None], on_returned: Callable[[Sequence[bytes]], None]
    ) -> None:
        """Report what becomes of rows, if it `confirms_later`: call `on_stored` with ids of calls that are stored,
        `on_returned` with those that have to be given again. Forget what was stored before: the spool has nothing under
        way then.
        """

    async def confirm(self, timeout_s: float) -> None:  # noqa: B027  as above
        """See whether rows are stored by now, where it `confirms_later`; wait for that at most `timeout_s` seconds."""

    def detach(self) -> None:  # noqa: B027  as above
        """Forget, without using it, what belongs to an event loop that has gone, or to the parent of a fork."""

    async def maintain(self) -> None:  # noqa: B027  as above
        """Do what the place needs beside storing (retention, say), until cancelled. It may return."""
