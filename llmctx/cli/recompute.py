"""`llmctx recompute`: the cost of rows that are already in the table."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, Yes, run_interruptible, settings_of, with_filters
from llmctx.core.text import counted

if TYPE_CHECKING:
    from llmctx.storage.filters import Filters


@with_filters("user", "model", "since", "until")
def recompute(
    ctx: typer.Context,
    again: Annotated[bool, typer.Option("--all", help="Also rows that already have a cost.")] = False,
    *,
    filters: Filters,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Compute the cost of rows that have none."""
    from llmctx.delivery.pricing import Prices
    from llmctx.ops.recompute import recompute as work

    settings = settings_of(ctx)
    with output.progress() as progress:
        report = run_interruptible(
            work(
                settings, Prices(settings.price_file), filters, again=again, do=yes,
                progress=lambda more, total: progress.add("rows", more, total),
            ),
            changes=yes,
        )  # fmt: skip
    if json:
        output.show_json(asdict(report))
        return
    word = "done" if yes else "would"
    output.show(
        f"{word}: of {counted(report.rows, 'row')} {counted(report.changed, 'gets', 'get')} a cost, "
        f"{report.unknown:,} cannot be priced"
    )
    output.show(f"{word}: {report.before:,.6f} USD become {report.after:,.6f} USD")
    if not yes:
        output.say(output.dry_run(possible=bool(report.changed)))
