"""The command line: parse, ask the floors below, print. One file per group of verbs.

Exit codes: 0 fine, 1 a finding, 2 usage, 3 no database. Data goes to stdout, words to stderr; `--json` everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from llmctx.cli import backfill as backfilling
from llmctx.cli import doctor as checks
from llmctx.cli import export_retain_erase as life
from llmctx.cli import journal as journals
from llmctx.cli import migrate as tables
from llmctx.cli import output
from llmctx.cli import prices as costs
from llmctx.cli import read as reading
from llmctx.cli.demo import command as demonstration
from llmctx.core.errors import ConfigError, DatabaseUnavailable, LlmctxError

app = typer.Typer(
    name="llmctx",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (demonstration, tables, checks, reading, costs, backfilling, life, journals):
    group.add_to(app)


def _version(wanted: bool) -> None:
    if wanted:
        from llmctx import __version__

        print(f"llmctx {__version__}")
        raise typer.Exit


@app.callback()
def everything(
    ctx: typer.Context,
    database_url: Annotated[
        str | None, typer.Option("--database-url", metavar="URL", help="Instead of LLMCTX_DATABASE_URL.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and end.")
    ] = False,
) -> None:
    """Every LLM call becomes one row in your own database, with the right session and user."""
    ctx.obj = database_url


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    output.prepare()
    try:
        app(args=None if arguments is None else list(arguments), prog_name="llmctx")
    except SystemExit as end:  # click's way to end
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except LlmctxError as problem:
        output.say(f"error: {problem}")
        return 3 if isinstance(problem, DatabaseUnavailable) else 2 if isinstance(problem, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has enough: `llmctx calls | head`
        sys.stderr.close()
        return 0
    return 0
