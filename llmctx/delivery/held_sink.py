"""The sink of one call log in one process, which outlives the thread that writes to it.

It is made by whoever needs it first: the pipeline's thread as it starts, or, in a forked child, the thread that makes
the first call. Everything here reads and writes files, and holds up no event loop but the pipeline's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from llmctx.capture.open_calls import OpenCall, OpenCalls
from llmctx.core.diagnostics import diagnostics
from llmctx.core.threads import outside_loop
from llmctx.delivery.pipeline import CHUNK, Pipeline
from llmctx.delivery.sink import RecordingSink

_ATTEMPTS: Final = 2


class HeldSink:
    """The sink, once there is one, and the marks of calls that have begun."""

    def __init__(self, pipeline: Pipeline, make: Callable[[], RecordingSink]) -> None:
        self._pipeline = pipeline
        self._make = make
        self._mark: Callable[[OpenCall], None] | None = None
        self.sink: RecordingSink | None = None
        """None until it is made."""
        self.open_calls: OpenCalls | None = None
        """Those that are marked in a journal that is begun anew."""

    @property
    def waiting(self) -> int:
        """Return the number of rows that neither the database nor a broker has."""
        return 0 if self.sink is None else self.sink.waiting - self.sink.published

    def mark(self, call: OpenCall) -> None:
        """Mark a call that starts, so that it is known even if the process dies."""
        if self._mark is not None:
            self._mark(call)

    @outside_loop
    def open(self) -> RecordingSink:
        """Make the sink if there is none, and open it if it is closed, or its journal has to be begun anew."""
        if self.sink is None:
            self.sink = self._make()
        if self.sink.open():
            self._mark = self.sink.mark
            if self.open_calls is not None:
                # first what is open: a call that ends meanwhile is in the queue by then
                for call in (*self.open_calls.under_way(), *self._pipeline.queue):
                    self._mark(call)
        return self.sink

    @outside_loop
    def close(self) -> None:
        """Close it. First what is left goes to it, without asking any registry: then its journal is complete."""
        if self.sink is None:
            return
        while self._pipeline.queue:
            self._pipeline.take(self.sink, CHUNK)
        self._mark = None
        self.sink.close()

    def close_with_the_rest(self) -> None:
        """Close it after the thread, which may have left calls halfway. What fails is tried once more. Never raises."""
        for _ in range(_ATTEMPTS):
            try:
                if self._pipeline.is_busy:
                    self._pipeline.recover()
                    self.open()
                self.close()
            except BaseException as problem:  # noqa: BLE001  a thread has no caller to raise to, and nothing else stores
                diagnostics.count("close_failed", "the pipeline could not be closed", exc=problem)
            else:
                return
