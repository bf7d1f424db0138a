"""The reading side: which calls were made, what they cost, and whether their rows have their ids.

Every question that the command line (and later the dashboard) asks is one function here, over a connection and a
table, the same on PostgreSQL and SQLite, for a fresh table and for an adopted one (`reflection.reflect`): what its
columns lack is None. They return plain values, ready for JSON, and never the table's secrets beyond the row that was
asked for. Filters stay on the indexes that `tables.py` describes.

    calls.py       one call, or the latest
    totals.py      calls, tokens, cost and latency by user, session, agent, model, node, day, status
    coverage.py    how many rows have their ids, and what the others have in common
"""

from __future__ import annotations

from llmctx.storage.filters import Filters
from llmctx.storage.queries.aggregates import GROUPS, Group, sessions, stats, users
from llmctx.storage.queries.calls import AmbiguousCall, NoSuchCall, Row, call, calls, conversation, handle, news
from llmctx.storage.queries.coverage import Coverage, coverage

__all__ = [
    "GROUPS",
    "AmbiguousCall",
    "Coverage",
    "Filters",
    "Group",
    "NoSuchCall",
    "Row",
    "call",
    "calls",
    "conversation",
    "coverage",
    "handle",
    "news",
    "sessions",
    "stats",
    "users",
]
