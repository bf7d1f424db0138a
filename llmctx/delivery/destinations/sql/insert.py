"""A batch into a table of a known shape, idempotently.

It goes in by COPY, in one transaction that fails if one of its rows is there already; then, and whenever that is
likely, by INSERT with a bare ON CONFLICT DO NOTHING. Both want the right to INSERT and no other.

Where the texts have a table of their own, the way that fails is tried with it first (`texts_apart.py`).

Such an INSERT also passes over a row that meets another unique key of the host's: a sequence that has fallen behind
its table, one call for each trace. Where there are such keys nothing is passed over, and a row that is refused is there
already only if the key that it met is the call's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import orjson
from sqlalchemy import Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.diagnostics import diagnostics
from llmctx.delivery.destination import Row
from llmctx.delivery.destinations.sql import texts_apart
from llmctx.delivery.destinations.sql.connection import Connection, Session
from llmctx.delivery.destinations.sql.table_shape import TableShape
from llmctx.delivery.destinations.sql.texts_apart import TextsTable
from llmctx.storage.catalog import quote
from llmctx.storage.db_errors import classify, sqlstate

_MEETS_A_KEY: Final = ("23505", "23P01")
_BATCH: Final = "llmctx_batch"


Values = list[tuple[Any, ...]]
"""Of rows, in the order of the shape's columns."""


async def store(pool: Connection, shape: TableShape, table: Table, rows: Sequence[Row], *, by_copy: bool) -> bool:
    """Store `rows`, all or none; those that are there already stay as they are. Return whether COPY met some of these.

    Where the host has keys of its own, some may be stored when it raises: given again, they are there already.
    """
    async with pool.connection() as connection:
        session = await pool.session(connection)
        if session is None:
            await _insert_sqlite(connection, shape, table, rows)
            await connection.commit()
            return False
        if shape.has_host_keys:
            await _store_strictly(session, shape, rows)
            return False
        values = shape.values(rows)
        if not (by_copy and shape.by_copy and shape.texts is not None):
            return await _store_whole(session, shape, values, by_copy=by_copy)
        return await _store_apart(session, shape, shape.texts, values)


async def _store_apart(session: Session, shape: TableShape, texts: TextsTable, values: Values) -> bool:
    """Store rows, and their texts in a table of their own; with their texts where that is refused."""
    try:
        await texts_apart.store(session, shape, texts, values)
    except Exception as problem:
        found = classify(problem)
        if found.is_outage:
            raise
        met = shape.is_of_the_call(problem)
        met = await _store_whole(session, shape, values, by_copy=not met) or met
        if not met:  # it is the table of texts that refuses them
            diagnostics.count(
                "texts_not_apart", "%s refuses texts (%s %s): they are stored in their rows. Run `llmctx doctor`.",
                texts.name, found.code, found.name,
            )  # fmt: skip
        return met
    return False


async def _store_whole(session: Session, shape: TableShape, values: Values, *, by_copy: bool) -> bool:
    """Store rows with their texts. Return whether COPY met some that are there already."""
    # asyncpg's COPY leaves a prepared statement behind, which a pooler would show to others
    by_copy = by_copy and shape.by_copy and not session.is_pooled
    if by_copy:
        try:
            await _copy(session, shape, values)
        except Exception as problem:
            if not shape.is_of_the_call(problem):  # or it may be a key that has come since the last look
                raise
        else:
            return False
    await _insert(session, shape, values)
    return by_copy


async def _store_strictly(session: Session, shape: TableShape, rows: Sequence[Row]) -> None:
    """Pass over nothing but what is there already: a row that is refused for another reason raises."""
    values = shape.values(rows)
    if len(values) > 1:
        try:
            await (_copy if shape.by_copy and not session.is_pooled else _insert)(session, shape, values)
        except Exception as problem:
            if not shape.is_of_the_call(problem):
                raise
        else:
            return
    # those before one that raises are stored, and will be found to be there
    for one, row in zip(values, rows, strict=True):
        try:
            await _insert(session, shape, [one])
        except Exception as problem:
            if shape.is_of_the_call(problem):
                continue
            if sqlstate(problem) not in _MEETS_A_KEY or not await _is_there(session, shape, row):
                raise


async def _is_there(session: Session, shape: TableShape, row: Row) -> bool:
    """Return whether the table has this call. A role that may only INSERT learns it by inserting without other keys."""
    try:
        await _try(session, shape, [replace(row, record=shape.without_host_keys(row.record))])
    except Exception as problem:  # noqa: BLE001  whatever else it is, the row's own refusal is passed on
        return shape.is_of_the_call(problem)
    return False


async def attempt(pool: Connection, shape: TableShape, table: Table, rows: Sequence[Row]) -> None:
    """Insert `rows` and take them back. Raise what the database says."""
    async with pool.connection() as connection:
        session = await pool.session(connection)
        if session is None:
            await _insert_sqlite(connection, shape, table, rows)
            await connection.rollback()
            return
        await _try(session, shape, rows)


async def _try(session: Session, shape: TableShape, rows: Sequence[Row]) -> None:
    with contextlib.suppress(_Rollback):
        async with session.transaction():
            await session.driver.executemany(shape.statement, shape.values(rows))
            raise _Rollback


class _Rollback(Exception):
    """End a transaction without a trace."""


async def _insert(session: Session, shape: TableShape, values: Values) -> None:
    if shape.is_distributed and shape.by_copy and not session.is_pooled and len(values) > 1:
        await _insert_at_once(session, shape, values)
    elif session.is_pooled:
        async with session.transaction():
            await session.driver.executemany(shape.statement, values)
    else:
        await (await session.prepare(shape.statement)).executemany(values)


async def _insert_at_once(session: Session, shape: TableShape, values: Values) -> None:
    """Insert by way of a temporary table: a row of its own costs a distributed table milliseconds."""
    names = ", ".join(map(quote, shape.columns))
    passed = f"INSERT INTO {shape.table} ({names}) SELECT {names} FROM {_BATCH} ON CONFLICT DO NOTHING"  # noqa: S608
    async with session.transaction():
        like = f"SELECT {names} FROM {shape.table} LIMIT 0"  # noqa: S608
        await session.driver.execute(f"CREATE TEMPORARY TABLE {_BATCH} ON COMMIT DROP AS {like}")
        await session.copy(_BATCH, shape.columns, values)
        await session.driver.execute(passed)


async def _copy(session: Session, shape: TableShape, values: Values) -> None:
    await session.copy(shape.table, shape.columns, values)


async def _insert_sqlite(connection: AsyncConnection, shape: TableShape, table: Table, rows: Sequence[Row]) -> None:
    values = [{name: getattr(row.record, name) for name in shape.columns} for row in rows]
    if "attributes" in shape.types:
        for one, row in zip(values, rows, strict=True):
            one["attributes"] = None if row.attributes_json is None else orjson.loads(row.attributes_json)
    await connection.execute(sqlite.insert(table).on_conflict_do_nothing(), values)
