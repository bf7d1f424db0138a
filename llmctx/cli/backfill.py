"""`backfill`: fill old NULLs from what is certain, or take that back."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, Yes, settings_of, worked

if TYPE_CHECKING:
    from llmctx.ops.backfill import Report


def add_to(app: typer.Typer) -> None:
    app.command()(backfill)


def backfill(
    ctx: typer.Context,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="NAME", help="Only by this: trace, thread, conversation, session, checkpoint."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--map", metavar="CSV", help="What you know: e.g. session_id,user_id.")
    ] = None,
    query: Annotated[
        str | None,
        typer.Option("--map-query", metavar="SQL", help="The same from a query: SELECT session_id, user_id …"),
    ] = None,
    undo_file: Annotated[
        Path | None, typer.Option("--undo-file", metavar="FILE", help="Where the way back is noted.")
    ] = None,
    undo: Annotated[Path | None, typer.Option("--undo", metavar="FILE", help="Take back what this file notes.")] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Fill missing users and sessions of old rows, where they are certain."""
    from llmctx.ops.backfill import RULES
    from llmctx.ops.backfill import backfill as fill

    if undo is not None:
        _undo(ctx, undo, yes=yes, json=json)
        return
    strange = [name for name in rule or () if name not in RULES]
    if strange:
        raise typer.BadParameter(f"there is no rule {strange[0]!r}: {', '.join(RULES)}")
    mapped = ["mapping"] if csv is not None or query is not None else []
    with output.progress() as progress:
        report = worked(
            fill(
                settings_of(ctx), do=yes, rules=[*rule, *mapped] if rule else RULES, csv=csv, query=query,
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
        output.show(f"\nsuch as ({word})")
        samples = [(name, one) for name, some in report.samples.items() for one in some]
        titles = ("rule", "call", "at UTC", "user", "session")
        output.table(
            [output.Column(title, cut="no" if title in ("rule", "at UTC") else "middle") for title in titles],
            (
                [
                    name,
                    one.call_id,
                    output.time_of(one.created_at, "%Y-%m-%d %H:%M"),
                    one.user_id or "(has one)",
                    one.session_id or "",
                ]
                for name, one in samples
            ),
            indent=2,
        )
    if report.refused:
        output.show("\nleft as they are")
        columns = [output.Column("rows", "right"), output.Column("why", cut="end")]
        output.table(columns, ([output.text_of(rows), why] for why, rows in report.refused.most_common()), indent=2)
    for note in report.notes:
        output.say(note)


def _conclusion(report: Report) -> str:
    filled = sum(report.filled.values())
    said = f"{filled:,} of {report.rows:,} rows with a gap"
    if not report.done:
        return f"{said} can be filled. Nothing was changed." + (" Add --yes to do it." if filled else "")
    if report.undo_file is None:
        return f"{said} were filled."
    return f"{said} were filled. The way back: llmctx backfill --undo {report.undo_file} --yes"


def _undo(ctx: typer.Context, path: Path, *, yes: bool, json: bool) -> None:
    from llmctx.ops.backfill import undo

    rows = asyncio.run(undo(settings_of(ctx), path, do=yes))
    if json:
        output.show_json({"rows": rows, "done": yes})
    said = f"{rows:,} rows {'are' if yes else 'would be'} as they were before; rows changed since then stay."
    output.say(said if yes else f"{said} Nothing was changed. Add --yes to do it.")
