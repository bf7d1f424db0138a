"""The share of rows that have their ids, by which witness, and what the others have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmctx.cli import output
from llmctx.cli.output import Column, text_of
from llmctx.identity import reasons as explain
from llmctx.storage.queries import coverage_advice as cures

if TYPE_CHECKING:
    from llmctx.storage.queries import Coverage

_GROUPS: Final = 10


def show_coverage(found: Coverage) -> None:
    """Print it; nothing more than the first two tables when every row has both ids."""
    if found.erased:
        output.say(f"{found.erased:,} rows were blanked by `llmctx erase`, and do not count.")
    if found.share is None:
        output.say("No rows.")
        return
    output.show(f"{_percent(found.share)} of {found.rows:,} rows have both session and user.")
    output.show("\nby witness")
    columns = [Column("witness"), Column("rows", "right"), Column("with both", "right"), Column("share", "right")]
    output.table(
        columns,
        (
            [text_of(row["identity_source"]), text_of(row["rows"]), text_of(row["with_both"]),
             _percent(100.0 * row["with_both"] / row["rows"])]
            for row in found.by_source
        ),
        indent=2,
    )  # fmt: skip
    if found.misses:
        _show_misses(found)


def _show_misses(found: Coverage) -> None:
    output.show(f"\nwhat the {found.rows - found.with_both:,} others have in common")
    keys = [key for key in ("identity_reason", "node", "agent_key", "route") if _anywhere(found, key)]
    time = output.format_of(row["last"] for row in found.misses[:_GROUPS])
    names = {"identity_reason": "reason", "agent_key": "agent"}
    output.table(
        [Column("rows", "right"), *(Column(names.get(key, key), cut="end") for key in keys), Column("last UTC")],
        (
            [text_of(row["rows"]), *(row[key] or "-" for key in keys), f"{row['last']:{time}}"]
            for row in found.misses[:_GROUPS]
        ),
        indent=2,
    )
    if len(found.misses) > _GROUPS:
        output.show(f"  and {len(found.misses) - _GROUPS:,} smaller groups")
    output.show()
    for sentence in cures.in_common(found.by_place):
        output.paragraph(sentence, lead="  ")
    for reason in dict.fromkeys(row["identity_reason"] for row in found.misses[:_GROUPS]):
        if reason in explain.REASONS:
            output.paragraph(explain.REASONS[reason], lead=f"  {reason}: ")
    output.show("\nwhat would cure them")
    for cure in cures.cures(found.misses):
        rows = f"up to {cure.rows:,} {'row' if cure.rows == 1 else 'rows'}"
        output.paragraph(f"{rows}. {cure.how}", lead=f"  {cure.name:<20}")
    output.say("\nThe rows themselves: llmctx calls --unattributed")


def _anywhere(found: Coverage, key: str) -> bool:
    """Whether any group has it: a column of nothing but dashes says nothing."""
    return key == "identity_reason" or any(row[key] is not None for row in found.misses)


def _percent(share: float) -> str:
    """Never 100 % while one is missing."""
    return f"{int(share * 100) / 100:.2f} %"
