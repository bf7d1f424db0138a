"""Fakes that llmctx's own tests use, shipped: a sink in memory, and a block that collects what was called."""

from __future__ import annotations

import threading

from llmctx.record import CallRecord


class MemorySink:
    """Keeps the records it is given, in `records`. Refuses when `full`."""

    def __init__(self, *, full: bool = False) -> None:
        self.records: list[CallRecord] = []
        self.full = full
        self._lock = threading.Lock()

    def submit(self, record: CallRecord) -> bool:
        if self.full:
            return False
        with self._lock:
            self.records.append(record)
        return True
