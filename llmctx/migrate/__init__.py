"""Migrations: create the table, adopt an existing one, partition it by month, and undo each of these.

The only room that alters tables, apart from retention's partitions. It touches no row, column or key of the host's, and
does nothing to an existing table that a plan has not shown before.
"""

from llmctx.migrate.autogenerate import include_object, leaving
from llmctx.migrate.commands import Plan, Step, check, downgrade, plan, sql, upgrade
from llmctx.migrate.state import State, scripts, state

__all__ = [
    "Plan",
    "State",
    "Step",
    "check",
    "downgrade",
    "include_object",
    "leaving",
    "plan",
    "scripts",
    "sql",
    "state",
    "upgrade",
]
