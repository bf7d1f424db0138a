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
    count_sessions,
    count_users,
    session_sums,
    sessions,
    top_sessions,
    top_users,
    user_sums,
    users,
)
from llmctx.storage.queries.aggregates import GROUPS, Group, Stats, stats, stats_by
from llmctx.storage.queries.calls import (
    AmbiguousCall,
    NoSuchCall,
    Row,
    call,
    call_page,
    calls,
    calls_ended_since,
    calls_in_order,
    conversation,
    handle,
)
from llmctx.storage.queries.counts import Count, count_calls, estimate_rows
from llmctx.storage.queries.coverage import Coverage, coverage
from llmctx.storage.queries.failed_calls import ErrorGroup, Errors, errors
from llmctx.storage.queries.health import Health, PartitionState, TotalsState, health
from llmctx.storage.queries.page import Cursor, InvalidCursor, Page
from llmctx.storage.queries.token_gaps import missing_tokens
from llmctx.storage.queries.transcript import Transcript, first_prompts, transcript
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
    "Count",
    "Coverage",
    "Cursor",
    "ErrorGroup",
    "Errors",
    "Figures",
    "Filters",
    "Group",
    "Health",
    "InvalidCursor",
    "NoSuchCall",
    "Order",
    "Page",
    "PartitionState",
    "Row",
    "SessionRow",
    "Stats",
    "TotalsState",
    "Transcript",
    "Usage",
    "UsageRow",
    "UserRow",
    "call",
    "call_page",
    "calls",
    "calls_ended_since",
    "calls_in_order",
    "conversation",
    "count_calls",
    "count_sessions",
    "count_users",
    "coverage",
    "errors",
    "estimate_rows",
    "first_prompts",
    "handle",
    "health",
    "missing_tokens",
    "session_sums",
    "sessions",
    "stats",
    "stats_by",
    "top_sessions",
    "top_users",
    "transcript",
    "usage",
    "user_sums",
    "users",
]
