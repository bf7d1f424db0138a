"""Deletes the data of a user or a session: in the table, dependent tables, journals, dead letters, broker and Redis.

That is the rows that name them, and rows without ids in sessions, threads, conversations and traces that only they have
used. Other users' rows stay, without what their evidence says of the subject. Nothing is done before
`erase(…, do=True)`; afterwards every place is searched again, and the receipt says what is left.
"""

from llmctx.ops.erase.erase import Receipt, SearchResult, erase
from llmctx.ops.erase.subject import Subject

__all__ = ["Receipt", "SearchResult", "Subject", "erase"]
