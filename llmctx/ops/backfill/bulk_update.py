"""Changes of many rows in one statement: a row at a time, a million would take an hour of round trips.

PostgreSQL gets one array for each column; SQLite, which has none and no network between, a statement for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ARRAY, ColumnElement, Table, and_, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage.reflection import held_in, is_missing, is_row, is_row_with_key, key_of, lasting_key

Change = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
"""The key's parameters, the new values and the old ones, by column."""
_NULL: Final = ("user_id", "session_id")


async def fill(connection: AsyncConnection, log: Table, changes: Sequence[Change]) -> None:
    """Give rows their new values, where what they lack is lacking still."""
    for some in _alike(changes):
        names = list(some[0][1])
        still = [is_missing(log, name) for name in _NULL if any(column.name in names for column in held_in(log, name))]
        if connection.dialect.name == "postgresql":
            given = _given(log, key_of(log), [(key, new) for key, new, _ in some])
            values = {name: given.c[f"to_{name}"] for name in names}
            is_given = is_row_with_key(log, [given.c[name] for name in some[0][0]])
            await connection.execute(update(log).where(is_given, *still).values(values))
            continue
        parameters = [{**key, **{f"to_{name}": value for name, value in new.items()}} for key, new, _ in some]
        bound = {name: bindparam(f"to_{name}", type_=log.c[name].type) for name in names}
        await connection.execute(update(log).where(is_row(log), *still).values(bound), parameters)


async def take_back(connection: AsyncConnection, log: Table, changes: Sequence[Change], *, do: bool) -> int:
    """Give rows their old values, where the new ones stand still. Returns how many rows that is, or would be.

    The keys are those of `lasting_key`. Rows that it does not tell apart were told apart when they were filled: those
    that have the new values now are the ones.
    """
    found, lasting = 0, lasting_key(log)
    if not log.primary_key:
        changes = list({repr((key, new)): (key, new, old) for key, new, old in changes}.values())
    for some in _alike(changes):
        nothing = [value is None for value in some[0][0].values()]
        if connection.dialect.name == "postgresql":
            given = _given(log, lasting, [(key, old) for key, _, old in some], [new for _, new, _ in some])
            stand = [log.c[name].is_not_distinct_from(given.c[f"is_{name}"]) for name in some[0][1]]
            where = and_(_known(lasting, [given.c[name] for name in some[0][0]], nothing), *stand)
            values = {name: given.c[f"to_{name}"] for name in some[0][2]}
            found += await _changed(connection, log, where, values, {}, do=do)
            continue
        for key, new, old in some:
            bound = [bindparam(name, type_=column.type) for name, column in zip(key, lasting, strict=True)]
            stand = [log.c[name].is_not_distinct_from(value) for name, value in new.items()]
            given_key = {name: value for name, value in key.items() if value is not None}
            found += await _changed(
                connection, log, and_(_known(lasting, bound, nothing), *stand), old, given_key, do=do
            )
    return found


def _known(columns: Sequence[Any], values: Sequence[Any], nothing: Sequence[bool]) -> ColumnElement[bool]:
    """Return the condition that `columns` have `values`, hashable: a NULL equals nothing, and is asked for."""
    pairs = zip(columns, values, nothing, strict=True)
    return and_(*(column.is_(None) if is_null else column == value for column, value, is_null in pairs))


async def _changed(connection: AsyncConnection, log: Table, where: Any, values: Any, key: Any, *, do: bool) -> int:
    if do:
        return (await connection.execute(update(log).where(where).values(values), key)).rowcount
    return await connection.scalar(select(func.count()).select_from(log).where(where), key) or 0


def _alike(changes: Sequence[Change]) -> list[list[Change]]:
    """Return those of the same columns together, and whose keys have NULL in the same."""
    groups: dict[Any, list[Change]] = {}
    for change in changes:
        nothing = tuple(value is None for value in change[0].values())
        groups.setdefault((tuple(change[1]), tuple(change[2]), nothing), []).append(change)
    return list(groups.values())


def _given(
    log: Table,
    columns: Sequence[ColumnElement[Any]],
    rows: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    present: Sequence[Any] = (),
) -> Any:
    """Return the keys and values as a table: `key_0`, …, `to_user_id`, …, and what `present` says as `is_user_id`, …"""
    key, to = rows[0]
    arrays = {name: (column.type, [one[0][name] for one in rows]) for name, column in zip(key, columns, strict=True)}
    arrays |= {f"to_{name}": (log.c[name].type, [one[1][name] for one in rows]) for name in to}
    if present:
        arrays |= {f"is_{name}": (log.c[name].type, [one[name] for one in present]) for name in present[0]}
    bound = [
        bindparam(f"all_{name}", values, type_=ARRAY(kind, dimensions=1)) for name, (kind, values) in arrays.items()
    ]
    return func.unnest(*bound).table_valued(*arrays, name="given").render_derived()
