"""`llmctx retain`: create the next partitions, delete what has expired."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, Yes, run_interruptible, settings_of
from llmctx.core.text import counted


def retain(
    ctx: typer.Context,
    rows: Annotated[
        int | None, typer.Option("--rows", metavar="DAYS", min=1, max=36_500, help="Keep rows this long.")
    ] = None,
    snapshots: Annotated[
        int | None, typer.Option("--snapshots", metavar="DAYS", min=1, max=36_500, help="Keep texts this long.")
    ] = None,
    errors: Annotated[
        int | None, typer.Option("--errors", metavar="DAYS", min=1, max=36_500, help="Keep failed calls this long.")
    ] = None,
    ahead: Annotated[
        int, typer.Option("--ahead", metavar="MONTHS", min=0, max=24, help="Future partitions to create.")
    ] = 2,
    detach: Annotated[
        bool, typer.Option("--detach", help="Detach expired partitions instead of dropping them.")
    ] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Delete by the day even where partitions are monthly.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Create the next partitions, delete expired rows and texts.

    Defaults: LLMCTX_RETAIN_DAYS, LLMCTX_RETAIN_SNAPSHOT_DAYS, LLMCTX_RETAIN_ERROR_DAYS.
    """
    from llmctx.storage.retention import Policy
    from llmctx.storage.retention import retain as work

    settings = settings_of(ctx)
    policy = Policy(
        rows=rows or settings.retain_days, snapshots=snapshots or settings.retain_snapshot_days,
        errors=errors or settings.retain_error_days, ahead=ahead, detach=detach, exact=exact,
    )  # fmt: skip
    with output.progress() as progress:
        report = run_interruptible(work(settings, policy, do=yes, progress=progress.add), changes=yes)
    if json:
        output.show_json(asdict(report))
    else:
        output.show_plan(report.steps, report.notes, done=yes)
    if not report.steps:
        output.say("Nothing to do.")
    elif not yes:
        output.say(output.dry_run())
    else:
        output.say(f"{counted(report.rows, 'row')} deleted, texts removed from {report.snapshots:,}.")
