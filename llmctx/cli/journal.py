"""`llmctx journal`: the calls that wait on disk; `journal replay` writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, Yes, settings_of
from llmctx.core.text import plain

if TYPE_CHECKING:
    from llmctx.delivery.journal import JournalDirectory
    from llmctx.settings import Settings

group = typer.Typer(invoke_without_command=True)


@group.callback()
def journal(ctx: typer.Context, json: Json = False) -> None:
    """Show the calls that wait on disk for the database.

    Exit code 1 when there are rows that no running process will write.
    """
    if ctx.invoked_subcommand is not None:
        return
    directories = _directories(settings_of(ctx))
    if json:
        output.show_json([_as_json(one) for one in directories])
    for one in directories:
        if not json:
            _show(one)
    left, refused = _left(directories), sum(len(one.dead_letters) for one in directories)
    if left or refused:
        output.say(f"{left} calls of ended processes, {refused} rows that the database refused: llmctx journal replay")
        raise typer.Exit(1)
    output.say("Nothing waits except what running processes are writing.")


@group.command()
def replay(ctx: typer.Context, yes: Yes = False, json: Json = False) -> None:
    """Write refused rows, and those of ended processes."""
    settings = settings_of(ctx)
    directories = [
        one for one in _directories(settings) if one.dead_letters or any(not process.alive for process in one.processes)
    ]
    left, refused = _left(directories), sum(len(one.dead_letters) for one in directories)
    stored = again = adopted = 0
    if yes:
        from llmctx.delivery.destinations.sql import SqlDestination
        from llmctx.delivery.journal import Journal
        from llmctx.delivery.replay import replay as write

        for one in directories:
            own = Journal(Path(one.directory))
            try:
                counts = write(SqlDestination(settings), settings, own)
            finally:
                own.close()
            stored, again, adopted = stored + counts[0], again + counts[1], adopted + counts[2]
    if json:
        found = {"refused": refused, "of_the_dead": left, "done": yes}
        output.show_json({**found, "stored": stored, "refused_again": again, "adopted": adopted})
    elif yes:
        output.show(f"done: {stored} rows that were refused, {adopted} of ended processes")
    else:
        output.show(f"would: write {refused} rows that were refused, and {left} of ended processes")
    if yes:
        output.say(f"{again} rows were refused again, and stay." if again else "All of it is in the database.")
    else:
        output.say(output.dry_run(possible=bool(left or refused)))
    raise typer.Exit(1 if again else 0)


def _directories(settings: Settings) -> list[JournalDirectory]:
    from llmctx.delivery.journal import inspect_directory

    return [inspect_directory(place) for place in settings.journal_directories]


def _left(directories: Sequence[JournalDirectory]) -> int:
    """Return the number of calls in the journals of ended processes."""
    return sum(process.records + process.open for one in directories for process in one.processes if not process.alive)


def _as_json(one: JournalDirectory) -> dict[str, object]:
    refused = [
        {"call_id": row.record.call_id, "sqlstate": row.sqlstate, "reason": row.reason, "at": row.at}
        for row in one.dead_letters
    ]
    return {"directory": one.directory, "processes": one.processes, "quarantined": refused}


def _show(one: JournalDirectory) -> None:
    output.show(plain(one.directory))
    columns = [output.Column("process"), output.Column("state")]
    columns += [output.Column(title, "right") for title in ("rows", "open calls", "bytes")]
    lines = [
        [str(process.pid or process.name), "running" if process.alive else "ended"]
        + [output.text_of(number) for number in (process.records, process.open, process.bytes)]
        + [output.text_of(process.oldest, null="-")]
        for process in one.processes
    ]
    if lines:
        output.table([*columns, output.Column("oldest")], lines, indent=2)
    for (sqlstate, reason), count in Counter((row.sqlstate, row.reason) for row in one.dead_letters).most_common(10):
        output.paragraph(f"{count} refused [{sqlstate}]: {reason}", lead="  ")
