"""`llmctx doctor`: what is not set up right, with cause, consequence and fix."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, settings_of

if TYPE_CHECKING:
    from llmctx.ops.doctor import Finding


def doctor(
    ctx: typer.Context,
    app: Annotated[
        str | None,
        typer.Option("--app", metavar="MODULE:APP", help="Your application, as uvicorn takes it, or langgraph.json."),
    ] = None,
    app_dir: Annotated[
        str | None, typer.Option("--app-dir", metavar="DIR", help="Where its modules are; by default here and in src.")
    ] = None,
    no_start: Annotated[bool, typer.Option("--no-start", help="Do not run the application's lifespan.")] = False,
    json: Json = False,
) -> None:
    """Find what is set up wrong, and how to fix it."""
    from llmctx.ops.doctor import examine

    with contextlib.redirect_stdout(sys.stderr):  # what the application prints is no part of the report
        findings = examine(settings_of(ctx), app=app, app_dir=app_dir, start=not no_start, say=output.say)
    wrong = [finding for finding in findings if not finding.ok]
    if json:
        output.show_json({"ok": not wrong, "findings": findings})
    else:
        for finding in findings:
            _show(finding)
    unknown = sum(finding.unknown for finding in findings)
    if wrong:
        output.say(f"{len(wrong)} of {len(findings)} checks found something.")
    elif unknown:
        output.say(f"No problem was found. {unknown} of {len(findings)} checks could not be made.")
    else:
        output.say("Everything is set up correctly.")
    raise typer.Exit(1 if wrong else 0)


def _show(finding: Finding) -> None:
    if finding.unknown:
        output.paragraph(f"{finding.name}: {finding.cause}", lead="?     ", lead_style="yellow")
        return
    if finding.ok:
        output.paragraph(f"{finding.name}: {finding.cause}", lead="ok    ", lead_style="green")
        return
    output.paragraph(finding.name, lead="wrong ", lead_style="bold red", style="bold")
    parts = {"why": finding.cause, "so": finding.consequence, "do": finding.fix, "where": finding.where}
    for word, text in parts.items():
        if text:
            output.paragraph(text, lead=f"      {word:<6}")
