"""The command line: parse, ask the floors below, print. One file a verb, named like it.

`options.py` holds what verbs share, `output.py` alone prints. Data goes to stdout, messages to stderr; every verb has
`--json`. Exit codes: 0 fine, 1 a finding, 2 usage, 3 no database. No verb computes what a Python caller could not ask.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from llmctx.cli import (
    backfill,
    calls,
    coverage,
    doctor,
    erase,
    export,
    journal,
    migrate,
    output,
    partition,
    prices,
    recompute,
    retain,
    rollup,
    sessions,
    show,
    stats,
    users,
)
from llmctx.cli.demo import command as demo
from llmctx.core.errors import ConfigError, DatabaseUnavailable, LlmctxError

_COMMANDS: Final[dict[str, Callable[..., None] | typer.Typer]] = {
    "demo": demo.demo, "migrate": migrate.group, "partition": partition.partition, "doctor": doctor.doctor,
    "calls": calls.calls, "show": show.show, "sessions": sessions.sessions, "users": users.users,
    "coverage": coverage.coverage, "stats": stats.stats, "rollup": rollup.rollup,
    "prices": prices.prices, "recompute": recompute.recompute, "backfill": backfill.backfill, "export": export.export,
    "retain": retain.retain, "erase": erase.erase, "journal": journal.group,
}  # fmt: skip


class _InOrder(TyperGroup):
    """Lists commands in the order above: typer has groups behind the rest."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)


app = typer.Typer(
    name="llmctx",
    cls=_InOrder,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _command in _COMMANDS.items():
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name)
    else:
        app.command(_name)(_command)


def _version(asked: bool) -> None:
    if asked:
        from llmctx import __version__

        print(f"llmctx {__version__}")
        raise typer.Exit


@app.callback()
def main(
    ctx: typer.Context,
    database_url: Annotated[
        str | None, typer.Option("--database-url", metavar="URL", help="Overrides LLMCTX_DATABASE_URL.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Every LLM call becomes one row in your own database, with the right session and user."""
    ctx.obj = database_url


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    output.prepare()
    try:
        app(args=None if arguments is None else list(arguments), prog_name="llmctx")
    except SystemExit as end:  # click ends this way
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except LlmctxError as problem:
        output.say(f"error: {problem}")
        return 3 if isinstance(problem, DatabaseUnavailable) else 2 if isinstance(problem, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has closed it: `llmctx calls | head`
        sys.stderr.close()
        return 0
    return 0
