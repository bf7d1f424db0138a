"""`llmctx users`: the users seen last, and what they cost. The same table serves `llmctx sessions`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from llmctx.cli import output
from llmctx.cli.options import After, Before, Csv, Json, Number, choice, query, say_next, show_page, with_filters
from llmctx.cli.output import Column, text_of, time_of
from llmctx.core.text import counted

if TYPE_CHECKING:
    from llmctx.storage.filters import Filters

USAGE_FILTERS: Final = ("user", "agent", "model", "since", "until")

By = Annotated[
    str | None,
    typer.Option(
        "--by", metavar="FIGURE", help="Order by the most cost, errors, calls, tokens or ms, not by the last."
    ),
]

CountOnly = Annotated[bool, typer.Option("--count", help="Print only their number.")]


@with_filters(*USAGE_FILTERS)
def users(
    ctx: typer.Context,
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
    """List the users seen last, and what they cost; or those with the most of something."""
    show_usage("user", ctx, filters, number, by=by, count=count, json=json, csv=csv)


def show_usage(
    what: Literal["session", "user"],
    ctx: typer.Context,
    filters: Filters,
    number: int,
    *,
    by: str | None,
    count: bool,
    json: bool,
    csv: bool,
) -> None:
    """Print a page of the sessions with their user, or of the users with their number of sessions; or their `count`."""
    from llmctx.storage import queries

    if count:
        _show_count(what, ctx, filters, json=json)
        return
    before, after = ctx.params.get("before"), ctx.params.get("after")
    if before is not None and after is not None:
        raise typer.BadParameter("--before and --after: choose one")
    page: Callable[..., Awaitable[queries.Page[Any]]] = queries.sessions if what == "session" else queries.users
    is_bounded = filters.since is None and (by is not None or (what == "user" and filters.user is None))
    if by is None:
        if is_bounded and before is None and after is None:  # all that some users ever did would take long
            filters = replace(filters, since=datetime.now(UTC) - queries.MOST_DAYS)
        found = query(ctx, lambda c, table: page(c, table, filters, before=before, after=after, limit=number))
    else:
        if before is not None or after is not None:
            raise typer.BadParameter(f"--by {by} has no pages: leave out --before and --after")
        order = choice("--by", by, queries.ORDERS)
        top: Callable[..., Awaitable[list[Any]]] = queries.top_sessions if what == "session" else queries.top_users
        found = queries.Page(rows=query(ctx, lambda c, table: top(c, table, filters, by=order, limit=number)))
    rows = [{f"{what}_id": None, **asdict(row)} for row in found.rows]
    if show_page(ctx, found, rows, json=json, csv=csv):
        return
    if rows:
        _show_table(what, rows)
        if unpriced := sum(row["unpriced"] for row in rows if row["cost_usd"] is not None):
            output.say(
                f"USD leaves out {counted(unpriced, 'call')} without a cost; llmctx prices lists models that have none."
            )
    if is_bounded and before is None and after is None:
        output.say(f"Of the last {queries.MOST_DAYS.days} days; --since overrides this.")
    say_next(ctx, found)
    if rows and what == "session":
        output.say("One conversation: llmctx sessions ID")


def _show_count(what: Literal["session", "user"], ctx: typer.Context, filters: Filters, *, json: bool) -> None:
    """Print how many sessions or users there were."""
    from llmctx.storage import queries

    if any(ctx.params.get(name) is not None for name in ("by", "before", "after")) or ctx.params.get("csv"):
        raise typer.BadParameter("--count goes with filters and --json")
    count = queries.count_sessions if what == "session" else queries.count_users
    found = query(ctx, lambda c, table: count(c, table, filters))
    if json:
        output.show_json(asdict(found))
        return
    output.show(f"{found.value:,}{'+' if found.capped else ''}")
    if filters.since is None:
        output.say(f"Of the last {queries.MOST_DAYS.days} days; --since overrides this.")


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
        other = counted(row["users"], "user")
    sums = [text_of(row[name], null="-") for name in ("calls", "errors", "total_tokens", "cost_usd")]
    return [text_of(row[f"{what}_id"]), other, *sums, time_of(row["last"], time)]
