"""`llmctx migrate`: create the table, or adopt an existing one; `migrate check` and `migrate sql`.

The options `--check`, `--sql`, `--offline`, `--existing`, `--partition`, `--rehearse` and `--drop-foreign-keys` are the
former spellings of these commands and of `llmctx partition`: they still work, and `--help` no longer lists them.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from llmctx.cli import output
from llmctx.cli.broker import provision_broker
from llmctx.cli.options import Json, Yes, interruptible, settings_of
from llmctx.cli.partition import Downgrade, PlanOnly, partition, show_done, show_plan
from llmctx.core.text import counted

if TYPE_CHECKING:
    from llmctx.core.endpoint import Endpoint
    from llmctx.migrate.commands import Plan
    from llmctx.settings import Settings

Widen = Annotated[bool, typer.Option("--widen", help="Turn numeric id columns into text (rewrites the table).")]
Offline = Annotated[bool, typer.Option("--offline", help="Do not connect; assume there is no table.")]
Existing = Annotated[
    str | None,
    typer.Option("--existing", metavar="SHAPE", help="Do not connect; the table has numbers, texts, or is unkeyed."),
]

group = typer.Typer(invoke_without_command=True)
group.command("partition", hidden=True)(partition)


@group.callback()
def migrate(
    ctx: typer.Context,
    plan: PlanOnly = False,
    widen: Widen = False,
    downgrade: Downgrade = False,
    yes: Yes = False,
    json: Json = False,
    distribute: Annotated[
        bool, typer.Option("--distribute", help="Also spread the table over the nodes of a Citus cluster.")
    ] = False,
    shards: Annotated[
        int | None,
        typer.Option(
            "--shards", metavar="N", min=1, max=64_000, help="How many shards --distribute makes; else 2 for each node."
        ),
    ] = None,
    transport: Annotated[
        bool, typer.Option("--transport", help="Make the streams of LLMCTX_TRANSPORT instead, the message broker.")
    ] = False,
    texts_apart: Annotated[
        bool, typer.Option("--texts-apart", help="Also keep texts in a separate table, by day.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", hidden=True)] = False,
    sql: Annotated[bool, typer.Option("--sql", hidden=True)] = False,
    offline: Annotated[bool, typer.Option("--offline", hidden=True)] = False,
    existing: Annotated[str | None, typer.Option("--existing", hidden=True)] = None,
    by_month: Annotated[bool, typer.Option("--partition", hidden=True)] = False,
    rehearse: Annotated[bool, typer.Option("--rehearse", hidden=True)] = False,
    drop_foreign_keys: Annotated[bool, typer.Option("--drop-foreign-keys", hidden=True)] = False,
) -> None:
    """Create the table, or adopt an existing one.

    A new table is created, and one that llmctx created upgraded, at once; changes to any other are shown until --yes.
    """
    flags = (
        plan,
        widen,
        downgrade,
        yes,
        json,
        distribute,
        shards,
        transport,
        texts_apart,
        check,
        sql,
        offline,
        existing,
        by_month,
        rehearse,
        drop_foreign_keys,
    )
    if ctx.invoked_subcommand is not None:
        if any(flags):
            raise typer.BadParameter(f"write options after the command: llmctx migrate {ctx.invoked_subcommand} …")
        return
    if (sql or check or widen) if by_month else (rehearse or drop_foreign_keys):
        raise typer.BadParameter("--partition goes with --rehearse, --drop-foreign-keys, --plan, --downgrade and --yes")
    if plan + sql + check > 1 or (check and downgrade) or ((offline or existing is not None) and not sql):
        raise typer.BadParameter("choose one of --plan, --sql, --check; --offline and --existing go with --sql")
    if distribute and any((by_month, sql, check, downgrade, json)):
        raise typer.BadParameter("--distribute goes with --shards, --widen, --plan and --yes")
    if shards is not None and not distribute:
        raise typer.BadParameter("--shards goes with --distribute")
    if transport and any((widen, downgrade, distribute, texts_apart, check, sql, by_month)):
        raise typer.BadParameter("--transport goes with --plan, --yes and --json")
    if texts_apart and any((by_month, sql, check, downgrade, distribute)):
        raise typer.BadParameter("--texts-apart goes with --plan, --yes and --json")
    if transport:
        provision_broker(settings_of(ctx), only_plan=plan, yes=yes, json=json)
    elif by_month:
        partition(ctx, plan, rehearse, downgrade, drop_foreign_keys, yes, json)
    elif sql:
        print_sql(ctx, widen, downgrade, offline, existing, json)
    elif check:
        check_table(ctx, json)
    else:
        settings = settings_of(ctx)
        given = {"widen": widen, "texts_apart": texts_apart}
        _plan_and_do(settings, given, down=downgrade, only_plan=plan, yes=yes, json=json)
        if distribute:
            _distribute(settings, shards, yes=yes and not plan)


@group.command("check")
def check_table(ctx: typer.Context, json: Json = False) -> None:
    """Exit with code 1 unless the table is there and up to date."""
    from llmctx.migrate import commands
    from llmctx.storage.engine import describe_database

    settings = settings_of(ctx)
    if json:
        output.show_json(commands.state(settings))
    state = commands.check(settings)
    output.say(f"Table {settings.table} is up to date ({state.current}) in {describe_database(settings)}.")


@group.command("sql")
def print_sql(
    ctx: typer.Context,
    widen: Widen = False,
    downgrade: Downgrade = False,
    offline: Offline = False,
    existing: Existing = None,
    json: Json = False,
) -> None:
    """Print the SQL for the table as it is in the database."""
    from llmctx.core.errors import DatabaseUnavailable
    from llmctx.migrate import commands

    settings, look = settings_of(ctx), not offline and existing is None
    try:
        script = commands.sql(settings, down=downgrade, existing=existing, widen=widen, look=look)
    except DatabaseUnavailable:
        script = commands.sql(settings, down=downgrade, widen=widen, look=False)
        output.say("No connection: this is for a database without the table. If the table exists, add --existing.")
    if json:
        output.show_json({"sql": script.rstrip()})
    else:
        output.show(script.rstrip())


def _distribute(settings: Settings, shards: int | None, *, yes: bool) -> None:
    from llmctx.migrate import distribute

    if yes:
        with interruptible(changes=True):
            done_so = distribute.distribute(settings, shards=shards)
    else:
        done_so = distribute.plan(settings, shards=shards)
    spread = f"distributed by call_id, in {counted(done_so.shards, 'shard')} on {counted(done_so.nodes, 'node')}"
    if yes or not done_so.is_new:
        output.say(f"Table {settings.table} is {spread}{'' if done_so.is_new else ' already'}.")
    else:
        output.say(f"Table {settings.table} would be {spread}; its rows are moved. Add --yes.")


def _plan_and_do(
    settings: Settings, upgrade_options: dict[str, bool], *, down: bool, only_plan: bool, yes: bool, json: bool
) -> None:
    """Show what `upgrade` with these options, or the way back, would do; and do it."""
    from llmctx.migrate import commands
    from llmctx.storage.engine import describe_database

    plan = commands.plan(settings, down=down, **upgrade_options)
    doing = bool(plan.steps) and not only_plan and (yes or not (down or plan.adopts))
    if not json:
        show_plan(plan, only_notes=doing)
    told = list[str]()

    def say(what: str) -> None:
        told.append(what)
        if not json:
            show_done(what)

    endpoint: Endpoint | None = None
    with interruptible(changes=True):
        if doing and down:
            commands.downgrade(settings, say=say)
        elif doing:
            _, endpoint = commands.bring_to_head(settings, **upgrade_options, say=say)
    if json:
        result = {"steps": plan.steps, "notes": plan.notes, "adopts": plan.adopts, "done": doing}
        output.show_json({"database": describe_database(settings), "table": settings.table, **result})
    elif doing and not plan.adopts:
        for step in plan.steps:
            if step.what not in told:
                show_done(step.what)
    if not down and not only_plan and (doing or not plan.steps):
        _remember_endpoint(settings, endpoint)
    output.say(_conclusion(describe_database(settings), plan, doing=doing, down=down))


def _remember_endpoint(settings: Settings, endpoint: Endpoint | None) -> None:
    """Note on this host which database its name leads to, for rows that wait here; ask it if `endpoint` is None."""
    from llmctx.core.errors import LlmctxError
    from llmctx.delivery.journal import remember_endpoint
    from llmctx.migrate import commands

    with contextlib.suppress(LlmctxError, OSError):  # a role that may not; a host without a directory for journals
        endpoint = endpoint or commands.identify(settings)
        for directory in settings.journal_directories[:1]:
            remember_endpoint(directory, endpoint)


def _conclusion(database: str, plan: Plan, *, doing: bool, down: bool) -> str:
    if not plan.steps:
        return f"Nothing to do: {'nothing of llmctx is' if down else 'the table is up to date'} in {database}."
    if not doing:
        return output.dry_run(possible=down or plan.adopts, where=f" in {database}")
    if plan.adopts:
        return f"What llmctx had added was removed from {database}." if down else f"The table is adopted in {database}."
    return f"{'The table was dropped from' if down else 'The table is ready in'} {database}."
