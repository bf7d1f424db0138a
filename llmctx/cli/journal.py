"""`llmctx journal`: what waits on disk, and `replay`: write it now."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, Yes, settings_of

if TYPE_CHECKING:
    from llmctx.delivery.journal import JournalDirectory
    from llmctx.settings import Settings

group = typer.Typer(invoke_without_command=True, help="What waits on disk for the database.")


def add_to(app: typer.Typer) -> None:
    app.add_typer(group, name="journal")


@group.callback()
def journal(ctx: typer.Context, json: Json = False) -> None:
    """What waits on disk for the database."""
    if ctx.invoked_subcommand is not None:
        return
    found = _surveys(settings_of(ctx))
    if json:
        output.show_json([_told(one) for one in found])
    for one in found:
        if not json:
            _show(one)
    rows = sum(home.records + home.open for one in found for home in one.homes if not home.alive)
    refused = sum(len(one.quarantined) for one in found)
    if rows or refused:
        output.say(f"{rows} calls of processes that have ended, {refused} rows that were refused. See journal replay.")
        raise typer.Exit(1)
    output.say("Nothing waits but for what living processes are writing.")


@group.command()
def replay(
    ctx: typer.Context,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Write what was refused, once its cause is gone, and what dead processes left."""
    settings = settings_of(ctx)
    found = [one for one in _surveys(settings) if one.quarantined or any(not home.alive for home in one.homes)]
    rows = sum(home.records + home.open for one in found for home in one.homes if not home.alive)
    refused = sum(len(one.quarantined) for one in found)
    stored = again = adopted = 0
    if yes:
        from llmctx.delivery.journal import Journal
        from llmctx.delivery.replay import replay as write

        for one in found:
            own = Journal(Path(one.directory))
            try:
                counts = write(settings, own)
            finally:
                own.close()
            stored, again, adopted = stored + counts[0], again + counts[1], adopted + counts[2]
    if json:
        told = {"refused": refused, "of_the_dead": rows, "done": yes}
        output.show_json({**told, "stored": stored, "refused_again": again, "adopted": adopted})
    elif not yes:
        output.show(f"would: write {refused} rows that were refused, and {rows} of processes that have ended")
    else:
        output.show(f"done: {stored} rows that were refused, {adopted} of processes that have ended")
    if yes:
        output.say(f"{again} rows were refused again, and stay." if again else "All of it is in the database.")
    else:
        output.say("Nothing was changed." + (" Add --yes to do it." if rows or refused else ""))
    raise typer.Exit(1 if again else 0)


def _surveys(settings: Settings) -> list[JournalDirectory]:
    from llmctx.delivery.journal import inspect_directory

    return [inspect_directory(place) for place in settings.journal_places]


def _told(one: JournalDirectory) -> dict[str, object]:
    refused = [
        {"call_id": row.record.call_id, "sqlstate": row.sqlstate, "reason": row.reason, "at": row.at}
        for row in one.quarantined
    ]
    return {"directory": one.directory, "processes": one.homes, "quarantined": refused}


def _show(one: JournalDirectory) -> None:
    output.show(output.plain(one.directory))
    columns = [output.Column(title) for title in ("process", "state")]
    columns += [output.Column(title, "right") for title in ("rows", "open calls", "bytes")]
    rows = [
        [
            str(home.pid or home.name),
            "alive" if home.alive else "ended",
            *(output.text_of(number) for number in (home.records, home.open, home.bytes)),
            output.text_of(home.oldest) if home.oldest else "-",
        ]
        for home in one.homes
    ]
    if rows:
        output.table([*columns, output.Column("oldest")], rows, indent=2)
    for (sqlstate, reason), count in Counter((row.sqlstate, row.reason) for row in one.quarantined).most_common(10):
        output.paragraph(f"{count} refused [{sqlstate}]: {reason}", lead="  ")
