"""The reading side: which calls were made, what they cost, and whether their rows have their ids.

Every question of the command line is one function here, over a connection and a table, the same on PostgreSQL and
SQLite, for a fresh table and for an adopted one (`reflection.reflect`): columns that it lacks are None. Results are
plain values, ready for JSON; nothing is printed or written here.
"""

from __future__ import annotations

from llmctx.storage.filters import Filters
from llmctx.storage.queries.activity import (
    MOST_DAYS,
    ORDERS,
    Activity,
    Order,
    SessionRow,
    UserRow,
    sessions,
    top_sessions,
    top_users,
    users,
)
from llmctx.storage.queries.aggregates import GROUPS, Group, stats
from llmctx.storage.queries.calls import (
    AmbiguousCall,
    NoSuchCall,
    Row,
    call,
    call_page,
    calls,
    conversation,
    handle,
    news,
)
from llmctx.storage.queries.coverage import Coverage, coverage
from llmctx.storage.queries.page import Cursor, InvalidCursor, Page
from llmctx.storage.queries.tokens import missing_tokens
from llmctx.storage.queries.usage import BUCKETS, BY, Bucket, By, Figures, Usage, UsageRow, usage

__all__ = [
    "BUCKETS",
    "BY",
    "GROUPS",
    "MOST_DAYS",
    "ORDERS",
    "Activity",
    "AmbiguousCall",
    "Bucket",
    "By",
    "Coverage",
    "Cursor",
    "Figures",
    "Filters",
    "Group",
    "InvalidCursor",
    "NoSuchCall",
    "Order",
    "Page",
    "Row",
    "SessionRow",
    "Usage",
    "UsageRow",
    "UserRow",
    "call",
    "call_page",
    "calls",
    "conversation",
    "coverage",
    "handle",
    "missing_tokens",
    "news",
    "sessions",
    "stats",
    "top_sessions",
    "top_users",
    "usage",
    "users",
]
