"""A month's partition where the default partition holds too much for anybody to wait until it has been looked through.

That is what becomes of a table whose months were not made in time. The partition begins in two days, of which hardly a
row is there yet; what lies in the default partition already stays in it. While it is proved that it holds nothing of
the days to come, rows that are dated so far ahead are led to the new table. After a break the next run goes on.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.storage.retention import partitions
from llmctx.storage.retention.partitions import Month, Partition, patiently

CROWDED_BYTES: Final = 64 * 2**20
_MARGIN: Final = timedelta(days=2)
_STANDING: Final = """
SELECT pg_total_relation_size(to_regclass(:default)) AS bytes, to_regclass(:part) IS NOT NULL AS begun,
       obj_description(to_regclass(:part), 'pg_class') AS says
"""


async def plan(
    connection: AsyncConnection, log: Table, month: Month, default: Partition | None, now: datetime
) -> tuple[Month | None, bool]:
    """What is to be made of `month`, if anything, and whether in this way."""
    if default is None:
        return month, False
    given = {"default": default.name, "part": partitions.qualified(log, month.first)}
    found = (await connection.execute(text(_STANDING), given)).one()
    await connection.rollback()
    if found.begun:
        begun = datetime.fromisoformat(json.loads(found.says or "{}").get("from", month.first.isoformat()))
        return Month(begun, month.after), bool(found.says)
    if found.bytes < CROWDED_BYTES:
        return month, False
    first = max(month.first, now.replace(hour=0, minute=0, second=0, microsecond=0) + _MARGIN)
    return (Month(first, month.after) if first < month.after else None), True


async def make(connection: AsyncConnection, log: Table, month: Month, default: Partition) -> None:
    """Make the partition of `month`, or go on with it."""
    parent = connection.dialect.identifier_preparer.format_table(log)
    part, inside = partitions.qualified(log, month.first), month.condition(log)
    names = await partitions.columns(connection, log)
    lead, guard = "llmctx_ahead", f"llmctx_without_{month.first:%Y_%m}"
    function = partitions.beside(log, f"llmctx_ahead_{partitions.name_of(log, month.first)}")
    begun = await connection.scalar(text("SELECT to_regclass(:part) IS NOT NULL"), {"part": part})
    await connection.rollback()
    if not begun:
        values = ", ".join(f"NEW.{name}" for name in names)
        insert = f"INSERT INTO {part} ({', '.join(names)}) VALUES ({values}) ON CONFLICT DO NOTHING"  # noqa: S608
        body = f"$llmctx$ BEGIN {insert}; RETURN NULL; END $llmctx$"
        says = json.dumps({"from": month.first.isoformat()})
        begin = f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql"
        when = f"BEFORE INSERT ON {default.name} FOR EACH ROW WHEN ({month.condition(log, 'NEW.')})"
        await patiently(
            connection,
            [
                *await partitions.apart(connection, log, part, inside),
                f"COMMENT ON TABLE {part} IS '{says}'",
                # as its owner: whoever inserts has a right to the whole table, and none to this one
                f"{begin} SECURITY DEFINER SET search_path FROM CURRENT AS {body}",
                f"CREATE TRIGGER {lead} {when} EXECUTE FUNCTION {function}()",
                f"ALTER TABLE {default.name} ADD CONSTRAINT {guard} CHECK (NOT ({inside})) NOT VALID",
            ],
            default.name,
        )
    await connection.exec_driver_sql(partitions.moving(default, part, inside, names))
    await connection.commit()
    await patiently(connection, [f"ALTER TABLE {default.name} VALIDATE CONSTRAINT {guard}"])
    await patiently(
        connection,
        [
            f"LOCK TABLE {default.name} IN ACCESS EXCLUSIVE MODE",
            f"DROP TRIGGER {lead} ON {default.name}",
            f"DROP FUNCTION {function}()",
            *partitions.attaching(parent, part, month.bounds(log)),
            f"ALTER TABLE {default.name} DROP CONSTRAINT {guard}",
            f"COMMENT ON TABLE {part} IS NULL",
        ],
        default.name,
    )
