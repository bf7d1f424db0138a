"""`llmctx prices`: the models in use, and which have a price."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, query, settings_of, totals_used, with_filters

if TYPE_CHECKING:
    from llmctx.ops.recompute import ModelPrice
    from llmctx.storage.filters import Filters


@with_filters("since", "until")
def prices(ctx: typer.Context, filters: Filters, json: Json = False) -> None:
    """List the models in use and their prices."""
    from llmctx.delivery.pricing import Prices
    from llmctx.ops.recompute import models

    price_list = Prices(settings_of(ctx).price_file)
    rows, as_of = query(ctx, lambda connection, table: models(connection, table, price_list, filters))
    if json:
        output.show_json([{**asdict(one), "price": one.price and one.price._asdict()} for one in rows])
        return
    columns = [output.Column("model", cut="middle"), output.Column("provider", cut="end")]
    columns += [output.Column(title, "right") for title in ("calls", "no cost", "in $/M", "out $/M", "cached $/M")]
    output.table([*columns, output.Column("by")], (_cells(one) for one in rows), gap=1)
    if as_of is not None:
        output.say(totals_used(as_of))
    if any(one.price is None for one in rows):
        output.say(
            "The cost of models without a price is NULL. Write their prices, in USD per million tokens, to a file, "
            '[{"model": "…", "input": 1.2, "output": 4.8}], set LLMCTX_PRICE_FILE to it, then run: llmctx recompute'
        )
    if not price_list.has_list:
        output.say('Prices of common models come with: pip install "llmctx[prices]"')


def _cells(one: ModelPrice) -> list[str]:
    counts = [output.text_of(one.calls), output.text_of(one.unpriced)]
    if one.price is None:
        return [one.model, one.provider or "-", *counts, "-", "-", "-", "unknown"]
    each = (one.price.input, one.price.output, one.price.cached)
    return [one.model, one.provider or "-", *counts, *map(_per_million, each), one.price.origin]


def _per_million(price: Decimal) -> str:
    return f"{(price * 1_000_000).normalize():f}"
