"""`llmctx backfill`: fill missing users and sessions of old rows where they are certain, or undo that."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, Yes, choice, run_interruptible, settings_of
from llmctx.core.text import counted

if TYPE_CHECKING:
    from llmctx.ops.backfill import Report


def backfill(
    ctx: typer.Context,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="NAME", help="Only by trace, thread, conversation, session or checkpoint."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--map", metavar="CSV", help="Your own data, for example session_id,user_id.")
    ] = None,
    query: Annotated[
        str | None,
        typer.Option("--map-query", metavar="SQL", help="The same, by a query: SELECT session_id, user_id …"),
    ] = None,
    undo_file: Annotated[
        Path | None, typer.Option("--undo-file", metavar="FILE", help="File for the old values.")
    ] = None,
    undo: Annotated[
        Path | None, typer.Option("--undo", metavar="FILE", help="Restore the old values from this file.")
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Fill missing users and sessions of old rows.

    Only where they are certain, never by guessing.
    """
    from llmctx.ops.backfill import RULES
    from llmctx.ops.backfill import backfill as fill

    if undo is not None:
        _undo(ctx, undo, yes=yes, json=json)
        return
    rules = [choice("--rule", name, RULES) for name in rule or RULES]
    mapped = ["mapping"] if csv is not None or query is not None else []
    with output.progress() as progress:
        report = run_interruptible(
            fill(
                settings_of(ctx), do=yes, rules={*rules, *mapped}, csv=csv, query=query,
                undo_file=undo_file, progress=lambda more, total: progress.add("rows", more, total),
            ),
            changes=yes,
        )  # fmt: skip
    if json:
        output.show_json({**asdict(report), "filled": dict(report.filled), "refused": dict(report.refused)})
    else:
        _show(report)
    output.say(_conclusion(report))


def _show(report: Report) -> None:
    word = "filled" if report.done else "would be filled"
    if report.filled:
        columns = [output.Column("rule"), output.Column("rows", "right")]
        output.table(columns, ([name, output.text_of(rows)] for name, rows in report.filled.most_common()))
        output.show(f"\nfor example ({word})")
        time = "%Y-%m-%d %H:%M"
        lines = [
            [name, one.call_id, output.time_of(one.created_at, time), one.user_id or "(has one)", one.session_id or ""]
            for name, some in report.samples.items()
            for one in some
        ]
        call, user, session = (output.Column(title, cut="middle") for title in ("call", "user", "session"))
        output.table([output.Column("rule"), call, output.Column("at UTC"), user, session], lines, indent=2)
    if report.refused:
        output.show("\nnot filled")
        columns = [output.Column("rows", "right"), output.Column("why", cut="end")]
        output.table(columns, ([output.text_of(rows), why] for why, rows in report.refused.most_common()), indent=2)
    for note in report.notes:
        output.say(note)


def _conclusion(report: Report) -> str:
    filled = sum(report.filled.values())
    share = f"{filled:,} of {counted(report.rows, 'row')} with a gap"
    if not report.done:
        return f"{share} can be filled. {output.dry_run(possible=bool(filled))}"
    undo = f" To undo it: llmctx backfill --undo {report.undo_file} --yes" if report.undo_file is not None else ""
    return f"{share} filled.{undo}"


def _undo(ctx: typer.Context, path: Path, *, yes: bool, json: bool) -> None:
    from llmctx.ops.backfill import undo

    rows = asyncio.run(undo(settings_of(ctx), path, do=yes))
    if json:
        output.show_json({"rows": rows, "done": yes})
    done = f"{counted(rows, 'row')} {'restored' if yes else 'to be restored'}; rows changed since then stay."
    output.say(done if yes else f"{done} {output.dry_run()}")
