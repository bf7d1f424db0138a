"""Sums as tables, sessions and users as lists, and a session as what was said in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from llmctx.cli import output
from llmctx.cli.output import Column, text_of, time_of
from llmctx.cli.show import readable

_LATELY: Final = timedelta(days=7)
_STATS: Final = {
    "calls": "calls", "errors": "errors", "prompt_tokens": "prompt", "completion_tokens": "compl.", "cost_usd": "USD",
    "avg_ms": "avg ms", "p95_ms": "p95 ms",
}  # fmt: skip


def lately() -> datetime:
    """Since when sessions and users are listed, where nobody says: all that was ever there would take its time."""
    return datetime.now(UTC) - _LATELY


def show_stats(by: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        output.say("No calls.")
        return
    columns = [Column(by, cut="middle"), *(Column(title, "right") for title in _STATS.values())]
    lines = ([text_of(row[by]), *(_known(row[key]) for key in _STATS)] for row in rows)
    output.table(columns, lines)


def _known(value: object) -> str:
    return "-" if value is None else text_of(value)


def show_used(what: str, rows: Sequence[Mapping[str, Any]], *, lately: bool) -> None:
    """Sessions with their user, or users with their number of sessions."""
    if rows:
        other = "user" if what == "session" else "sessions"
        columns = [
            Column(what, cut="middle"), Column(other, cut="middle") if what == "session" else Column(other, "right"),
            *(Column(title, "right") for title in ("calls", "errors", "tokens", "USD")), Column("last UTC"),
        ]  # fmt: skip
        time = output.format_of(row["last"] for row in rows)
        output.table(columns, (_used(what, row, time) for row in rows))
    if lately:
        output.say(f"Of the last {_LATELY.days} days; --since says otherwise.")
    if rows and what == "session":
        output.say("What was said in one: llmctx sessions ID")


def _used(what: str, row: Mapping[str, Any], time: str) -> list[str]:
    other = text_of(row["sessions"]) if what == "user" else text_of(row["user_id"])
    if what == "session" and row["users"] > 1:
        other = f"{row['users']} users"
    sums = [_known(row[name]) for name in ("calls", "errors", "total_tokens", "cost_usd")]
    return [text_of(row[f"{what}_id"]), other, *sums, time_of(row["last"], time)]


def show_conversation(session: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prompt and answer of each call, in their order; of a prompt that repeats what was said, its last message."""
    if not rows:
        output.say(f"No calls of session {session}.")
        return
    for row in rows:
        title = [time_of(row["created_at"]), text_of(row["user_id"]), row["agent_key"] or row["node"] or row["model"]]
        output.paragraph(" ".join(map(str, title)), style="bold")
        prompt, answer = row["prompt_snapshot"], row["response_snapshot"]
        if prompt:
            output.block(_last(str(prompt)))
        if answer:
            output.block(f"→ {readable(str(answer))}")
        elif row["error_message"]:
            output.block(f"→ {row['error_message']}")


def _last(prompt: str) -> str:
    import json

    try:
        messages = json.loads(prompt)
    except ValueError:
        return prompt
    is_list = isinstance(messages, list) and messages and isinstance(messages[-1], dict)
    return readable(json.dumps(messages[-1:] if is_list else messages, ensure_ascii=False))
