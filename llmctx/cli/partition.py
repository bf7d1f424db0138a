"""`llmctx partition`: partition an adopted table by month while it is written to, or turn it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, Yes, interruptible, settings_of
from llmctx.core.text import counted

if TYPE_CHECKING:
    from llmctx.migrate.commands import Plan
    from llmctx.settings import Settings

PlanOnly = Annotated[bool, typer.Option("--plan", help="Only show what would be done.")]
Downgrade = Annotated[bool, typer.Option("--downgrade", help="Undo it: remove what llmctx made or added.")]


def partition(
    ctx: typer.Context,
    plan: PlanOnly = False,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Try it on a copy of some rows.")] = False,
    downgrade: Downgrade = False,
    drop_foreign_keys: Annotated[
        bool, typer.Option("--drop-foreign-keys", help="Drop the foreign keys of tables that refer to it.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Partition an adopted table by month.

    It stays in use meanwhile. Changes are only shown until --yes.
    """
    settings = settings_of(ctx)
    if rehearse:
        _rehearse(settings, json)
    else:
        _plan_and_do(settings, down=downgrade, untie=drop_foreign_keys, doing=yes and not plan, json=json)


def _rehearse(settings: Settings, json: bool) -> None:
    from llmctx.migrate.partition import rehearse

    result = rehearse(settings, say=None if json else show_done)
    if json:
        output.show_json(result)
    output.say(
        f"{counted(result['rows'], 'row')} partitioned in {result['there_s']} s, turned back in {result['back_s']} s; "
        f"every value is unchanged. The table itself has about {counted(result['of'], 'row')}, and was not touched."
    )


def _plan_and_do(settings: Settings, *, down: bool, untie: bool, doing: bool, json: bool) -> None:
    from llmctx.migrate import partition as partitioning
    from llmctx.migrate.commands import Plan, step_of
    from llmctx.storage.engine import describe_database

    steps = [step_of(step) for step in partitioning.plan(settings, back=down, drop_foreign_keys=untie)]
    plan = Plan(steps, partitioning.notes(settings) if steps and not down else [])
    doing = doing and bool(plan.steps)
    if not json:
        show_plan(plan, only_notes=doing)
    if doing:
        with interruptible(changes=True):
            partitioning.partition(settings, back=down, drop_foreign_keys=untie, say=None if json else show_done)
    if json:
        result = {"steps": plan.steps, "notes": plan.notes, "done": doing}
        output.show_json({"database": describe_database(settings), "table": settings.table, **result})
    elif not plan.steps:
        output.say(f"Nothing to do in {describe_database(settings)}.")
    elif doing:
        output.say(
            f"The table is {'one piece again' if down else 'partitioned by month'} in {describe_database(settings)}."
        )
    else:
        output.say(f"{output.dry_run(where=f' in {describe_database(settings)}')} --rehearse tries it on a copy.")


def show_plan(plan: Plan, *, only_notes: bool) -> None:
    """Print the steps of `plan`, and what each would block."""
    for step in [] if only_notes else plan.steps:
        output.paragraph(step.what, lead="would: ")
        if step.lock != "nobody" or step.takes_s:
            takes = f"; takes about {step.takes_s} s" if step.takes_s else ""
            output.paragraph(f"blocks: {step.lock}{takes}", lead="       ", style="dim")
    output.show_plan([], plan.notes, done=False)


def show_done(what: str) -> None:
    """Print a step that was taken."""
    output.paragraph(what, lead="done: ")
