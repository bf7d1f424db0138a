"""`llmctx`: the commands by name, and one run of the command line, from its arguments to its exit code."""

from __future__ import annotations

import logging
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
    ship,
    show,
    stats,
    ui,
    users,
)
from llmctx.cli.demo import command as demo
from llmctx.cli.help_texts import restore_docstrings
from llmctx.cli.streams import OutputFailed, checked_stdout, safe_streams
from llmctx.core.errors import ConfigError, DatabaseUnavailable, LlmctxError

_COMMANDS: Final[dict[str, Callable[..., None] | typer.Typer]] = {
    "demo": demo.demo, "migrate": migrate.group, "partition": partition.partition, "doctor": doctor.doctor,
    "calls": calls.calls, "show": show.show, "sessions": sessions.sessions, "users": users.users,
    "coverage": coverage.coverage, "stats": stats.stats, "rollup": rollup.rollup,
    "ship": ship.ship, "ui": ui.ui,
    "prices": prices.prices, "recompute": recompute.recompute, "backfill": backfill.backfill, "export": export.export,
    "retain": retain.retain, "erase": erase.erase, "journal": journal.group,
}  # fmt: skip


_OPTIONS: Final = ("--database-url",)
"""Those of `llmctx` itself that have a value."""


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


restore_docstrings(app)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Whatever goes wrong is a sentence on stderr, and with `--json` an object with `error` and `exit_code` on stdout.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = 0
    with safe_streams():
        try:
            with checked_stdout() as stdout:
                code, error, usage = _outcome(given)
                if usage:
                    output.say(usage)
                if error:
                    output.say(f"{'E' if usage else 'e'}rror: {error}")
                    if "--json" in given and not stdout.is_used:
                        output.show_json({"error": error, "exit_code": code})
        except OutputFailed as problem:
            if problem.reader_is_gone:
                return 0
            output.say(f"error: {problem}")
            return code or 1
        except KeyboardInterrupt:
            return 130
        return code


def _outcome(arguments: list[str]) -> tuple[int, str, str]:
    """Return the exit code of one command, what went wrong in words, and how to use it if that was the reason."""
    try:
        result = app(args=arguments, prog_name="llmctx", standalone_mode=False)
        return (result if isinstance(result, int) else 0), "", ""
    except OutputFailed:
        raise
    except LlmctxError as problem:
        code = 3 if isinstance(problem, DatabaseUnavailable) else 2 if isinstance(problem, ConfigError) else 1
        return code, str(problem), ""
    except KeyboardInterrupt:
        return 130, "interrupted", ""
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1, "", ""
    except Exception as problem:  # noqa: BLE001  no user is to read a traceback
        if hasattr(problem, "format_message") and hasattr(problem, "exit_code"):  # click's, of which typer has a copy
            return _misuse(problem)
        return 1, _unexpected(problem), ""


def _misuse(problem: Any) -> tuple[int, str, str]:
    context, message = getattr(problem, "ctx", None), problem.format_message()
    if type(problem).__name__ == "NoArgsIsHelpError":
        return problem.exit_code, "", message
    message += _advice(problem, context)
    usage = "" if context is None else f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n"
    return problem.exit_code, message, usage


def _advice(problem: Any, context: Any) -> str:
    """Return what else was meant, maybe: an option of `llmctx` itself, or a value without its option."""
    if context is None:
        return ""
    if getattr(problem, "option_name", None) in _OPTIONS and context.parent is not None:
        verb = context.command_path.removeprefix("llmctx ")
        return f". It stands before the command: llmctx {problem.option_name} URL {verb}"
    if "unexpected extra argument" in problem.message:
        names = [one.opts[0] for one in context.command.params if one.param_type_name == "option" and not one.is_flag]
        if names:
            return f". A value follows the name of its option: {', '.join(names)}"
    return ""


def _unexpected(problem: Exception) -> str:
    if isinstance(problem, UnicodeEncodeError):
        return "An argument or a setting holds bytes that are not UTF-8. Correct it."
    if isinstance(problem, RecursionError):
        return "The input is nested too deeply."
    if isinstance(problem, MemoryError) or "start new thread" in str(problem):
        return "This process has too little memory, or may start no thread. Raise its limits."
    if isinstance(problem, OSError):
        name = f"{problem.filename}: " if problem.filename else ""
        return f"{name}{problem.strerror or problem}."
    logging.getLogger("llmctx").debug("llmctx: a command failed", exc_info=problem)
    return f"This should not happen: {type(problem).__name__}: {problem}. Please report it."
