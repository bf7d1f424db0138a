"""`calls`, `show`, `sessions`, `users`, `coverage`, `stats`: what was called, whose it is and why, what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from llmctx.cli import call_table as following
from llmctx.cli import coverage as gaps
from llmctx.cli import output
from llmctx.cli import show as whole
from llmctx.cli import stats as totals
from llmctx.cli.options import MOST, Csv, Json, Number, filtered, settings_of

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmctx.storage.filters import Filters

T = TypeVar("T")


class By(StrEnum):
    """How `stats` groups."""

    USER = "user"
    SESSION = "session"
    AGENT = "agent"
    MODEL = "model"
    NODE = "node"
    DAY = "day"
    STATUS = "status"


def add_to(app: typer.Typer) -> None:
    for verb in (calls, show, sessions, users, coverage, stats):
        app.command()(verb)


def _ask(ctx: typer.Context, question: Callable[[AsyncConnection, Table], Awaitable[T]]) -> T:
    from llmctx.storage.engine import reading
    from llmctx.storage.reflection import reflect

    settings = settings_of(ctx)

    async def ask() -> T:
        async with reading(settings) as connection:
            return await question(connection, await reflect(connection, settings))

    return asyncio.run(ask())


@filtered(
    "user", "session", "agent", "model", "node", "status", "errors", "unattributed", "text", "since", "until"
)  # fmt: skip
def calls(
    ctx: typer.Context,
    number: Annotated[int, typer.Option("-n", metavar="N", min=1, max=10_000, help="How many.")] = 20,
    *,
    filters: Filters,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with those that end from now on.")] = False,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """List the latest calls."""
    from llmctx.storage import queries

    rows = _ask(ctx, lambda connection, table: queries.calls(connection, table, filters, limit=number))
    if follow:
        following.follow(settings_of(ctx), filters, list(reversed(rows)), json=json, csv=csv)
    if output.for_programs(rows, json=json, csv=csv):
        return
    if not rows:
        output.say("No calls yet." if filters == queries.Filters() else "No calls match.")
        return
    today = all(row["created_at"] and row["created_at"].date() == datetime.now(UTC).date() for row in rows)
    time = "%H:%M:%S" if today else output.format_of(row["created_at"] for row in rows)
    cells = [following.cells(row, time) for row in rows]
    output.table(following.columns(cells), cells, gap=1)
    output.say(f"One of them, whole, and why this user: llmctx show {queries.handle(rows[0]['call_id'])}")


def show(
    ctx: typer.Context,
    call_id: Annotated[
        str, typer.Argument(metavar="CALL_ID", help="Its id, the beginning of it, or as `calls` shows it.")
    ],
    json: Json = False,
) -> None:
    """Show one call, whole, and why it belongs to this user."""
    from llmctx.storage import queries

    row = _ask(ctx, lambda connection, table: queries.call(connection, table, call_id))
    if json:
        output.show_json(whole.as_json(row))
    else:
        whole.show_call(row)


@filtered("user", "agent", "model", "node", "since", "until")
def coverage(
    ctx: typer.Context,
    fail_under: Annotated[
        float | None, typer.Option("--fail-under", min=0, max=100, metavar="PERCENT", help="Exit 1 below this.")
    ] = None,
    *,
    filters: Filters,
    json: Json = False,
) -> None:
    """Say how many rows have their ids.

    By which witness, and what the others have in common.
    """
    from llmctx.storage import queries
    from llmctx.storage.queries import coverage_advice as cures

    found = _ask(ctx, lambda connection, table: queries.coverage(connection, table, filters))
    if json:
        said = {"in_common": cures.in_common(found.by_place), "cures": cures.cures(found.misses)}
        output.show_json({**asdict(found), "share": found.share, **said})
    else:
        gaps.show_coverage(found)
    if fail_under is not None and (found.share is None or found.share < fail_under):
        output.say(f"Fewer than the {fail_under:g} % that were asked for." if found.rows else "No rows to judge by.")
        raise typer.Exit(1)


@filtered(*MOST)
def stats(
    ctx: typer.Context,
    by: Annotated[By, typer.Option("--by", help="What a line stands for.")] = By.MODEL,
    number: Number = 50,
    *,
    filters: Filters,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """Add up calls, errors, tokens, cost and latency."""
    from llmctx.storage import queries

    rows = _ask(ctx, lambda connection, table: queries.stats(connection, table, by.value, filters, limit=number))
    if output.for_programs(rows, json=json, csv=csv):
        return
    if not rows:
        output.say("No calls.")
        return
    totals.show_stats(by.value, rows)


_OF_PEOPLE = ("user", "agent", "model", "since", "until")


@filtered(*_OF_PEOPLE)
def sessions(
    ctx: typer.Context,
    session: Annotated[str | None, typer.Argument(metavar="SESSION", help="What was said in this one.")] = None,
    number: Number = 20,
    *,
    filters: Filters,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """List the sessions used last, or say what was said in one."""
    from llmctx.storage import queries

    if session is None:
        _list("session", ctx, filters, number, json=json, csv=csv)
        return
    rows = _ask(ctx, lambda connection, table: queries.conversation(connection, table, session, limit=number))
    if not output.for_programs(rows, json=json, csv=csv):
        totals.show_conversation(session, rows)


@filtered(*_OF_PEOPLE)
def users(ctx: typer.Context, number: Number = 20, *, filters: Filters, json: Json = False, csv: Csv = False) -> None:
    """List the users seen last, and what they cost."""
    _list("user", ctx, filters, number, json=json, csv=csv)


def _list(what: str, ctx: typer.Context, filters: Filters, number: int, *, json: bool, csv: bool) -> None:
    from llmctx.storage import queries

    lately = filters.since is None and filters.user is None
    if lately:
        filters = replace(filters, since=totals.lately())
    question = queries.sessions if what == "session" else queries.users
    rows = _ask(ctx, lambda connection, table: question(connection, table, filters, limit=number))
    if not output.for_programs(rows, json=json, csv=csv):
        totals.show_used(what, rows, lately=lately)
