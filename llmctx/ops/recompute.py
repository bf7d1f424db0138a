"""Prices for rows that are in the table already: which models have one, and cost_usd computed anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Table, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.errors import LlmctxError
from llmctx.core.record import CostSource
from llmctx.delivery.pricing import TOKEN_COLUMNS, TOKEN_NOTES, Price, Prices, Tokens
from llmctx.settings import Settings
from llmctx.storage.engine import write_connection
from llmctx.storage.filters import Filters
from llmctx.storage.paging import iter_batches
from llmctx.storage.reflection import attribute, column_expr, is_row, key_of, key_values, reflect
from llmctx.storage.rollup.marks import mark
from llmctx.storage.rollup.reading import reading_of

_USED: Final = ("model", "provider", *TOKEN_COLUMNS, "service_tier", "cached", "cost_usd", "cost_source")
_CERTAIN: Final = (CostSource.PROVIDER.value, CostSource.MANUAL.value)
"""Costs that no list of prices knows better."""


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """A model that was used, and its price now."""

    model: str
    provider: str | None
    calls: int
    unpriced: int
    """Calls without a cost."""
    price: Price | None


async def models(
    connection: AsyncConnection, log: Table, prices: Prices, filters: Filters
) -> tuple[list[ModelPrice], datetime | None]:
    """Return the models in use, those without a price first, then by calls; and until when totals were read."""
    reading = await reading_of(connection, log, filters)
    counted: Counter[tuple[str | None, str | None]] = Counter()
    unpriced: Counter[tuple[str | None, str | None]] = Counter()
    for part in reading.parts:
        keys = {"model": part.column("model"), "provider": part.column("provider")}
        for name, maker, calls, without in await connection.execute(part.sum_by(keys, only=("calls", "unpriced"))):
            counted[name, maker] += int(calls)
            unpriced[name, maker] += int(without)
    now = datetime.now(UTC)
    found = [
        ModelPrice(name or "", maker, calls, unpriced[name, maker], prices.price(name, maker, now))
        for (name, maker), calls in counted.items()
    ]
    return sorted(found, key=lambda one: (one.price is not None, -one.calls, one.model)), reading.as_of


@dataclass(slots=True)
class Report:
    """The outcome for the rows."""

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
    """Compute cost_usd of rows that have none, or if `again` of all; a thousand rows to a transaction.

    What the provider itself, or the application, has said of a call's cost stays.
    """
    report = Report(do)
    async with write_connection(settings) as connection:
        log = await reflect(connection, settings)
        if "cost_usd" not in log.c:
            raise LlmctxError(f"Table {log.name} has no column cost_usd. Run `llmctx migrate` first.")
        used = [
            *(column_expr(log, name) for name in _USED),
            *(attribute(log, name).label(name) for name in TOKEN_NOTES),
        ]
        wanted = select(*dict.fromkeys([*key_of(log), log.c.created_at, *used]))
        wanted = wanted.where(filters.clause(log))
        if not again:
            wanted = wanted.where(log.c.cost_usd.is_(None))
        elif "cost_source" in log.c:
            wanted = wanted.where(log.c.cost_source.is_(None) | log.c.cost_source.not_in(_CERTAIN))
        total = await connection.scalar(select(func.count()).select_from(wanted.subquery()))
        async with aclosing(iter_batches(connection, settings, log, wanted)) as steps:
            async for rows in steps:
                changes, times = [], []
                for row in rows:
                    (cost, source), before = _cost(prices, row), row["cost_usd"]
                    report.before += before or 0
                    report.after += cost if cost is not None else before or 0
                    report.unknown += cost is None
                    if cost is not None and cost != before:
                        changes.append({**key_values(log, row), "cost": cost, "source": source and source.value})
                        times.append(row["created_at"])
                report.rows += len(rows)
                report.changed += len(changes)
                if do and changes:
                    await mark(connection, log, times)
                    changed = {"cost_usd": bindparam("cost", type_=log.c.cost_usd.type)}
                    if "cost_source" in log.c:
                        changed["cost_source"] = bindparam("source", type_=log.c.cost_source.type)
                    await connection.execute(update(log).where(is_row(log)).values(changed), changes)
                    await connection.commit()
                progress(len(rows), total or 0)
    return report


def _cost(prices: Prices, row: dict[str, Any]) -> tuple[Decimal | None, CostSource | None]:
    at = row["created_at"] or datetime.now(UTC)
    return prices.cost(
        row["model"], row["provider"], at, Tokens.from_row(row, row), tier=row["service_tier"],
        answered_by_cache=bool(row["cached"]),
    )  # fmt: skip
