"""`llmctx sessions`: the sessions used last, or the conversation of one."""

from __future__ import annotations

import json as jsons
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctx.cli import output
from llmctx.cli.options import After, Before, Csv, Json, Number, query, with_filters
from llmctx.cli.output import text_of, time_of
from llmctx.cli.show import readable
from llmctx.cli.users import USAGE_FILTERS, By, CountOnly, show_usage

if TYPE_CHECKING:
    from llmctx.storage.filters import Filters


@with_filters(*USAGE_FILTERS)
def sessions(
    ctx: typer.Context,
    session: Annotated[
        str | None, typer.Argument(metavar="SESSION", help="Print the conversation of this session.")
    ] = None,
    number: Number = 20,
    *,
    filters: Filters,
    by: By = None,
    count: CountOnly = False,
    before: Before = None,
    after: After = None,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """List the sessions used last, or those with the most of something, or print the conversation of one."""
    from llmctx.storage import queries

    if session is None:
        show_usage("session", ctx, filters, number, by=by, count=count, json=json, csv=csv)
        return
    rows = query(ctx, lambda connection, table: queries.conversation(connection, table, session, limit=number))
    if not output.for_programs(rows, json=json, csv=csv):
        _show_conversation(session, rows)


def _show_conversation(session: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print prompt and response of each call in order; of a prompt that repeats the history, its last message."""
    if not rows:
        output.say(f"No calls of session {session}.")
        return
    for row in rows:
        title = [time_of(row["created_at"]), text_of(row["user_id"]), row["agent_key"] or row["node"] or row["model"]]
        output.paragraph(" ".join(map(str, title)), style="bold")
        prompt, response = row["prompt_snapshot"], row["response_snapshot"]
        if prompt:
            output.block(_last_message(str(prompt)))
        if response:
            output.block(f"→ {readable(str(response))}")
        elif row["error_message"]:
            output.block(f"→ {row['error_message']}")


def _last_message(prompt: str) -> str:
    try:
        messages = jsons.loads(prompt)
    except (ValueError, RecursionError):
        return prompt
    is_list = isinstance(messages, list) and messages and isinstance(messages[-1], dict)
    return readable(jsons.dumps(messages[-1:] if is_list else messages, ensure_ascii=False))
