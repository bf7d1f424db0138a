"""Fills session_id and user_id of old rows where they are certain, and notes in each row by which rule.

A row with a gap belongs to a trace, a thread, a conversation, a session. Where everything that is known of one of
them, from other rows, from LangGraph's checkpoints or from the team's own mapping, names one user, and nothing
contradicts it, the row gets this user. Otherwise it stays as it is: ambiguity is never resolved by guessing.

    backfill.py      one run of it
    rules.py         the decisions, without a database
    facts.py         what is known, collected once
    mapping.py       the team's own data
    bulk_update.py   many rows in one statement
    undo.py          the undo file

Rows are filled a thousand at a time, each step in its own transaction and noted in the undo file first: after an
interruption the next run continues where this one ended.
"""

from llmctx.ops.backfill.backfill import Report, Sample, backfill, undo
from llmctx.ops.backfill.rules import RULES
from llmctx.ops.backfill.undo import default_path

__all__ = ["RULES", "Report", "Sample", "backfill", "default_path", "undo"]
