"""A journal into another one: no process would ever look where it lies now, or its files are not what they were."""

from __future__ import annotations

from itertools import islice
from typing import Final

from llmctx.core.diagnostics import diagnostics
from llmctx.delivery.journal.journal import Journal

_AT_ONCE: Final = 200


def move_journal(old: Journal, new: Journal) -> bool:
    """Write what can be read of `old` into `new`, and end `old`. Return False if it does not fit: `new` is ended."""
    rows = old.pending_records()
    try:
        while some := list(islice(rows, _AT_ONCE)):
            if new.append(some) < len(some):
                break
    except OSError as problem:
        diagnostics.count("journal_failed", "the journal cannot be read at the moment: %s", problem)
    else:
        if not some:
            new.copy_starts(old)
            new.sync(now=True)
            cause, what = ("journal_vanished", "removed") if old.has_vanished else ("journal_moved", "moved or cut")
            diagnostics.count(cause, "the journal in %s was %s: a new one is created", old.directory, what)
            old.close(discard=True)
            return True
    new.close(discard=True)
    return False
