"""A sink that keeps records in memory, for tests and for canaries."""

from __future__ import annotations

import json
import threading
from typing import Any, Final

from llmctx.core.record import CallRecord
from llmctx.delivery.sink import RecordingSink

_WORDS: Final = 70  # characters of a prompt that are enough to recognise it


class MemorySink(RecordingSink):
    """Keep records in `records`; refuse them when `full`."""

    def __init__(self, *, full: bool = False) -> None:
        self.records: list[CallRecord] = []
        self.full = full
        self._lock = threading.Lock()

    def submit(self, record: CallRecord) -> bool:
        """Keep `record`. Return False if it is `full`."""
        if self.full:
            return False
        with self._lock:
            self.records.append(record)
        return True


def first_words(snapshot: str | None) -> str:
    """Return the beginning of what was said last, on one line."""
    try:
        said: Any = json.loads(snapshot or '""')
    except (ValueError, RecursionError):
        said = snapshot
    if isinstance(said, list) and said:
        said = said[-1]
    if isinstance(said, dict):
        said = said.get("content", said)
    text = " ".join((said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)).split())
    return text if len(text) <= _WORDS else text[: _WORDS - 1] + "…"
