"""Prices for rows that are in the table already: which models have one, and cost_usd computed anew."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Table, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.errors import LlmctxError
from llmctx.core.record import CACHE_WRITTEN, CACHE_WRITTEN_1H
from llmctx.delivery.pricing import Price, Prices, Tokens
from llmctx.settings import Settings
from llmctx.storage.engine import changing
from llmctx.storage.filters import Filters
from llmctx.storage.paging import iter_batches
from llmctx.storage.reflection import attribute, column_expr, is_row, key_of, key_values, reflect

_USED: Final = ("model", "provider", "prompt_tokens", "completion_tokens", "cached_tokens", "cached", "cost_usd")
_NOTED: Final = (CACHE_WRITTEN, CACHE_WRITTEN_1H)
"""Figures that have no column."""


@dataclass(frozen=True, slots=True)
class Priced:
    """A model that was used, and its price now."""

    model: str
    provider: str | None
    calls: int
    unpriced: int
    """Calls without a cost."""
    price: Price | None


async def models(connection: AsyncConnection, log: Table, prices: Prices, filters: Filters) -> list[Priced]:
    """Return the models of the rows, those without a price first, then by calls."""
    model, provider = log.c.model, column_expr(log, "provider")
    groups = [model] if "provider" not in log.c else [model, provider]
    counted = select(model, provider, func.count(), func.count(column_expr(log, "cost_usd"))).where(filters.clause(log))
    now = datetime.now(UTC)
    found = [
        Priced(name or "", maker, calls, calls - with_cost, prices.price(name, maker, now))
        for name, maker, calls, with_cost in await connection.execute(counted.group_by(*groups))
    ]
    return sorted(found, key=lambda one: (one.price is not None, -one.calls, one.model))


@dataclass(slots=True)
class Report:
    """What became of the rows."""

    done: bool
    rows: int = 0
    changed: int = 0
    unknown: int = 0
    """Rows whose model has no price, or whose tokens are not known: they stay as they are."""
    before: Decimal = Decimal(0)
    after: Decimal = Decimal(0)


async def recompute(
    settings: Settings,
    prices: Prices,
    filters: Filters,
    *,
    again: bool = False,
    do: bool = False,
    progress: Callable[[int, int], None] = lambda more, total: None,
) -> Report:
    """Compute cost_usd of rows that have none, or if `again` of all; a thousand rows to a transaction."""
    report = Report(do)
    async with changing(settings) as connection:
        log = await reflect(connection, settings)
        if "cost_usd" not in log.c:
            raise LlmctxError(f"Table {log.name} has no column cost_usd. Run `llmctx migrate` first.")
        used = [*(column_expr(log, name) for name in _USED), *(attribute(log, name).label(name) for name in _NOTED)]
        wanted = select(*dict.fromkeys([*key_of(log), log.c.created_at, *used]))
        wanted = wanted.where(filters.clause(log))
        if not again:
            wanted = wanted.where(log.c.cost_usd.is_(None))
        total = await connection.scalar(select(func.count()).select_from(wanted.subquery()))
        async with aclosing(iter_batches(connection, settings, log, wanted)) as steps:
            async for rows in steps:
                changes = []
                for row in rows:
                    cost, before = _cost(prices, row), row["cost_usd"]
                    report.before += before or 0
                    report.after += cost if cost is not None else before or 0
                    report.unknown += cost is None
                    if cost is not None and cost != before:
                        changes.append({**key_values(log, row), "cost": cost})
                report.rows += len(rows)
                report.changed += len(changes)
                if do and changes:
                    cost_of = bindparam("cost", type_=log.c.cost_usd.type)
                    await connection.execute(update(log).where(is_row(log)).values(cost_usd=cost_of), changes)
                    await connection.commit()
                progress(len(rows), total or 0)
    return report


def _cost(prices: Prices, row: dict[str, Any]) -> Decimal | None:
    tokens = Tokens(
        row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"],
        _figure(row[CACHE_WRITTEN]), _figure(row[CACHE_WRITTEN_1H]),
    )  # fmt: skip
    at = row["created_at"] or datetime.now(UTC)
    return prices.cost(row["model"], row["provider"], at, tokens, answered_by_cache=bool(row["cached"]))


def _figure(noted: Any) -> int | None:
    """Return the figure; `attributes` are the team's as well, so that anything may stand there."""
    return int(noted) if str(noted).isdecimal() else None
