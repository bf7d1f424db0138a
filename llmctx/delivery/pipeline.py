"""The steps from an ended call to a record in the sink: resolve, extract, redact, price, hand over.

Runs in the worker's thread (`worker.py`). Each step may fail: then the row says less, and where nothing can be made of
a call it is counted as dropped. What was in hand when the thread died is taken up again, one call at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from llmctx.capture.open_calls import OpenCall
from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import is_shortage
from llmctx.core.locks import ForkGate
from llmctx.core.record import CallRecord, Source, use_thread_as_session, without_snapshots
from llmctx.core.scheduling import yield_gil
from llmctx.core.threads import outside_loop
from llmctx.delivery.call_queue import LEAST_BYTES, CallQueue
from llmctx.delivery.pricing import Prices
from llmctx.delivery.redact import Redactor
from llmctx.delivery.registry_lookup import lookup_remote
from llmctx.delivery.row import Texts, bare_record_of, record_of, record_of_prompt
from llmctx.delivery.sink import RecordingSink
from llmctx.identity import remote
from llmctx.identity.registry.base import Registry, SharedRegistry
from llmctx.identity.resolution import UNDECIDED, complete_late
from llmctx.settings import Settings
from llmctx.storage.sanitize import clean

CHUNK: Final = 50
"""Records that are made before anything else in the loop has its turn."""
_PIECE_S: Final = 0.02
"""After so long of making records the loop has its turn as well: connecting to a database takes some fifty turns."""
_SHARE: Final = 5
"""Where records take longer the loop has one of so many parts of the time, as a server's answers take time, too."""
_TURN_S: Final = 0.5
"""After so long the worker has its turn, where calls come faster than records of them can be made."""
_SHORTAGE_S: Final = 10.0
"""For so long a call waits for descriptors that a module needs which is loaded late; then its row says less."""
_RETRY_S: Final = 0.25
_LOOKED_UP_AT_ONCE: Final = 500  # calls of which a shared registry is asked in one round trip


class Pipeline:
    """Makes records of the calls in `queue`. Only the queue's `put` may be called by other threads."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        redactor: Redactor | None = None,
        observe: Callable[[OpenCall, CallRecord], object] | None = None,
    ) -> None:
        self._settings = settings
        self._observe = observe
        """Told of each call and its record. Never raises."""
        self._texts = Texts(settings.content, settings.snapshot_bytes, redactor)
        self._prices = Prices(settings.price_file)
        self._registry = registry
        self.shared_registry: SharedRegistry | None = registry if remote.is_shared(registry) else None
        self.queue = CallQueue(max(LEAST_BYTES, settings.memory_bytes // 2))
        self._in_hand: list[OpenCall] = []
        self._suspects: list[OpenCall] = []
        """Calls over which the thread has died once. If it does so again they are dropped."""
        self._fork_gate = ForkGate()
        """Around the making of a record, which loads modules and fills caches: Python guards both with locks, for which
        a child that is forked meanwhile would wait for ever."""
        self._short_since = self._short_at = 0.0
        """Since when, and when last, no descriptor was left for what a row needs."""
        self.submitted = self.refused_calls = 0
        """Calls that went to the sink, and those of them that have no row and will have none."""

    @property
    def waiting(self) -> int:
        """Return the number of calls that have ended and that the sink does not have."""
        return len(self.queue) + len(self.queue.refused_calls) + len(self._in_hand)

    @property
    def in_progress(self) -> int:
        """Return the number of calls of which records are being made."""
        return len(self._in_hand)

    @property
    def is_busy(self) -> bool:
        """Return whether there are calls of which records are still to be made."""
        return bool(self.queue or self._in_hand)

    def recover(self) -> None:
        """Begin in a new thread. Calls that the last one had in hand come first, unless they are what kills it."""
        guilty = [call for call in self._in_hand if call in self._suspects]
        self.submitted, self.refused_calls = self.submitted + len(guilty), self.refused_calls + len(guilty)
        self._suspects = [call for call in self._in_hand if call not in guilty]
        self.queue.extendleft(reversed(self._suspects))
        self._in_hand = []

    async def process(self, sink: RecordingSink) -> bool:
        """Give the sink records of the calls that wait, for half a second at most. Return whether none was left."""
        queue, until = self.queue, time.monotonic() + _TURN_S
        done = asked = 0
        while queue:
            if time.monotonic() > until:
                return False
            most = CHUNK
            if self.shared_registry is not None:
                if done == asked:
                    asked += min(len(queue), _LOOKED_UP_AT_ONCE)
                    await lookup_remote(self.shared_registry, [queue[number] for number in range(asked - done)])
                most = min(most, asked - done)
            begun = time.monotonic()
            done += (taken := self.take(sink, most, may_wait=True))
            took_s = time.monotonic() - begun
            await asyncio.sleep((took_s / _SHARE if took_s > _PIECE_S else 0) if taken else _RETRY_S)
        queue.is_overloaded = False
        return True

    @outside_loop
    def take(self, sink: RecordingSink, most: int, *, may_wait: bool = False) -> int:
        """Give the sink records of at most so many calls, fewer where these take long. Return of how many: where it
        `may_wait` for descriptors, perhaps of none.
        """
        queue, calls = self.queue, self._in_hand
        gone = queue.drain_refused(sink.forget)
        self.submitted, self.refused_calls = self.submitted + gone, self.refused_calls + gone
        if self._suspects or not sink.deduplicates:
            most = 1  # whichever it is that kills the thread, it shall not take others along
        records, until = [], time.monotonic() + _PIECE_S
        while queue and len(calls) < most and (not calls or time.monotonic() < until):
            calls.append(queue.popleft())
            if is_late := queue.is_nearly_full:
                queue.strip(calls[-1])
            try:
                with self._fork_gate:
                    record = self._record(calls[-1], may_wait=may_wait)
            except OSError:
                queue.appendleft(calls.pop())
                break
            if record is not None:
                records.append(record)
            if not is_late:
                yield_gil()
        if not calls:
            return 0
        # what is held nowhere else would be lost with the thread; but not every sink takes a record twice
        self._in_hand = calls if sink.deduplicates else []
        handed = self._hand_over(sink, records)
        self._in_hand = []
        if calls[0] in self._suspects:
            self._suspects.remove(calls[0])
        self.submitted += len(calls)
        self.refused_calls += len(calls) - handed
        return len(calls)

    @staticmethod
    def _hand_over(sink: RecordingSink, records: Sequence[CallRecord]) -> int:
        """Give `records` to the sink. Return how many it has taken."""
        try:
            return len(records) - sink.submit_all(records)
        except Exception as problem:  # noqa: BLE001  it may be the team's own
            diagnostics.count("sink_failed", "the sink raised: calls are lost", exc=problem)
            return 0

    def _record(self, call: OpenCall, *, may_wait: bool) -> CallRecord | None:
        """Return what is known of `call`, as much as is possible. Raise OSError where that may be more soon."""
        is_bare = self.queue.is_without_texts(call)
        try:
            call.attribution = complete_late(
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
                record = self._prices.add_cost(clean(make(call, self._texts)))
                if self._settings.session == "thread":
                    use_thread_as_session(record)
                if is_bare:
                    without_snapshots(record, "calls came faster than rows could be made of them")
                if self._observe is not None:
                    self._observe(call, record)
                return record
            except Exception as problem:  # one call must not stop the others
                if may_wait and is_shortage(problem) and self._is_soon_over():
                    if is_bare:
                        self.queue.without_texts.add(call)
                    raise
                diagnostics.count("record_failed", "a call could not be turned into a row", exc=problem)
        return None

    def _is_soon_over(self) -> bool:
        """Return whether a shortage has begun a moment ago."""
        now = time.monotonic()
        if now - self._short_at > _SHORTAGE_S:
            self._short_since = now
        self._short_at = now
        return now - self._short_since < _SHORTAGE_S
