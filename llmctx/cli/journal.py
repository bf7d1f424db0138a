"""`llmctx journal`: the calls that wait on disk and on the broker; `journal replay` writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmctx.cli import output
from llmctx.cli.broker import report_json, show_report
from llmctx.cli.options import Json, Yes, settings_of
from llmctx.core.errors import DatabaseUnavailable
from llmctx.core.text import counted, escape_controls

if TYPE_CHECKING:
    from llmctx.core.endpoint import Endpoint
    from llmctx.delivery.journal import JournalDirectory, ProcessJournal
    from llmctx.ops.broker import BrokerReport
    from llmctx.ops.journals import Ownership

group = typer.Typer(invoke_without_command=True)


@group.callback()
def journal(ctx: typer.Context, json: Json = False) -> None:
    """Show the calls that wait on disk for the database, and what lies on the broker of LLMCTX_TRANSPORT.

    Exit code 1 when there are rows that no running process will write.
    """
    if ctx.invoked_subcommand is not None:
        return
    from llmctx.ops import broker, journals

    settings = settings_of(ctx)
    directories = list(journals.inspect_journals(settings))
    owners = journals.ownership(settings)
    report = broker.inspect(settings)
    if json:
        on_broker = [] if report is None else [report_json(report)]
        output.show_json([*(_as_json(one, owners) for one in directories), *on_broker])
    else:
        for one in directories:
            _show(one, owners)
        if report is not None:
            show_report(report)
    left, refused = _undelivered(directories, owners)
    refused += _set_aside(report)
    if left or refused:
        output.say(
            f"{counted(left, 'call')} of ended processes, {counted(refused, 'row')} that the database refused: "
            "llmctx journal replay"
        )
        raise typer.Exit(1)
    for_this = " for this database" if _of_others(directories, owners) else ""
    output.say(f"Nothing waits{for_this} except what running processes hold until the database takes it.")


@group.command()
def replay(ctx: typer.Context, yes: Yes = False, json: Json = False) -> None:
    """Write refused rows, and those of ended processes."""
    from llmctx.ops import broker, journals

    settings = settings_of(ctx)
    report = broker.inspect(settings)
    if isinstance(report, str):
        raise DatabaseUnavailable(report)
    directories = [
        one
        for one in journals.inspect_journals(settings)
        if one.dead_letters or any(process.is_left for process in one.processes)
    ]
    owners = journals.ownership(settings, must_reach=yes and bool(directories))
    left, refused = _undelivered(directories, owners)
    refused += _set_aside(report)
    stored = again = adopted = 0
    if yes:
        from llmctx.delivery.destinations.sql import SqlDestination
        from llmctx.delivery.journal import Journal
        from llmctx.delivery.replay import replay as write

        for one in directories:
            if not any(_undelivered([one], owners)):
                continue
            own = Journal(Path(one.directory))
            try:
                counts = write(SqlDestination(settings), settings, own, partial(owners.accepts, one.directory))
            finally:
                own.close()
            stored, again, adopted = stored + counts[0], again + counts[1], adopted + counts[2]
        if report is not None and report.refused:
            from_broker = broker.replay(settings, report.refused)
            stored, again = stored + from_broker[0], again + from_broker[1]
    if json:
        found = {"refused": refused, "of_the_dead": left, "done": yes}
        output.show_json({**found, "stored": stored, "refused_again": again, "adopted": adopted})
    elif yes:
        output.show(f"done: {counted(stored, 'refused row')}, {adopted:,} of ended processes")
    else:
        output.show(f"would: write {counted(refused, 'refused row')}, and {left:,} of ended processes")
    if yes:
        output.say(
            f"{counted(again, 'row was refused again, and stays', 'rows were refused again, and stay')}."
            if again
            else "All of it is in the database."
        )
        if others := _of_others(directories, owners):
            output.say(f"{counted(others, 'row')} of other databases kept: llmctx journal")
    else:
        output.say(output.dry_run(possible=bool(left or refused)))
    raise typer.Exit(1 if again else 0)


def _undelivered(directories: Sequence[JournalDirectory], owners: Ownership) -> tuple[int, int]:
    """Return how many calls of ended processes, and how many refused rows, wait for this database."""
    left = sum(
        process.records + process.open
        for one in directories
        for process in one.processes
        if process.is_left and owners.accepts(one.directory, process.endpoint)
    )
    refused = sum(owners.accepts(one.directory, row.endpoint) for one in directories for row in one.dead_letters)
    return left, refused


def _of_others(directories: Sequence[JournalDirectory], owners: Ownership) -> int:
    """Return how many calls of ended processes, and refused rows, wait for other databases."""
    of_all = sum(process.records + process.open for one in directories for process in one.processes if process.is_left)
    return of_all + sum(len(one.dead_letters) for one in directories) - sum(_undelivered(directories, owners))


def _set_aside(report: BrokerReport | str | None) -> int:
    return 0 if report is None or isinstance(report, str) else len(report.refused)


def _as_json(one: JournalDirectory, owners: Ownership) -> dict[str, object]:
    processes = [
        {
            **{name: value for name, value in asdict(process).items() if name != "endpoint"},
            "place": process.endpoint.name or None,
            "whose": owners.owner_of(one.directory, process.endpoint),
        }
        for process in one.processes
    ]
    refused = [
        {
            "call_id": row.record.call_id, "sqlstate": row.sqlstate, "reason": row.reason, "at": row.at,
            "place": row.endpoint.name or None, "whose": owners.owner_of(one.directory, row.endpoint),
        }
        for row in one.dead_letters
    ]  # fmt: skip
    return {"directory": one.directory, "processes": processes, "quarantined": refused}


def _show(one: JournalDirectory, owners: Ownership) -> None:
    output.show(escape_controls(one.directory))
    columns = [output.Column("process"), output.Column("state")]
    columns += [output.Column(title, "right") for title in ("rows", "open calls", "bytes")]
    lines = [
        [str(process.pid or process.name), _state(process)]
        + [output.text_of(number) for number in (process.records, process.open, process.bytes)]
        + [output.text_of(process.oldest, null="-"), _whose(one, process.endpoint, owners)]
        for process in one.processes
    ]
    if lines:
        output.table([*columns, output.Column("oldest"), output.Column("database", cut="end")], lines, indent=2)
    counts = Counter(
        (row.sqlstate, row.reason, _whose(one, row.endpoint, owners, between=" by ")) for row in one.dead_letters
    )
    for (sqlstate, reason, whose), count in counts.most_common(10):
        output.paragraph(f"{count} refused{whose} [{sqlstate}]: {reason}", lead="  ")


def _state(process: ProcessJournal) -> str:
    return "running" if process.alive else "ended, being recovered" if process.recovering else "ended"


def _whose(one: JournalDirectory, endpoint: Endpoint, owners: Ownership, *, between: str | None = None) -> str:
    """Return the name of the database that rows wait for; with `between` only if it is another one."""
    if owners.accepts(one.directory, endpoint):
        return "" if between is not None else endpoint.name if owners.is_our_broker(endpoint) else "this one"
    return f"{between or ''}{owners.name_of(endpoint)}"
