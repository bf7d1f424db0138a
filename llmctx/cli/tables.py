"""`llmctx migrate`: make the table, or say what would be done."""

from __future__ import annotations

from typing import Annotated

import typer

from llmctx.cli import output
from llmctx.cli.common import Json, settings_of


def add_to(app: typer.Typer) -> None:
    app.command()(migrate)


def migrate(
    ctx: typer.Context,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, and do nothing.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL; needs no connection.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 unless the table is there and current.")] = False,
    downgrade: Annotated[bool, typer.Option("--downgrade", help="Take the table away, with its rows.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do what would otherwise only be shown.")] = False,
    json: Json = False,
) -> None:
    """Make the table."""
    if plan + sql + check > 1 or (check and downgrade):
        raise typer.BadParameter("choose one of --plan, --sql, --check")
    from llmctx import migrate as migrations
    from llmctx.database import where

    settings = settings_of(ctx)
    if sql:
        output.show(migrations.sql(settings, down=downgrade).rstrip())
        return
    if check:
        if json:
            output.show_json(migrations.state(settings))
        found = migrations.check(settings)
        output.say(f"Table {settings.table} is there and current ({found.current}) in {where(settings)}.")
        return
    steps = migrations.plan(settings, down=downgrade)
    doing = bool(steps) and not plan and (yes or not downgrade)
    if doing:
        (migrations.downgrade if downgrade else migrations.upgrade)(settings)
    if json:
        output.show_json({"database": where(settings), "table": settings.table, "steps": steps, "done": doing})
    elif steps:
        for step in steps:
            output.show(output.plain(("done: " if doing else "would: ") + step))
    output.say(_conclusion(where(settings), bool(steps), doing, downgrade))


def _conclusion(database: str, anything: bool, done: bool, down: bool) -> str:
    if not anything:
        return f"Nothing to do: {'there is no table' if down else 'the table is there and current'} in {database}."
    if done:
        return f"{'The table is gone from' if down else 'The table is ready in'} {database}."
    return f"Nothing was changed in {database}." + (" Add --yes to do it." if down else "")
