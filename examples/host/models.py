"""The tables of a clinic's application. It has kept a log of its LLM calls for years, and a table beside it."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
)

metadata = MetaData()

patients = Table("patients", metadata, Column("id", String(50), primary_key=True), Column("name", Text, nullable=False))

calls = Table(
    "biz_agent_llm_call_logs",
    metadata,
    Column("id", String(50), primary_key=True),  # made by the application
    Column("call_id", String(64), nullable=False, unique=True),
    Column("trace_id", String(64)),
    Column("session_id", String(64), index=True),
    Column("conversation_id", String(64)),
    Column("user_id", String(50)),
    Column("agent_key", String(100), nullable=False),
    Column("model", String(100), nullable=False),
    Column("temperature", Numeric(4, 2)),
    Column("top_p", Numeric(4, 2)),
    Column("max_tokens", Integer),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("total_tokens", Integer),
    Column("latency_ms", Integer),
    Column("success", Boolean),
    Column("error_code", String(50)),
    Column("error_message", Text),
    Column("prompt_snapshot", Text),
    Column("response_snapshot", Text),
    Column("created_at", DateTime, nullable=False),
    Column("finished_at", DateTime),
)

messages = Table(
    "biz_agent_llm_call_messages",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("call_id", String(64), ForeignKey("biz_agent_llm_call_logs.call_id"), nullable=False),
    Column("role", String(20)),
    Column("content", Text),
)
