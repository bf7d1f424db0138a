"""`erase`: forget somebody, with a receipt."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from llmctx.cli import output
from llmctx.cli.common import Json, Session, User, settings_of

if TYPE_CHECKING:
    from llmctx.erase import Receipt

Yes = Annotated[bool, typer.Option("--yes", help="Do what would otherwise only be shown.")]


def add_to(app: typer.Typer) -> None:
    app.command()(erase)


def erase(
    ctx: typer.Context,
    user: User = None,
    session: Session = None,
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
    from llmctx.erase import Subject
    from llmctx.erase import erase as forget

    if (
        not (user or session)
        or (user is not None and not user.strip())
        or (session is not None and not session.strip())
    ):
        raise typer.BadParameter("say whom: --user ID, --session ID, or both for what this user did in this session")
    subject = Subject(user=user, session=session)
    with output.progress() as progress:
        receipt = asyncio.run(
            forget(
                settings_of(ctx), subject, do=yes, blank=blank, mentions=mentions, wait_s=wait, progress=progress.add
            )
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
