"""`llmctx coverage`: the share of rows that have their ids, by source, and what the others have in common."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from llmctx.cli import output
from llmctx.cli.options import Json, query, totals_used, with_filters
from llmctx.cli.output import Column, text_of
from llmctx.core.text import counted
from llmctx.identity.reasons import REASONS

if TYPE_CHECKING:
    from llmctx.storage.filters import Filters
    from llmctx.storage.queries import Coverage

_GROUPS: Final = 10


@with_filters("user", "agent", "model", "node", "since", "until")
def coverage(
    ctx: typer.Context,
    fail_under: Annotated[
        float | None, typer.Option("--fail-under", min=0, max=100, metavar="PERCENT", help="Exit code 1 below this.")
    ] = None,
    *,
    filters: Filters,
    json: Json = False,
) -> None:
    """Print how many rows have their ids.

    By source of identity, with what the others have in common and what would fix them.
    """
    from llmctx.storage import queries
    from llmctx.storage.queries import coverage_advice as advice
    from llmctx.storage.queries import token_gaps

    result = query(ctx, lambda connection, table: queries.coverage(connection, table, filters))
    if json:
        more = {"in_common": advice.in_common(result.by_place), "cures": advice.remedies(result.by_place)}
        more["tokens"] = token_gaps.in_words(result.missing_tokens)
        output.show_json({**asdict(result), "share": result.share, **more})
    else:
        _show(result)
    if fail_under is not None and (result.share is None or result.share < fail_under):
        output.say(f"Below the required {fail_under:g} %." if result.rows else "There are no rows to measure.")
        raise typer.Exit(1)


def _show(result: Coverage) -> None:
    """Print `result`: the share and the table by source, and the misses if there are any."""
    if result.erased:
        output.say(f"Not counted: {counted(result.erased, 'row')} blanked by `llmctx erase`.")
    if result.share is None:
        output.say("No rows.")
        return
    if result.as_of is not None:
        output.say(totals_used(result.as_of))
    output.show(f"{_percent(result.share)} of {counted(result.rows, 'row has', 'rows have')} both session and user.")
    output.show("\nby source")
    columns = [Column("source"), Column("rows", "right"), Column("with both", "right"), Column("share", "right")]
    lines = [
        [text_of(row["identity_source"]), text_of(row["rows"]), text_of(row["with_both"]), _percent(share)]
        for row in result.by_source
        for share in [100.0 * row["with_both"] / row["rows"]]
    ]
    output.table(columns, lines, indent=2)
    if result.misses:
        _show_misses(result)
    if result.missing_tokens:
        from llmctx.storage.queries import token_gaps

        output.show()
        for sentence in token_gaps.in_words(result.missing_tokens):
            output.paragraph(sentence)


def _show_misses(result: Coverage) -> None:
    from llmctx.storage.queries import coverage_advice as advice

    output.show(f"\nwhat the {counted(result.rows - result.with_both, 'other has', 'others have')} in common")
    keys = [key for key in ("identity_reason", "node", "agent_key", "route") if _in_any_group(result, key)]
    names = {"identity_reason": "reason", "agent_key": "agent"}
    columns = [Column("rows", "right"), *(Column(names.get(key, key), cut="end") for key in keys), Column("last UTC")]
    shown = result.misses[:_GROUPS]
    time = output.format_of(row["last"] for row in shown)
    lines = [[text_of(row["rows"]), *(row[key] or "-" for key in keys), f"{row['last']:{time}}"] for row in shown]
    output.table(columns, lines, indent=2)
    if len(result.misses) > _GROUPS:
        output.show(f"  and {counted(len(result.misses) - _GROUPS, 'smaller group')}")
    output.show()
    for sentence in advice.in_common(result.by_place):
        output.paragraph(sentence, lead="  ")
    if len(sites := advice.call_sites(result.by_place)) > 1:
        output.paragraph(", ".join(f"{where} ({rows:,})" for where, rows in sites) + ".", lead="  Made at ")
    for reason in dict.fromkeys(row["identity_reason"] for row in shown):
        if reason in REASONS:
            output.paragraph(REASONS[reason].text, lead=f"  {reason}: ")
    output.show("\nwhat would fix them")
    for remedy in advice.remedies(result.by_place):
        rows = f"up to {counted(remedy.rows, 'row')}"
        output.paragraph(f"{rows}. {remedy.how}", lead=f"  {remedy.name:<20}")
    output.say("\nList these rows: llmctx calls --unattributed")


def _in_any_group(result: Coverage, key: str) -> bool:
    """Tell whether any group has a value for `key`: a column of dashes is not worth printing."""
    return key == "identity_reason" or any(row[key] is not None for row in result.misses)


def _percent(share: float) -> str:
    """Round down: never 100 % while one row is missing."""
    return f"{int(share * 100) / 100:.2f} %"
