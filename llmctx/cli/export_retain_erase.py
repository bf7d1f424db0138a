"""`export`: hand rows out; `retain`: keep less; `erase`: forget somebody, with a receipt."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmctx.cli import output
from llmctx.cli.options import MOST, Json, Yes, filtered, settings_of, worked

if TYPE_CHECKING:
    from llmctx.ops.erase import Receipt
    from llmctx.storage.filters import Filters


def add_to(app: typer.Typer) -> None:
    for verb in (export, retain, erase):
        app.command()(verb)


class Form(StrEnum):
    """What `export` writes."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    SQLITE = "sqlite"


@filtered(*MOST)
def export(
    ctx: typer.Context,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="A new file; without it to stdout.")] = None,
    form: Annotated[Form | None, typer.Option("--format", help="Unless the file's name says it: jsonl.")] = None,
    *,
    filters: Filters,
    json: Json = False,
) -> None:
    """Hand out rows, whole: to a user who asks, or to other tools."""
    from llmctx.ops.export import SUFFIXES, count
    from llmctx.ops.export import export as write

    settings = settings_of(ctx)
    if form is not None:
        chosen = form.value
    else:
        chosen = "jsonl" if to is None else SUFFIXES.get(to.suffix.lower(), "")
        if not chosen:
            raise typer.BadParameter(f"{to} does not say what it is to be: add --format jsonl, csv, parquet or sqlite")
    if json and to is None:
        raise typer.BadParameter("--json tells how many rows were written to a file: name one with --to")

    async def work() -> int:
        total = await count(settings, filters) if output.is_watched() else None
        with output.progress() as progress:
            return await write(settings, filters, to, chosen, progress=lambda more: progress.add("rows", more, total))  # type: ignore[arg-type]  # one of FORMATS

    rows = worked(work(), changes=False)
    if json:
        output.show_json({"rows": rows, "file": str(to), "format": chosen})
    output.say(f"{rows:,} rows" + (f" in {to}." if to is not None else "."))


def retain(
    ctx: typer.Context,
    rows: Annotated[int | None, typer.Option("--rows", metavar="DAYS", min=1, help="Keep rows so long.")] = None,
    snapshots: Annotated[
        int | None, typer.Option("--snapshots", metavar="DAYS", min=1, help="Keep prompts and answers so long.")
    ] = None,
    errors: Annotated[
        int | None, typer.Option("--errors", metavar="DAYS", min=1, help="Keep rows of failed calls so long.")
    ] = None,
    ahead: Annotated[
        int, typer.Option("--ahead", metavar="MONTHS", min=0, max=24, help="Partitions to make beforehand.")
    ] = 2,
    detach: Annotated[bool, typer.Option("--detach", help="Keep expired partitions as tables of their own.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="To the day, where a month is a partition.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Make partitions for what comes; take away what has expired.

    Days are those of LLMCTX_RETAIN_DAYS, LLMCTX_RETAIN_SNAPSHOT_DAYS and LLMCTX_RETAIN_ERROR_DAYS unless given.
    """
    from llmctx.storage.retention import Policy
    from llmctx.storage.retention import retain as work

    settings = settings_of(ctx)
    policy = Policy(
        rows=rows or settings.retain_days, snapshots=snapshots or settings.retain_snapshot_days,
        errors=errors or settings.retain_error_days, ahead=ahead, detach=detach, exact=exact,
    )  # fmt: skip
    with output.progress() as progress:
        report = worked(work(settings, policy, do=yes, progress=progress.add), changes=yes)
    if json:
        output.show_json(asdict(report))
    else:
        for step in report.steps:
            output.paragraph(step, lead="done: " if yes else "would: ")
        for note in report.notes:
            output.paragraph(note, lead="note:  ", lead_style="yellow")
    if not report.steps:
        output.say("Nothing to do.")
    elif not yes:
        output.say("Nothing was changed. Add --yes to do it.")
    else:
        output.say(f"{report.rows:,} rows deleted, texts taken out of {report.snapshots:,}.")


def erase(
    ctx: typer.Context,
    user: Annotated[str | None, typer.Option("--user", metavar="ID")] = None,
    session: Annotated[str | None, typer.Option("--session", metavar="ID")] = None,
    blank: Annotated[
        bool, typer.Option("--blank", help="Keep the rows for their figures; take ids and texts.")
    ] = False,
    mentions: Annotated[
        bool, typer.Option("--mentions", help="Take the id out of other people's texts, too. Reads all of them.")
    ] = False,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="For what living processes hold of theirs.")
    ] = 20.0,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Forget a user or a session: in database, journals, quarantine and Redis.

    Exit 1 when something of theirs is left.
    """
    from llmctx.ops.erase import Subject
    from llmctx.ops.erase import erase as forget

    if (
        not (user or session)
        or (user is not None and not user.strip())
        or (session is not None and not session.strip())
    ):
        raise typer.BadParameter("say whom: --user ID, --session ID, or both for what this user did in this session")
    subject = Subject(user=user, session=session)
    with output.progress() as progress:
        receipt = worked(
            forget(
                settings_of(ctx), subject, do=yes, blank=blank, mentions=mentions, wait_s=wait, progress=progress.add
            ),
            changes=yes,
        )
    if json:
        output.show_json({**asdict(receipt), "found": receipt.found, "left": receipt.left})
    else:
        _show(receipt)
    if yes and receipt.left:
        output.say(f"{receipt.left} are left. Calls that are still under way are written when they end: run it again.")
        raise typer.Exit(1)
    output.say(_conclusion(receipt))


def _show(receipt: Receipt) -> None:
    columns = [output.Column("place", cut="end"), output.Column("found", "right"), output.Column("where", cut="end")]
    rows = [[place.name, output.text_of(place.found), place.where] for place in receipt.places]
    if receipt.done:
        columns.insert(2, output.Column("left", "right"))
        for row, place in zip(rows, receipt.places, strict=True):
            row.insert(2, output.text_of(place.left))
    output.table(columns, rows)
    for note in receipt.notes:
        output.say(note)


def _conclusion(receipt: Receipt) -> str:
    if not receipt.found:
        return f"Nothing is known of {receipt.subject}."
    if not receipt.done:
        return f"Nothing was changed. Add --yes to {'blank' if receipt.blank else 'erase'} them."
    return f"Nothing of {receipt.subject} is left in these places: every one was searched again."
