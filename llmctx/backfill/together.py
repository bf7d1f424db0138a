"""Changes of many rows in one statement: a row at a time, a million would take an hour of round trips.

PostgreSQL gets one array for each column; SQLite, which has none and no network between, a statement for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ARRAY, Table, and_, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.reflection import held_in, is_row, key_of, lacks

Change = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
"""The key's parameters, the new values and the old ones, by column."""
_NULL: Final = ("user_id", "session_id")


async def fill(connection: AsyncConnection, log: Table, changes: Sequence[Change]) -> None:
    """Give rows their new values, where what they lack is lacking still."""
    for some in _alike(changes):
        names = list(some[0][1])
        still = [lacks(log, name) for name in _NULL if any(column.name in names for column in held_in(log, name))]
        if connection.dialect.name == "postgresql":
            given = _given(log, [(key, new) for key, new, _ in some])
            values = {name: given.c[f"to_{name}"] for name in names}
            await connection.execute(update(log).where(_matching(log, given), *still).values(values))
            continue
        parameters = [{**key, **{f"to_{name}": value for name, value in new.items()}} for key, new, _ in some]
        bound = {name: bindparam(f"to_{name}", type_=log.c[name].type) for name in names}
        await connection.execute(update(log).where(is_row(log), *still).values(bound), parameters)


async def take_back(connection: AsyncConnection, log: Table, changes: Sequence[Change], *, do: bool) -> int:
    """Give rows their old values, where the new ones stand still. Returns how many rows that is, or would be."""
    found = 0
    for some in _alike(changes):
        if connection.dialect.name == "postgresql":
            given = _given(log, [(key, old) for key, _, old in some], [new for _, new, _ in some])
            same = [log.c[name].is_not_distinct_from(given.c[f"is_{name}"]) for name in some[0][1]]
            where = and_(_matching(log, given), *same)
            values = {name: given.c[f"to_{name}"] for name in some[0][2]}
            found += await _changed(connection, log, where, values, {}, do=do)
            continue
        for key, new, old in some:
            where = and_(is_row(log), *(log.c[name].is_not_distinct_from(value) for name, value in new.items()))
            found += await _changed(connection, log, where, old, key, do=do)
    return found


async def _changed(connection: AsyncConnection, log: Table, where: Any, values: Any, key: Any, *, do: bool) -> int:
    if do:
        return (await connection.execute(update(log).where(where).values(values), key)).rowcount
    return await connection.scalar(select(func.count(log.c.call_id)).where(where), key) or 0


def _alike(changes: Sequence[Change]) -> list[list[Change]]:
    """Those of the same columns together."""
    groups: dict[Any, list[Change]] = {}
    for change in changes:
        groups.setdefault((tuple(change[1]), tuple(change[2])), []).append(change)
    return list(groups.values())


def _given(log: Table, rows: Sequence[tuple[dict[str, Any], dict[str, Any]]], present: Sequence[Any] = ()) -> Any:
    """The keys and values as a table: `key_0`, …, `to_user_id`, …, and what `present` says as `is_user_id`, …"""
    key, to = rows[0]
    arrays = {
        name: (log_column.type, [one[0][name] for one in rows])
        for name, log_column in zip(key, key_of(log), strict=True)
    }
    arrays |= {f"to_{name}": (log.c[name].type, [one[1][name] for one in rows]) for name in to}
    if present:
        arrays |= {f"is_{name}": (log.c[name].type, [one[name] for one in present]) for name in present[0]}
    bound = [bindparam(f"all_{name}", values, type_=ARRAY(kind)) for name, (kind, values) in arrays.items()]
    return func.unnest(*bound).table_valued(*arrays, name="given").render_derived()


def _matching(log: Table, given: Any) -> Any:
    return and_(*(column == given.c[f"key_{n}"] for n, column in enumerate(key_of(log))))
