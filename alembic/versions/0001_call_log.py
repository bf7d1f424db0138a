"""Make the call log: by month on PostgreSQL, plain on SQLite.

Imports nothing from llmctx: it must mean the same in three years. It also runs inside somebody else's alembic tree,
whose env.py knows nothing of us: the table's name comes from -x llmctx_table=… or LLMCTX_TABLE there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import context, op
from alembic.util import CommandError
from sqlalchemy.dialects.postgresql import JSONB

revision = "llmctx_0001"
down_revision = None
branch_labels = ("llmctx",)
depends_on = None

MONTHS_AHEAD = 2
"""Partitions made beforehand, after the present month's; what comes later goes to the default partition."""


def upgrade() -> None:
    name, schema = _setting("table", "biz_agent_llm_call_logs"), _setting("schema", None)
    assert name is not None
    if not context.is_offline_mode() and sa.inspect(op.get_bind()).has_table(name, schema):
        raise CommandError(
            f"Table {name} exists already, and llmctx did not make it. Nothing was changed. "
            "Choose another name with LLMCTX_TABLE."
        )
    op.create_table(
        name,
        *_columns(),
        sa.PrimaryKeyConstraint("call_id", "created_at", name=f"pk_{name}"),
        schema=schema,
        postgresql_partition_by="RANGE (created_at)",
    )
    nobody = sa.text("session_id IS NULL OR user_id IS NULL")
    op.create_index(f"ix_{name}_session", name, ["session_id", "created_at"], schema=schema)
    op.create_index(f"ix_{name}_user", name, ["user_id", "created_at"], schema=schema)
    op.create_index(f"ix_{name}_created", name, ["created_at"], schema=schema, postgresql_using="brin")
    op.create_index(
        f"ix_{name}_unattributed",
        name,
        ["created_at"],
        schema=schema,
        postgresql_where=nobody,
        sqlite_where=nobody,
    )
    if context.get_context().dialect.name == "postgresql":
        for statement in _partitions(name, schema, datetime.now(UTC)):
            op.execute(statement)


def downgrade() -> None:
    name, schema = _setting("table", "biz_agent_llm_call_logs"), _setting("schema", None)
    assert name is not None
    op.drop_table(name, schema=schema)  # its partitions go with it


def _columns() -> Iterator[sa.Column]:
    text, integer, time = sa.Text(), sa.Integer(), sa.DateTime(timezone=True)
    yield sa.Column("call_id", sa.Uuid(), nullable=False)
    yield sa.Column("created_at", time, nullable=False)
    yield sa.Column("model", text, nullable=False)
    for column in ("trace_id", "session_id", "conversation_id", "user_id", "agent_key"):
        yield sa.Column(column, text)
    for column in ("temperature", "top_p"):
        yield sa.Column(column, sa.Double())
    for column in ("max_tokens", "prompt_tokens", "completion_tokens", "total_tokens", "latency_ms"):
        yield sa.Column(column, integer)
    yield sa.Column("success", sa.Boolean())
    for column in ("error_code", "error_message", "prompt_snapshot", "response_snapshot"):
        yield sa.Column(column, text)
    yield sa.Column("finished_at", time)
    for column in ("thread_id", "node", "provider"):
        yield sa.Column(column, text)
    for column in ("run_id", "parent_run_id"):
        yield sa.Column(column, sa.Uuid())
    for column in ("status", "identity_source", "identity_reason", "usage_source", "finish_reason"):
        yield sa.Column(column, text)
    yield sa.Column("reasoning_snapshot", text)
    for column in ("cached_tokens", "reasoning_tokens", "ttft_ms", "tool_calls"):
        yield sa.Column(column, integer)
    yield sa.Column("cost_usd", sa.Numeric(18, 9))
    for column in ("streamed", "cached"):
        yield sa.Column(column, sa.Boolean())
    yield sa.Column("attributes", sa.JSON().with_variant(JSONB(), "postgresql"))


def _partitions(name: str, schema: str | None, now: datetime) -> Iterator[str]:
    """The default partition, so that no month can ever refuse a row, and a few months' own."""
    quote = context.get_context().dialect.identifier_preparer.quote
    prefix = f"{quote(schema)}." if schema else ""
    part = f"CREATE TABLE {prefix}{{}} PARTITION OF {prefix}{quote(name)}"
    yield part.format(quote(f"{name}_default")) + " DEFAULT"
    for ahead in range(MONTHS_AHEAD + 1):
        first, after = (_month(now, ahead + more) for more in (0, 1))
        yield (
            part.format(quote(f"{name}_p{first:%Y_%m}"))
            + f" FOR VALUES FROM ('{first:%Y-%m-%d} 00:00:00+00') TO ('{after:%Y-%m-%d} 00:00:00+00')"
        )


def _month(now: datetime, ahead: int) -> datetime:
    years, month = divmod(now.month - 1 + ahead, 12)
    return datetime(now.year + years, month + 1, 1, tzinfo=UTC)


def _setting(key: str, default: str | None) -> str | None:
    """From our env.py, alembic's -x arguments, or the environment, in this order."""
    given = context.config.attributes.get(f"llmctx_{key}")
    given = given or context.get_x_argument(as_dictionary=True).get(f"llmctx_{key}")
    variable = "LLMCTX_TABLE" if key == "table" else "LLMCTX_DB_SCHEMA"
    return given or os.environ.get(variable) or default
