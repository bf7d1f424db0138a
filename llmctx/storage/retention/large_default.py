"""A month's partition where the default partition holds too much to be looked through while writers wait.

That is what becomes of a table whose months were not made in time. The partition begins in two days, of which hardly a
row is there yet; what lies in the default partition already stays in it. While it is proved that it holds nothing of
the days to come, rows that are dated so far ahead are led to the new table. After a break the next run goes on.

Not of a table that Citus has distributed: a trigger cannot lead rows to other nodes. There writers wait.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage.catalog import qualify_name
from llmctx.storage.distribution import is_distributed, size_function
from llmctx.storage.partition_ddl import Diversion, Month
from llmctx.storage.retention import partitions
from llmctx.storage.retention.partitions import Partition, run_patiently

LARGE_BYTES: Final = 64 * 2**20
_MARGIN: Final = timedelta(days=2)
_STATE: Final = """
SELECT {size}(to_regclass(:default)) AS bytes, to_regclass(:part) IS NOT NULL AS begun,
       obj_description(to_regclass(:part), 'pg_class') AS says
"""


@dataclass(frozen=True, slots=True)
class Prospect:
    """The way to make the partition of a month: `in_steps` by `make_partition`, else by `partitions.make_partition`."""

    month: Month | None
    """None where the default partition has too much of it."""
    in_steps: bool = False
    writers_wait: bool = False
    """For as long as it takes to look through the default partition."""


async def plan(
    connection: AsyncConnection, log: Table, month: Month, default: Partition | None, now: datetime
) -> Prospect:
    """Return what is to be made of `month`, and how."""
    if default is None:
        return Prospect(month)
    label = month.partition("").removeprefix("_p")  # also of a part of it
    given = {"default": default.name, "part": partitions.part_in_sql(log, month)}
    found = (await connection.execute(text(_STATE.format(size=await size_function(connection, log))), given)).one()
    await connection.rollback()
    if found.begun:
        begun = datetime.fromisoformat(json.loads(found.says or "{}").get("from", month.first.isoformat()))
        return Prospect(replace(month, first=begun, label=month.label or label), in_steps=bool(found.says))
    if found.bytes < LARGE_BYTES:
        return Prospect(month)
    if await is_distributed(connection, log):
        return Prospect(month, writers_wait=True)
    first = max(month.first, now.replace(hour=0, minute=0, second=0, microsecond=0) + _MARGIN)
    return Prospect(replace(month, first=first, label=label) if first < month.after_last else None, in_steps=True)


async def make_partition(connection: AsyncConnection, log: Table, month: Month, default: Partition) -> None:
    """Make the partition of `month`, or go on with it."""
    part = partitions.part_in_sql(log, month)
    ahead = Diversion(
        source=default.name,
        target=part,
        columns=await partitions.copied_columns(connection, log),
        moving_condition=partitions.condition(log, month, "{row}"),
        staying_condition=f"NOT ({partitions.condition(log, month)})",
        check=f"llmctx_without_{month.partition('').removeprefix('_p')}",
        function=qualify_name(f"llmctx_ahead_{month.partition(log.name)}", log.schema),
        as_owner=True,
    )
    begun = await connection.scalar(text("SELECT to_regclass(:part) IS NOT NULL"), {"part": part})
    await connection.rollback()
    if not begun:
        start = json.dumps({"from": month.first.isoformat()})
        made = await partitions.make_apart(connection, log, month)
        comment = f"COMMENT ON TABLE {part} IS '{start}'"
        await run_patiently(connection, [*made, comment, *ahead.lead(), ahead.constrain()], default.name)
    await connection.exec_driver_sql(ahead.move())
    await connection.commit()
    await run_patiently(connection, [ahead.validate()])
    let_go = (f"ALTER TABLE {default.name} DROP CONSTRAINT {ahead.check}", f"COMMENT ON TABLE {part} IS NULL")
    await run_patiently(connection, [*ahead.end(), *partitions.attach(log, month), *let_go], default.name)
