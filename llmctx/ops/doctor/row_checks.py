"""Checks of the rows that were written lately: what they lack, and what of the other checks they prove wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Table, and_, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.errors import LlmctxError
from llmctx.core.record import Reason, UsageSource
from llmctx.core.text import counted
from llmctx.ops.doctor.finding import Finding, list_names, list_places
from llmctx.settings import Settings
from llmctx.storage.engine import read_connection
from llmctx.storage.filters import Filters
from llmctx.storage.queries import Coverage, coverage
from llmctx.storage.queries import coverage_advice as advice
from llmctx.storage.queries.token_gaps import REMEDIES
from llmctx.storage.reflection import column_expr, is_missing, reflect

_SPANS: Final = (
    ("hour", timedelta(hours=1), 100),
    ("day", timedelta(days=1), 1),
    ("week", timedelta(days=7), 1),
    ("month", timedelta(days=30), 1),
)
"""What "lately" is: the first of these with so many rows."""
_ENOUGH: Final = 0.95
"""The share of rows with ids, or tokens, from which on nothing is wrong: some requests are anonymous."""
_PROOF: Final = 10
"""Rows from which on they prove something."""
_ASKED_FOR: Final = ("openai", "azure", "azure_openai", "deepseek", "xai", "together", "openrouter", "moonshot")
"""Providers, by LangChain's names, whose clients ask for a stream's usage only with `stream_usage=True`."""
_OF_USERS: Final = frozenset({"identify", "middleware", "middleware order"})
_OF_BOTH: Final = frozenset({"graphs", "configurable"})
_OF_SOURCE: Final = frozenset({"source"})
_OF_LOST_SCOPES: Final = frozenset({Reason.NO_SCOPE, Reason.UNKNOWN_THREAD, Reason.EXPIRED_SCOPE})
"""Reasons of rows whose call was made where no scope was."""


@dataclass(frozen=True, slots=True)
class RecentRows:
    """The rows of the last `span`, and how many of them are streams whose tokens were not asked for."""

    span: str
    coverage: Coverage
    with_user: int
    not_asked_for: int

    @property
    def words(self) -> str:
        """Return `638 rows of the last hour`."""
        return f"{counted(self.coverage.rows, 'row')} of the last {self.span}"


async def recent_rows(settings: Settings) -> RecentRows | None:
    """Return what was written lately; None without any, or where the table cannot be read."""
    try:
        async with read_connection(settings) as connection:
            table = await reflect(connection, settings)
            for span, length, enough in _SPANS:
                found = await _rows_since(connection, table, span, datetime.now(UTC) - length)
                if found.coverage.rows >= enough:
                    return found
    except LlmctxError:  # the checks of the table say why
        pass
    return None


async def _rows_since(connection: AsyncConnection, table: Table, span: str, since: datetime) -> RecentRows:
    filters = Filters(since=since)
    not_asked_for = and_(
        column_expr(table, "usage_source") == UsageSource.NO_STREAM_USAGE.value,
        column_expr(table, "provider").in_(_ASKED_FOR),
    )
    counts = [func.count(case((condition, 1))) for condition in (~is_missing(table, "user_id"), not_asked_for)]
    counted = (await connection.execute(select(*counts).select_from(table).where(filters.clause(table)))).one()
    return RecentRows(span, await coverage(connection, table, filters), counted[0], counted[1])


def findings(recent: RecentRows | None, settings: Settings) -> Iterator[Finding]:
    """Check the share of the rows with ids and with tokens."""
    if recent is None:
        cause = "no rows of the last month: how calls are recorded is not known yet"
        yield Finding("recent rows", True, cause, where=settings.table, unknown=True)
        return
    found = recent.coverage
    ours = [group for group in found.by_source if group["identity_source"] is not None]
    without_tokens = sum(row["rows"] for row in found.missing_tokens)
    unfinished = sum(row["rows"] for row in found.missing_tokens if row["usage_source"] == UsageSource.UNFINISHED)
    ended = found.rows - unfinished
    shares = [("have a user", recent.with_user, found.rows), ("have both ids", found.with_both, found.rows)]
    if ended:
        shares.append(("of those that ended well have tokens", found.rows - without_tokens, ended))
    summary = f"{recent.words}: {', '.join(f'{100 * count // of} % {what}' for what, count, of in shares)}"
    if found.with_both >= _ENOUGH * found.rows:
        yield Finding("recent rows", True, summary, where=settings.table)
    elif not ours:
        cause = f"{summary}; none of them was written by llmctx: how it records calls is not known yet"
        yield Finding("recent rows", True, cause, where=settings.table, unknown=True)
    elif sum(group["with_both"] for group in ours) >= _ENOUGH * sum(group["rows"] for group in ours):
        yield Finding("recent rows", True, f"{summary}, and llmctx's own rows nearly all", where=settings.table)
    else:
        yield _missing_ids(recent, summary)
    if recent.not_asked_for > (1 - _ENOUGH) * ended:
        yield Finding(
            "tokens", False,
            f"{recent.not_asked_for:,} of {recent.words} have none ({UsageSource.NO_STREAM_USAGE})",
            "What these calls cost is not known.", f"They {REMEDIES[UsageSource.NO_STREAM_USAGE]}", settings.table,
        )  # fmt: skip


def _missing_ids(recent: RecentRows, summary: str) -> Finding:
    found = recent.coverage
    groups = [
        " ".join(
            [f"{group['rows']:,}", str(group["identity_reason"] or "without a reason")]
            + [f"{word} {group[key]}" for word, key in (("at", "route"), ("in", "agent_key")) if group[key]]
        )
        for group in found.misses
    ]
    last = max(group["last"] for group in found.misses)
    return Finding(
        "recent rows", False, f"{summary}; missing: {list_names(groups)}",
        f"These calls have no user. The last one is of {last:%Y-%m-%d %H:%M} UTC: if you have changed "
        "something since, make calls and look again.",
        " ".join(f"{remedy.name}: {remedy.how}" for remedy in advice.remedies(found.by_place)[:2]),
        list_places(str(group["where"]) for group in found.by_place if group["where"]),
    )  # fmt: skip


def correct(findings: Sequence[Finding], recent: RecentRows | None) -> list[Finding]:
    """Return `findings`, without those of its alarms and all-clears that the rows prove wrong: these become remarks."""
    if recent is None or recent.coverage.rows < _PROOF:
        return list(findings)
    found, proved = recent.coverage, set[str]()
    if recent.with_user >= _ENOUGH * found.rows:
        proved |= _OF_USERS
    if found.with_both >= _ENOUGH * found.rows:
        proved |= _OF_BOTH
    remark = f"; yet {recent.words} have their ids"
    lost = sum(group["rows"] for group in found.misses if group["identity_reason"] in _OF_LOST_SCOPES)
    disproof = ""
    if lost > (1 - _ENOUGH) * found.rows:
        disproof = f"; yet {lost:,} of {recent.words} have lost theirs: how they did cannot be seen in the source"
    return [_corrected(one, proved, remark, disproof) for one in findings]


def _corrected(one: Finding, proved: set[str], remark: str, disproof: str) -> Finding:
    if not one.ok and one.name in proved:
        return replace(one, ok=True, cause=one.cause + remark)
    if one.ok and one.name in _OF_SOURCE and disproof:
        return replace(one, unknown=True, cause=one.cause + disproof)
    return one
