"""All rows of a table, some at a time, while they are changed: none twice, and none left out.

By the primary key, where there is one. A table without has nothing that tells its rows apart or puts them into an order
(a call_id may be NULL, or there twice): PostgreSQL then shows them as they stood at the beginning, to a connection of
its own, and until its end keeps every place for the row that stands there; SQLite numbers its rows.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

from sqlalchemy import Select, Table, bindparam, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.settings import Settings
from llmctx.storage.engine import write_connection
from llmctx.storage.reflection import lasting_key, physical_position

_AT_ONCE: Final = 1000


async def iter_batches(
    connection: AsyncConnection, settings: Settings, log: Table, wanted: Select[Any]
) -> AsyncGenerator[list[dict[str, Any]], None]:
    """Yield the rows of `wanted`, which selects the columns of `key_of` too. In between, `connection` may commit."""
    place = physical_position(log)
    if place and settings.is_postgresql:
        async with (
            write_connection(settings) as beside,
            beside.stream(wanted.execution_options(yield_per=_AT_ONCE)) as found,
        ):
            async for some in found.mappings().partitions():
                yield [dict(row) for row in some]
        return
    order = place or lasting_key(log)
    step = wanted.order_by(*order).limit(_AT_ONCE)
    while rows := [dict(row) for row in (await connection.execute(step)).mappings()]:
        yield rows
        last = [bindparam(None, rows[-1][column.name], type_=column.type) for column in order]
        step = wanted.where(tuple_(*order) > tuple_(*last)).order_by(*order).limit(_AT_ONCE)
