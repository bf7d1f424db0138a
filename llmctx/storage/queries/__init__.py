"""The reading side: which calls were made, what they cost, and whether their rows have their ids.

Every question of the command line is one function here, over a connection and a table, the same on PostgreSQL and
SQLite, for a fresh table and for an adopted one (`reflection.reflect`): columns that it lacks are None. Results are
plain values, ready for JSON; nothing is printed or written here.
"""

from __future__ import annotations

from llmctx.storage.filters import Filters
from llmctx.storage.queries.aggregates import GROUPS, Group, sessions, stats, users
from llmctx.storage.queries.calls import AmbiguousCall, NoSuchCall, Row, call, calls, conversation, handle, news
from llmctx.storage.queries.coverage import Coverage, coverage
from llmctx.storage.queries.tokens import missing_tokens

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
    "missing_tokens",
    "news",
    "sessions",
    "stats",
    "users",
]
