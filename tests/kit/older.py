"""Tables that were there before llmctx, in the three shapes met in practice."""

from __future__ import annotations

from typing import Literal

from llmctx.core.record import DEFAULT_TABLE

Shape = Literal["numbered", "named", "loose"]
SHAPES: tuple[Shape, ...] = ("numbered", "named", "loose")
CHILD = "biz_agent_llm_call_messages"


def made(shape: Shape) -> list[str]:
    """The statements that make the table, and the one that hangs on it."""
    id_type = "serial PRIMARY KEY" if shape == "numbered" else "varchar(50) PRIMARY KEY"
    user_type = "integer" if shape == "numbered" else "varchar(50)"
    time = "timestamptz" if shape == "loose" else "timestamp"
    unique = "" if shape == "loose" else "UNIQUE"
    references = "" if shape == "loose" else f"REFERENCES {DEFAULT_TABLE} (call_id)"
    return [
        f"""CREATE TABLE {DEFAULT_TABLE} (
          id {id_type}, call_id varchar(64) NOT NULL {unique}, trace_id varchar(64), session_id varchar(64),
          conversation_id varchar(64), user_id {user_type}, agent_key varchar(100), model varchar(100) NOT NULL,
          temperature numeric(4,2), top_p numeric(4,2), max_tokens integer, prompt_tokens integer,
          completion_tokens integer, total_tokens integer, latency_ms integer, success boolean, error_code varchar(50),
          error_message text, prompt_snapshot text, response_snapshot text,
          created_at {time} NOT NULL, finished_at {time})""",
        f"CREATE TABLE {CHILD} (id serial PRIMARY KEY, call_id varchar(64) {references}, content text)",
    ]


def row(shape: Shape, number: int, **values: object) -> str:
    """The statement that stores a row: of user 7, unless said otherwise."""
    usual: dict[str, object] = {
        "call_id": f"call-{number}", "session_id": "s-7", "user_id": 7, "model": "gpt-4o", "success": True,
        "prompt_snapshot": f"question {number}", "created_at": f"2026-11-20 12:{number % 60:02d}:00", "latency_ms": 10,
    }  # fmt: skip
    if shape != "numbered":
        usual["id"] = f"id-{number}"
    given = {**usual, **values}
    return f"INSERT INTO {DEFAULT_TABLE} ({', '.join(given)}) VALUES ({', '.join(map(_literal, given.values()))})"


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    return "'" + str(value).replace("'", "''") + "'"
