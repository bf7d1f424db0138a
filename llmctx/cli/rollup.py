"""`llmctx rollup`: bring the totals by hour and by day up to date."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, run_interruptible, settings_of


def rollup(
    ctx: typer.Context,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every day with the rows; exit 1 if one differed.")
    ] = False,
    json: Json = False,
) -> None:
    """Sum up the calls by hour and by day, so that months are read at once. Run it every hour, from cron.

    The totals stand in tables of their own, beside the table, and hold no user and no session.
    """
    from llmctx.storage.rollup import rollup as work

    settings = settings_of(ctx)
    with output.progress() as progress:
        report = run_interruptible(work(settings, verify=verify, progress=progress.add), changes=True)
    if json:
        output.show_json(asdict(report))
    elif report.until is None:
        output.say("No calls yet.")
    else:
        output.show(
            f"Totals until {report.until:%Y-%m-%d %H:%M} UTC: {report.hours:,} hours more, {report.anew:,} anew."
        )
    if report.verified and not json:
        days = ", ".join(map(str, report.different))
        output.show(f"Days that differed and were rebuilt: {days or 'none'}.")
    if verify and report.different:
        raise typer.Exit(1)
