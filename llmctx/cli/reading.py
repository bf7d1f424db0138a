"""`calls`, `show`, `coverage`, `stats`: what was called, whose it is and why, and what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from llmctx.cli import gaps, output, whole
from llmctx.cli.common import Agent, Json, Model, Node, Session, Since, Until, User, settings_of
from llmctx.cli.output import Column, text_of

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncConnection


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
    for verb in (calls, show, coverage, stats):
        app.command()(verb)


def _ask(ctx: typer.Context, question: Callable[[AsyncConnection, Table], Awaitable[T]]) -> T:
    from llmctx.database import reading
    from llmctx.tables import call_log_table

    settings = settings_of(ctx)

    async def ask() -> T:
        async with reading(settings) as connection:
            return await question(connection, call_log_table(settings.table, settings.db_schema))

    return asyncio.run(ask())


def calls(
    ctx: typer.Context,
    number: Annotated[int, typer.Option("-n", metavar="N", min=1, max=10_000, help="How many.")] = 20,
    user: User = None,
    session: Session = None,
    agent: Agent = None,
    model: Model = None,
    node: Node = None,
    status: Annotated[
        str | None, typer.Option("--status", metavar="WORD", help="ok, error, cancelled, abandoned, lost.")
    ] = None,
    errors: Annotated[bool, typer.Option("--errors", help="Only what did not end well.")] = False,
    unattributed: Annotated[bool, typer.Option("--unattributed", help="Only without user or session.")] = False,
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help="Only with this in prompt, answer or error.")
    ] = None,
    since: Since = None,
    until: Until = None,
    json: Json = False,
) -> None:
    """List the latest calls."""
    from llmctx import queries

    filters = queries.Filters(
        since=since, until=until, user=user, session=session, agent=agent, model=model,
        node=node, status=status, errors=errors, unattributed=unattributed, text=text,
    )  # fmt: skip
    rows = _ask(ctx, lambda connection, table: queries.calls(connection, table, filters, limit=number))
    if json:
        output.show_json(rows)
        return
    if not rows:
        output.say("No calls yet." if filters == queries.Filters() else "No calls match.")
        return
    today = all(row["created_at"].date() == datetime.now(UTC).date() for row in rows)
    cells = [_call_cells(row, "%H:%M:%S" if today else "%m-%d %H:%M") for row in rows]
    columns = [
        Column("time UTC"), Column("call"), Column("user", cut="middle"), Column("session", cut="middle"),
        Column("agent", cut="end"), Column("model", cut="end"), Column("ms", "right"),
    ]  # fmt: skip
    output.table(columns, cells, gap=1)
    output.say(f"One of them, whole, and why this user: llmctx show {queries.handle(rows[0]['call_id'])}")


def _call_cells(row: dict[str, Any], time: str) -> list[str]:
    from llmctx.queries import handle

    ended = text_of(row["latency_ms"]) if row["status"] in {"ok", None} else row["status"]
    ids = [text_of(row[name]) for name in ("user_id", "session_id")]
    return [f"{row['created_at']:{time}}", handle(row["call_id"]), *ids, row["agent_key"] or "", row["model"], ended]


def show(
    ctx: typer.Context,
    call_id: Annotated[
        str, typer.Argument(metavar="CALL_ID", help="Its id, the beginning of it, or as `calls` shows it.")
    ],
    json: Json = False,
) -> None:
    """Show one call, whole, and why it belongs to this user."""
    from llmctx import queries

    row = _ask(ctx, lambda connection, table: queries.call(connection, table, call_id))
    if json:
        output.show_json(whole.as_json(row))
    else:
        whole.show_call(row)


def coverage(
    ctx: typer.Context,
    fail_under: Annotated[
        float | None, typer.Option("--fail-under", min=0, max=100, metavar="PERCENT", help="Exit 1 below this.")
    ] = None,
    user: User = None,
    agent: Agent = None,
    model: Model = None,
    node: Node = None,
    since: Since = None,
    until: Until = None,
    json: Json = False,
) -> None:
    """Say how many rows have their ids.

    By which witness, and what the others have in common.
    """
    from llmctx import cures, queries

    filters = queries.Filters(user=user, agent=agent, model=model, node=node, since=since, until=until)
    found = _ask(ctx, lambda connection, table: queries.coverage(connection, table, filters))
    if json:
        said = {"in_common": cures.in_common(found.by_place), "cures": cures.cures(found.misses)}
        output.show_json({**asdict(found), "share": found.share, **said})
    else:
        gaps.show_coverage(found)
    if fail_under is not None and (found.share is None or found.share < fail_under):
        output.say(f"Fewer than the {fail_under:g} % that were asked for." if found.rows else "No rows to judge by.")
        raise typer.Exit(1)


def stats(
    ctx: typer.Context,
    by: Annotated[By, typer.Option("--by", help="What a line stands for.")] = By.MODEL,
    number: Annotated[int, typer.Option("-n", metavar="N", min=1, max=10_000, help="How many lines.")] = 50,
    user: User = None,
    session: Session = None,
    agent: Agent = None,
    model: Model = None,
    node: Node = None,
    since: Since = None,
    until: Until = None,
    json: Json = False,
) -> None:
    """Add up calls, errors, tokens, cost and latency."""
    from llmctx import queries

    filters = queries.Filters(
        user=user, session=session, agent=agent, model=model, node=node, since=since, until=until
    )  # fmt: skip
    rows = _ask(ctx, lambda connection, table: queries.stats(connection, table, by.value, filters, limit=number))
    if json:
        output.show_json(rows)
        return
    if not rows:
        output.say("No calls.")
        return
    numbers = {"calls": "calls", "errors": "errors", "prompt_tokens": "prompt", "completion_tokens": "compl.",
               "cost_usd": "USD", "avg_ms": "avg ms", "p95_ms": "p95 ms"}  # fmt: skip
    columns = [Column(by.value, cut="middle"), *(Column(title, "right") for title in numbers.values())]
    output.table(
        columns,
        (
            [text_of(row[by.value]), *("-" if row[key] is None else text_of(row[key]) for key in numbers)]
            for row in rows
        ),
    )
