"""`llmctx users`: the users seen last, and what they cost. The same table serves `llmctx sessions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import typer

from llmctx.cli import output
from llmctx.cli.options import Csv, Json, Number, ask, with_filters
from llmctx.cli.output import Column, text_of, time_of

if TYPE_CHECKING:
    from llmctx.storage.filters import Filters

USAGE_FILTERS: Final = ("user", "agent", "model", "since", "until")
_RECENT: Final = timedelta(days=7)


@with_filters(*USAGE_FILTERS)
def users(ctx: typer.Context, number: Number = 20, *, filters: Filters, json: Json = False, csv: Csv = False) -> None:
    """List the users seen last, and what they cost."""
    show_usage("user", ctx, filters, number, json=json, csv=csv)


def show_usage(
    what: Literal["session", "user"], ctx: typer.Context, filters: Filters, number: int, *, json: bool, csv: bool
) -> None:
    """Print sessions with their user, or users with their number of sessions; of the last days unless filtered."""
    from llmctx.storage import queries

    only_recent = filters.since is None and filters.user is None
    if only_recent:  # all that was ever there would take long
        filters = replace(filters, since=datetime.now(UTC) - _RECENT)
    question = queries.sessions if what == "session" else queries.users
    rows = ask(ctx, lambda connection, table: question(connection, table, filters, limit=number))
    if output.for_programs(rows, json=json, csv=csv):
        return
    if rows:
        _show_table(what, rows)
    if only_recent:
        output.say(f"Of the last {_RECENT.days} days; --since overrides this.")
    if rows and what == "session":
        output.say("The conversation of one: llmctx sessions ID")


def _show_table(what: str, rows: Sequence[Mapping[str, Any]]) -> None:
    other = Column("user", cut="middle") if what == "session" else Column("sessions", "right")
    sums = (Column(title, "right") for title in ("calls", "errors", "tokens", "USD"))
    time = output.format_of(row["last"] for row in rows)
    output.table(
        [Column(what, cut="middle"), other, *sums, Column("last UTC")], (_cells(what, row, time) for row in rows)
    )


def _cells(what: str, row: Mapping[str, Any], time: str) -> list[str]:
    other = text_of(row["sessions"]) if what == "user" else text_of(row["user_id"])
    if what == "session" and row["users"] > 1:
        other = f"{row['users']} users"
    sums = [text_of(row[name], null="-") for name in ("calls", "errors", "total_tokens", "cost_usd")]
    return [text_of(row[f"{what}_id"]), other, *sums, time_of(row["last"], time)]
