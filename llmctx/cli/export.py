"""`llmctx export`: write rows to a file or to stdout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmctx.cli import output
from llmctx.cli.options import COMMON_FILTERS, Json, choice, run_interruptible, settings_of, with_filters
from llmctx.core.text import counted

if TYPE_CHECKING:
    from llmctx.settings import Settings
    from llmctx.storage.filters import Filters


@with_filters(*COMMON_FILTERS)
def export(
    ctx: typer.Context,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="A new file; without it, stdout.")] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="jsonl, csv, parquet or sqlite; else by the suffix of --to."),
    ] = None,
    *,
    filters: Filters,
    json: Json = False,
) -> None:
    """Export whole rows, for a user who asks or for other tools."""
    from llmctx.ops.export import FORMATS, SUFFIXES, count
    from llmctx.ops.export import export as write

    settings = settings_of(ctx)
    chosen = SUFFIXES.get(to.suffix.lower()) if to is not None else FORMATS[0]
    if form is not None:
        chosen = choice("--format", form, FORMATS)
    if chosen is None:
        raise typer.BadParameter(f"{to} has no suffix of a format: add --format {', '.join(FORMATS)}")
    if json and to is None:
        raise typer.BadParameter("--json reports how many rows were written to a file: name one with --to")

    async def work() -> int:
        total = await count(settings, filters) if output.is_interactive() else None
        with output.progress() as progress:
            return await write(settings, filters, to, chosen, progress=lambda more: progress.add("rows", more, total))

    rows = run_interruptible(work(), changes=False)
    if json:
        output.show_json({"rows": rows, "file": str(to), "format": chosen})
    output.say(counted(rows, "row") + (f" in {to}." if to is not None else "."))
    _say_what_waits(settings)


def _say_what_waits(settings: Settings) -> None:
    """Say how many rows are on this host's disk and not in the table."""
    from llmctx.ops import journals

    waiting = journals.count_waiting(settings)
    if waiting.for_this_database:
        output.say(
            f"{waiting.for_this_database:,} more wait on this host's disk, and are not among them: llmctx journal."
        )
    for name, count in waiting.for_other_databases.items():
        output.say(f"{counted(count, 'waits', 'wait')} on this host's disk for {name}.")
