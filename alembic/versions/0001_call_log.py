"""Make the call log, by month on PostgreSQL, plain on SQLite; or adopt the one that is there (PostgreSQL).

Imports nothing from llmctx: it must mean the same in three years. It also runs inside somebody else's alembic tree,
whose env.py knows nothing of us: the table's name comes from -x llmctx_table=… or LLMCTX_TABLE there. With
-x llmctx_widen=1 ids of another type become text; -x llmctx_existing=numbers, texts or unkeyed is for `--sql`, which
cannot look: the table is there, and of that shape.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import context, op
from alembic.util import CommandError, load_python_file
from sqlalchemy.dialects.postgresql import JSONB

revision = "llmctx_0001"
down_revision = None
branch_labels = ("llmctx",)
depends_on = None

MONTHS_AHEAD = 2
"""Partitions made beforehand, after the present month's; what comes later goes to the default partition."""


def upgrade() -> None:
    name, schema = _name()
    if context.is_offline_mode():
        if _given("found") is not None:  # `llmctx migrate --sql` has looked
            _adopt(_given("found"))
        elif _given("existing"):
            run = _part("run")
            with context.get_context().autocommit_block():
                for statement in run.unseen(name, schema, _given("existing"), _part("adopt")):
                    run.execute(context.get_context(), statement)
        else:
            _create(name, schema)
    elif context.get_context().dialect.name != "postgresql":
        if sa.inspect(op.get_bind()).has_table(name, schema):
            raise CommandError(
                f"Table {name} exists already, and llmctx did not make it; it adopts tables of PostgreSQL only. "
                "Nothing was changed. Choose another name with LLMCTX_TABLE."
            )
        _create(name, schema)
    else:
        found = _part("adopt").look(op.get_bind(), name, schema)
        if found is None:
            _create(name, schema)
        elif not found.made_by_us:
            _adopt(found)


def downgrade() -> None:
    name, schema = _name()
    adopt, back, run = _part("adopt"), _part("back"), _part("run")
    found = _given("found")
    if found is None and not context.is_offline_mode() and context.get_context().dialect.name == "postgresql":
        found = adopt.look(op.get_bind(), name, schema)
        if found is None:
            return
    if found is None or found.made_by_us:
        if found is None and context.get_context().dialect.name == "postgresql":
            op.execute(run.only_ours(name, schema, adopt.quote))  # nobody has looked at it
        op.drop_table(name, schema=schema)  # its partitions go with it
        return
    full = _given("full") or (set() if context.is_offline_mode() else back.full(op.get_bind(), found))
    plan = back.way_back(found, full)
    if plan.problems:
        raise CommandError(f"{'; '.join(plan.problems)}. Nothing was changed.")
    run.carry_out(context.get_context(), plan.steps, found, say=_given("say"), **_patience())


def _adopt(found: Any) -> None:
    """Add what the table lacks, step by step, beside those who write to it."""
    plan = _part("adopt").plan(found, widen=bool(_given("widen")))
    if plan.problems:
        raise CommandError(f"llmctx cannot adopt {found.sql}: {'; '.join(plan.problems)}. Nothing was changed.")
    _part("run").carry_out(context.get_context(), plan.steps, found, say=_given("say"), **_patience())


def _create(name: str, schema: str | None) -> None:
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


def _name() -> tuple[str, str | None]:
    """The table and its schema: from our env.py, alembic's -x arguments, or the environment, in this order."""
    environ = os.environ
    name = _given("table") or environ.get("LLMCTX_TABLE") or "biz_agent_llm_call_logs"
    return name, _given("schema") or environ.get("LLMCTX_DB_SCHEMA") or None


def _given(key: str) -> Any:
    """What our env.py or `llmctx migrate` says, or an -x argument."""
    return context.config.attributes.get(f"llmctx_{key}") or context.get_x_argument(as_dictionary=True).get(
        f"llmctx_{key}"
    )


def _patience() -> dict[str, float]:
    given = _given("patience_s")
    return {} if given is None else {"patience_s": float(given)}


def _part(name: str) -> Any:
    """A piece of this migration that stands in a file of its own."""
    return load_python_file(Path(__file__).parents[1], f"{name}_0001.py")
