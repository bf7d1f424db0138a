"""`prices`: which models have one; `recompute`: cost_usd of rows that are there."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, Yes, filtered, settings_of, worked

if TYPE_CHECKING:
    from llmctx.ops.recompute import Priced
    from llmctx.storage.filters import Filters


def add_to(app: typer.Typer) -> None:
    for verb in (prices, recompute):
        app.command()(verb)


@filtered("since", "until")
def prices(ctx: typer.Context, filters: Filters, json: Json = False) -> None:
    """List the models in use and their prices, those without one first."""
    from llmctx.delivery.pricing import Prices
    from llmctx.ops.recompute import models
    from llmctx.storage.engine import reading
    from llmctx.storage.reflection import reflect

    settings = settings_of(ctx)
    known = Prices(settings.price_file)

    async def ask() -> list[Priced]:
        async with reading(settings) as connection:
            return await models(connection, await reflect(connection, settings), known, filters)

    found = asyncio.run(ask())
    if json:
        output.show_json([{**asdict(one), "price": one.price and one.price._asdict()} for one in found])
        return
    columns = [output.Column("model", cut="middle"), output.Column("provider", cut="end")]
    columns += [output.Column(title, "right") for title in ("calls", "no cost", "in $/M", "out $/M", "cached $/M")]
    output.table([*columns, output.Column("by")], (_cells(one) for one in found), gap=1)
    if any(one.price is None for one in found):
        output.say(
            'Models without a price cost NULL. Give them one in a file, [{"model": "…", "input": 1.2, "output": 4.8}] '
            "in USD for a million tokens, name it in LLMCTX_PRICE_FILE, then: llmctx recompute"
        )
    if not known.has_list:
        output.say('Prices of the usual models come with: pip install "llmctx[prices]"')


def _cells(one: Priced) -> list[str]:
    counts = [output.text_of(one.calls), output.text_of(one.unpriced)]
    if one.price is None:
        return [one.model, one.provider or "-", *counts, "-", "-", "-", "unknown"]
    each = (one.price.input, one.price.output, one.price.cached)
    return [one.model, one.provider or "-", *counts, *map(_per_million, each), one.price.origin]


def _per_million(price: Decimal) -> str:
    return f"{(price * 1_000_000).normalize():f}"


@filtered("user", "model", "since", "until")
def recompute(
    ctx: typer.Context,
    again: Annotated[bool, typer.Option("--all", help="Also rows that have a cost already.")] = False,
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
        report = worked(
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
    output.show(f"{word}: {report.changed:,} of {report.rows:,} rows get a cost, {report.unknown:,} cannot be priced")
    output.show(f"{word}: {report.before:,.6f} USD become {report.after:,.6f} USD")
    if not yes:
        output.say("Nothing was changed." + (" Add --yes to do it." if report.changed else ""))
