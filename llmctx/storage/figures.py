"""Sums of calls, and counts of latencies: the same sums over rows, over totals and in every question.

A histogram has one count for each latency without its last bits: 8 for each doubling, so that a percentile that is
interpolated within one is 12 % off at most, 6 % where one call is in it, and 1 % where there are many.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Mapping
from math import ceil
from typing import Any, Final

import sqlalchemy as sa

from llmctx.storage.reflection import column_expr
from llmctx.storage.table import Money

TOKENS: Final = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
SUMS: Final[Mapping[str, sa.types.TypeEngine[Any]]] = {
    "calls": sa.BigInteger(), "errors": sa.BigInteger(), "with_both": sa.BigInteger(),
    **{name: sa.BigInteger() for name in TOKENS}, "cost_usd": Money(), "unpriced": sa.BigInteger(),
    "unmetered": sa.BigInteger(), "timed": sa.BigInteger(), "total_ms": sa.BigInteger(), "ttft_calls": sa.BigInteger(),
    "ttft_ms": sa.BigInteger(),
}  # fmt: skip
"""By name: all calls, those that failed, those with session and user; tokens and US dollars; calls without a cost and
without tokens; calls with a latency, and its sum; calls with a time to the first token, and its sum."""
SUMMED_COLUMNS: Final = ("session_id", "user_id", "success", *TOKENS, "cost_usd", "latency_ms", "ttft_ms")
"""The columns of rows of which `SUMS` are."""
_BITS: Final = 4
_LARGEST_BITS: Final = 31


def sums_of_rows(rows: sa.FromClause) -> dict[str, sa.ColumnElement[Any]]:
    """Return the sums of `SUMS` over rows of the call log."""
    count, total = sa.func.count, sa.func.sum

    def number(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[Any]:
        return count(sa.case((condition, 1)))

    cost, ms, ttft = (column_expr(rows, name) for name in ("cost_usd", "latency_ms", "ttft_ms"))
    found: dict[str, sa.ColumnElement[Any]] = {
        "calls": count(),
        "errors": number(column_expr(rows, "success").is_(False)),
        "with_both": number(has_both(rows)),
        **{name: total(column_expr(rows, name)) for name in TOKENS},
        "cost_usd": total(cost, type_=Money()),
        "unpriced": count() - count(cost),
        "unmetered": number(has_no_tokens(rows)),
        "timed": count(ms),
        "total_ms": total(ms),
        "ttft_calls": count(ttft),
        "ttft_ms": total(ttft),
    }
    return {name: found[name].label(name) for name in SUMS}


def sums_of_sums(sums: sa.FromClause, only: Collection[str] | None = None) -> dict[str, sa.ColumnElement[Any]]:
    """Return the sums of `SUMS`, or `only` some, over rows that are such sums themselves."""
    return {name: sa.func.sum(sums.c[name], type_=SUMS[name]).label(name) for name in only or SUMS}


def has_both(rows: sa.FromClause) -> sa.ColumnElement[bool]:
    """Return whether a row has its session and its user."""
    return sa.and_(*(column_expr(rows, name).is_not(None) for name in ("session_id", "user_id")))


def has_no_tokens(rows: sa.FromClause) -> sa.ColumnElement[bool]:
    """Return whether a row has no tokens."""
    return sa.and_(*(column_expr(rows, name).is_(None) for name in ("prompt_tokens", "completion_tokens")))


def latency_bucket(ms: sa.ColumnElement[Any], bits: int = _BITS) -> sa.ColumnElement[Any]:
    """Return the smallest latency of the bucket of `ms`: what is left of it with its first `bits` bits."""
    if not isinstance(ms.type, sa.Integer):
        return ms

    def number(value: int) -> sa.ColumnElement[int]:  # no parameter: there would be fifty
        return sa.literal_column(str(value), sa.Integer())

    cuts = _LARGEST_BITS - bits - 1
    each = ((ms < number(1 << bits + cut), ms - ms % number(1 << cut)) for cut in range(cuts + 1))
    return sa.case(*each, else_=ms - ms % number(1 << cuts + 1))


def percentile(histogram: Mapping[int, int], share: float) -> int | None:
    """Return the latency that `share` of the calls do not exceed, interpolated; None where there are none."""
    lows = sorted(low for low, count in histogram.items() if count > 0)
    if not lows:
        return None
    reached: list[int] = []
    for low in lows:
        reached.append((reached[-1] if reached else 0) + histogram[low])
    rank = share * reached[-1]
    at = min(bisect_left(reached, rank), len(lows) - 1)
    low, count = lows[at], histogram[lows[at]]
    width = max(1, 1 << max(0, low.bit_length() - _BITS))
    which = max(1, ceil(rank - (reached[at] - count)))  # of the calls of this bucket, which lie evenly in it
    return low + int((width - 1) * min(1.0, (which - 0.5) / count))


class Sums:
    """Sums that are added up from several parts."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.histogram: Counter[int] = Counter()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the sums of `row`; what is None there stays unknown."""
        for name in SUMS:
            if (value := row[name]) is not None:
                value = value if name == "cost_usd" else int(value)
                self.figures[name] = self.figures.get(name, 0) + value

    def subtract(self, row: Mapping[str, Any]) -> None:
        """Take the sums of `row` away, which were added; what no call that is left knows is unknown again, not 0."""
        self.add({name: None if row[name] is None else -row[name] for name in SUMS})
        for unknown, names in (("unpriced", ("cost_usd",)), ("unmetered", TOKENS)):
            if self.figures[unknown] == self.figures["calls"]:
                for name in names:
                    if self.figures.get(name) == 0:
                        del self.figures[name]

    def merge(self, other: Sums) -> None:
        """Add those of `other`, and its latencies."""
        self.add({name: other.figures.get(name) for name in SUMS})
        self.histogram.update(other.histogram)

    def figures_with_latency(self) -> dict[str, Any]:
        """Return the sums, with averages and percentiles in place of the sums of latencies."""
        figures = dict(self.figures)
        timed, total = figures.pop("timed", 0), figures.pop("total_ms", 0)
        ttft_calls, ttft_ms = figures.pop("ttft_calls", 0), figures.pop("ttft_ms", 0)
        figures["avg_ms"] = round(total / timed) if timed else None
        figures["avg_ttft_ms"] = round(ttft_ms / ttft_calls) if ttft_calls else None
        return figures | {f"p{share}_ms": percentile(self.histogram, share / 100) for share in (50, 95, 99)}
