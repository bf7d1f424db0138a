"""Make the table, adopt one that is there, partition it: `llmctx migrate`."""

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
