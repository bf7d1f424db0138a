"""Make the call log, by month on PostgreSQL, plain on SQLite; or adopt the one that is there (PostgreSQL)."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from alembic import context, op

from llmctx.migrate.adoption import revision as reconciler

revision = "llmctx_0001"
down_revision = None
branch_labels = ("llmctx",)
depends_on = None

MONTHS_AHEAD = 2
"""Partitions made beforehand, after the present month's; what comes later goes to the default partition."""
COLUMNS = {
    "model": "text", "trace_id": "text", "session_id": "text", "conversation_id": "text", "user_id": "text",
    "agent_key": "text", "temperature": "double precision", "top_p": "double precision", "max_tokens": "integer",
    "prompt_tokens": "integer", "completion_tokens": "integer", "total_tokens": "integer", "latency_ms": "integer",
    "success": "boolean", "error_code": "text", "error_message": "text", "prompt_snapshot": "text",
    "response_snapshot": "text", "finished_at": "timestamp with time zone", "thread_id": "text", "node": "text",
    "provider": "text", "run_id": "uuid", "parent_run_id": "uuid", "status": "text", "identity_source": "text",
    "identity_reason": "text", "usage_source": "text", "finish_reason": "text", "reasoning_snapshot": "text",
    "cached_tokens": "integer", "reasoning_tokens": "integer", "ttft_ms": "integer", "tool_calls": "integer",
    "cost_usd": "numeric(18, 9)", "streamed": "boolean", "cached": "boolean", "attributes": "jsonb",
}  # fmt: skip
"""All but the two that a table must have to be a call log, call_id and created_at. Frozen: never edit."""


def upgrade() -> None:
    reconciler.upgrade(revision, _create)


def downgrade() -> None:
    reconciler.downgrade(revision)


def _create(name: str, schema: str | None, columns: Mapping[str, str]) -> None:
    op.create_table(
        name,
        sa.Column("call_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(one, reconciler.TYPES[kind], nullable=one != "model") for one, kind in columns.items()),
        sa.PrimaryKeyConstraint("call_id", "created_at", name=f"pk_{name}"),
        schema=schema,
        postgresql_partition_by="RANGE (created_at)",
    )
    no_owner = sa.text("session_id IS NULL OR user_id IS NULL")
    op.create_index(f"ix_{name}_session", name, ["session_id", "created_at"], schema=schema)
    op.create_index(f"ix_{name}_user", name, ["user_id", "created_at"], schema=schema)
    op.create_index(f"ix_{name}_created", name, ["created_at"], schema=schema, postgresql_using="brin")
    op.create_index(
        f"ix_{name}_unattributed",
        name,
        ["created_at"],
        schema=schema,
        postgresql_where=no_owner,
        sqlite_where=no_owner,
    )
    if context.get_context().dialect.name == "postgresql":
        reconciler.create_partitions(name, schema, MONTHS_AHEAD)
