"""`llmctx erase`: delete all data of a user or a session, with a receipt."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, Yes, run_interruptible, settings_of
from llmctx.core.text import counted

if TYPE_CHECKING:
    from llmctx.ops.erase import Receipt


def erase(
    ctx: typer.Context,
    user: Annotated[str | None, typer.Option("--user", metavar="ID")] = None,
    session: Annotated[str | None, typer.Option("--session", metavar="ID")] = None,
    blank: Annotated[
        bool, typer.Option("--blank", help="Keep the rows and their figures; remove ids and texts.")
    ] = False,
    mentions: Annotated[
        bool, typer.Option("--mentions", help="Also remove the id from the texts of other rows (reads all rows).")
    ] = False,
    wait: Annotated[
        float,
        typer.Option("--wait", metavar="SECONDS", min=0, help="Time for running processes to do their part."),
    ] = 20.0,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete a user's or a session's data: table, journals, Redis.

    Exit code 1 when some of it is left.
    """
    from llmctx.ops.erase import Subject
    from llmctx.ops.erase import erase as forget

    named = [one for one in (user, session) if one is not None]
    if not named or not all(one.strip() for one in named):
        raise typer.BadParameter("add --user ID, --session ID, or both for what this user did in this session")
    subject = Subject(user=user, session=session)
    with output.progress() as progress:
        receipt = run_interruptible(
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
        output.say(
            f"{counted(receipt.left, 'is', 'are')} left. What running processes hold is written when a call ends, and "
            "when the database takes it (`llmctx journal`): run it again."
        )
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
        return f"Nothing of {receipt.subject} was found."
    if not receipt.done:
        return output.dry_run(action="blank them" if receipt.blank else "erase them")
    return f"Nothing of {receipt.subject} is left: every place was searched again."
