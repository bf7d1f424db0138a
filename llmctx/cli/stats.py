"""`llmctx stats`: calls, errors, tokens, cost and latency by user, session, agent, model, node, day or status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from llmctx.cli import output
from llmctx.cli.options import COMMON_FILTERS, Csv, Json, Number, choice, query, totals_used, with_filters
from llmctx.cli.output import Column, text_of

if TYPE_CHECKING:
    from llmctx.storage.filters import Filters

_SUMS: Final = {
    "calls": "calls", "errors": "errors", "prompt_tokens": "prompt", "completion_tokens": "compl.", "cost_usd": "USD",
    "avg_ms": "avg ms", "p95_ms": "p95 ms",
}  # fmt: skip


@with_filters(*COMMON_FILTERS)
def stats(
    ctx: typer.Context,
    by: Annotated[
        str, typer.Option("--by", metavar="KEY", help="user, session, agent, model, node, day or status.")
    ] = "model",
    number: Number = 50,
    *,
    filters: Filters,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """Sum up calls, errors, tokens, cost and latency."""
    from llmctx.storage import queries
    from llmctx.storage.queries import token_gaps

    group = choice("--by", by, queries.GROUPS)
    found = query(ctx, lambda connection, table: queries.stats_by(connection, table, group, filters, limit=number))
    rows = found.rows
    if output.for_programs([{**row, "source": found.source} for row in rows], json=json, csv=csv):
        return
    if not rows:
        output.say("No calls.")
        return
    columns = [Column(by, cut="middle"), *(Column(title, "right") for title in _SUMS.values())]
    output.table(columns, ([text_of(row[by]), *(text_of(row[key], null="-") for key in _SUMS)] for row in rows))
    missing = query(ctx, lambda connection, table: queries.missing_tokens(connection, table, filters))
    for sentence in token_gaps.in_words(missing):
        output.say(sentence)
    if found.as_of is not None:
        output.say(totals_used(found.as_of))
