"""`llmctx migrate`: make the table, or adopt the one that is there; or say what would be done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, Yes, settings_of

if TYPE_CHECKING:
    from llmctx.migrate.commands import Plan
    from llmctx.settings import Settings

_INTERRUPTED = "Interrupted. What was done stays, and whoever writes has noticed nothing: run it again to go on."


def add_to(app: typer.Typer) -> None:
    app.command()(migrate)


def migrate(
    ctx: typer.Context,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, and do nothing.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL, for the table as it stands.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="With --sql: without a connection.")] = False,
    existing: Annotated[
        str | None,
        typer.Option("--existing", metavar="SHAPE", help="With --sql, unseen: numbers, texts or unkeyed."),
    ] = None,
    widen: Annotated[bool, typer.Option("--widen", help="Let ids that are numbers become text (rewrites).")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 unless the table is there and current.")] = False,
    downgrade: Annotated[bool, typer.Option("--downgrade", help="Take away what llmctx made or added.")] = False,
    partition: Annotated[
        bool, typer.Option("--partition", help="Partition an adopted table by month; with --downgrade, back.")
    ] = False,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="With --partition: on a copy of some rows.")] = False,
    drop_foreign_keys: Annotated[
        bool, typer.Option("--drop-foreign-keys", help="With --partition: untie tables that refer to it.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Make the table, or adopt the one that is there."""
    if (sql or check or widen) if partition else (rehearse or drop_foreign_keys):
        raise typer.BadParameter("--partition goes with --rehearse, --drop-foreign-keys, --plan, --downgrade and --yes")
    if plan + sql + check > 1 or (check and downgrade) or ((offline or existing is not None) and not sql):
        raise typer.BadParameter("choose one of --plan, --sql, --check; --offline and --existing go with --sql")
    settings = settings_of(ctx)
    if rehearse:
        _rehearse(settings, json)
    elif partition:
        _partition(settings, down=downgrade, untie=drop_foreign_keys, doing=yes and not plan, json=json)
    elif sql:
        _print_sql(settings, down=downgrade, offline=offline or existing is not None, existing=existing, widen=widen)
    elif check:
        _check(settings, json)
    else:
        _plan_and_do(settings, down=downgrade, widen=widen, only_plan=plan, yes=yes, json=json)


def _print_sql(settings: Settings, *, down: bool, offline: bool, existing: str | None, widen: bool) -> None:
    from llmctx.core.errors import DatabaseUnavailable
    from llmctx.migrate import commands as migrations

    try:
        script = migrations.sql(settings, down=down, existing=existing, widen=widen, look=not offline)
    except DatabaseUnavailable:
        script = migrations.sql(settings, down=down, widen=widen, look=False)
        output.say("No connection: this is for a database without the table. If it is there, say --existing.")
    output.show(script.rstrip())


def _check(settings: Settings, json: bool) -> None:
    from llmctx.migrate import commands as migrations
    from llmctx.storage.engine import where

    if json:
        output.show_json(migrations.state(settings))
    found = migrations.check(settings)
    output.say(f"Table {settings.table} is there and current ({found.current}) in {where(settings)}.")


def _plan_and_do(settings: Settings, *, down: bool, widen: bool, only_plan: bool, yes: bool, json: bool) -> None:
    from llmctx.migrate import commands as migrations
    from llmctx.storage.engine import where

    wanted = migrations.plan(settings, down=down, widen=widen)
    doing = bool(wanted.steps) and not only_plan and (yes or not (down or wanted.adopts))
    if not json:
        _show(wanted, only_notes=doing)
    say = None if json else _tell
    try:
        if doing and down:
            migrations.downgrade(settings, say=say)
        elif doing:
            migrations.upgrade(settings, widen=widen, say=say)
    except KeyboardInterrupt:
        output.say(_INTERRUPTED)
        raise
    if json:
        said = {"steps": wanted.steps, "notes": wanted.notes, "adopts": wanted.adopts, "done": doing}
        output.show_json({"database": where(settings), "table": settings.table, **said})
    elif doing and not wanted.adopts:
        for step in wanted.steps:
            _tell(step.what)
    output.say(_conclusion(where(settings), wanted, doing=doing, down=down))


def _rehearse(settings: Settings, json: bool) -> None:
    from llmctx.migrate import partition as partitioning

    found = partitioning.rehearse(settings, say=None if json else _tell)
    if json:
        output.show_json(found)
    output.say(
        f"{found['rows']:,} rows were partitioned in {found['there_s']} s and led back in {found['back_s']} s; "
        f"every value is as it was. The table has about {found['of']:,}, and was not touched."
    )


def _partition(settings: Settings, *, down: bool, untie: bool, doing: bool, json: bool) -> None:
    from llmctx.migrate import partition as partitioning
    from llmctx.migrate.commands import Plan, step_of
    from llmctx.storage.engine import where

    steps = [step_of(step) for step in partitioning.plan(settings, back=down, drop_foreign_keys=untie)]
    wanted = Plan(steps, partitioning.notes(settings) if steps and not down else [])
    doing = doing and bool(wanted.steps)
    if not json:
        _show(wanted, only_notes=doing)
    if doing:
        try:
            partitioning.partition(settings, back=down, drop_foreign_keys=untie, say=None if json else _tell)
        except KeyboardInterrupt:
            output.say(_INTERRUPTED)
            raise
    if json:
        said = {"steps": wanted.steps, "notes": wanted.notes, "done": doing}
        output.show_json({"database": where(settings), "table": settings.table, **said})
    elif not wanted.steps:
        output.say(f"Nothing to do in {where(settings)}.")
    elif doing:
        output.say(f"The table is {'one piece again' if down else 'partitioned by month'} in {where(settings)}.")
    else:
        output.say(f"Nothing was changed in {where(settings)}. --rehearse tries it on a copy, --yes does it.")


def _show(wanted: Plan, *, only_notes: bool) -> None:
    """The plan as a person reads it: what, and who would wait for it."""
    for step in [] if only_notes else wanted.steps:
        output.paragraph(step.what, lead="would: ")
        if step.lock != "nobody" or step.takes_s:
            takes = f"; takes about {step.takes_s} s" if step.takes_s else ""
            output.paragraph(f"who waits: {step.lock}{takes}", lead="       ", style="dim")
    for note in wanted.notes:
        output.paragraph(note, lead="note:  ", lead_style="yellow")


def _tell(what: str) -> None:
    output.paragraph(what, lead="done: ")


def _conclusion(database: str, wanted: Plan, *, doing: bool, down: bool) -> str:
    if not wanted.steps:
        return f"Nothing to do: {'nothing of llmctx is' if down else 'the table is there and current'} in {database}."
    if not doing:
        return f"Nothing was changed in {database}." + (" Add --yes to do it." if down or wanted.adopts else "")
    if wanted.adopts:
        return f"What llmctx had added is gone from {database}." if down else f"The table is adopted in {database}."
    return f"{'The table is gone from' if down else 'The table is ready in'} {database}."
