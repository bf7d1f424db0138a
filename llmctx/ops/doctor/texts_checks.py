"""Checks of texts that stand in a table of their own: days without a partition, rights, texts whose rows have gone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.text import counted
from llmctx.ops.doctor.finding import Finding
from llmctx.storage.retention import partitions
from llmctx.storage.texts_table import texts_of

_SOME: Final = 1000
"""Texts of which it is looked whether their rows are there."""
_RIGHTS: Final = """
SELECT quote_ident(current_user) AS role, has_table_privilege(to_regclass(:texts)::oid, 'INSERT') AS may_insert,
       has_table_privilege(to_regclass(:log)::oid, 'INSERT') AS may_insert_rows,
       has_table_privilege(to_regclass(:texts)::oid, 'SELECT')
       AND has_table_privilege(to_regclass(:log)::oid, 'SELECT') AS may_select
"""


async def findings(connection: AsyncConnection, log: Table) -> list[Finding]:
    """Return what is wrong with the table of texts of `log`; nothing where it has none."""
    texts = texts_of(log)
    if texts is None:
        return []
    parts = await partitions.list_partitions(connection, texts) or []
    names = {"texts": partitions.name_in_sql(texts), "log": partitions.name_in_sql(log)}
    rights = (await connection.execute(text(_RIGHTS), names)).mappings().one()
    gone = await _without_rows(connection, names) if rights["may_select"] else 0
    return [*_days(texts, parts), *_rights(rights, names), *_orphans(gone, names, texts.name)]


async def _without_rows(connection: AsyncConnection, names: dict[str, str]) -> int:
    some = f"SELECT call_id, created_at FROM {names['texts']} LIMIT {_SOME}"  # noqa: S608  quoted
    counted = f"SELECT count(*) FROM ({some}) t WHERE {_has_no_row(names)}"  # noqa: S608
    return int(await connection.scalar(text(counted)) or 0)


def _has_no_row(names: dict[str, str]) -> str:
    """Return the condition of a text `t` whose row has gone."""
    return f"NOT EXISTS (SELECT FROM {names['log']} r WHERE r.call_id = t.call_id AND r.created_at = t.created_at)"


def _days(texts: Table, parts: list[partitions.Partition]) -> list[Finding]:
    gone = partitions.months_without_partition(parts, datetime.now(UTC), 1)
    found = []
    if gone:
        found.append(
            Finding(
                "texts' partitions", False, f"no partition for {', '.join(map(str, gone))}",
                "Texts of that time go into the default partition, or into their rows: none can be dropped day by day.",
                "llmctx retain --yes, from cron; or LLMCTX_RETAIN=on. As SQL: "
                + " ".join(partitions.make_in_sql(texts, day) for day in gone), texts.name,
            )
        )  # fmt: skip
    found += [
        Finding(
            "texts' default partition", False, f"about {counted(part.rows, 'text lies', 'texts lie')} in {part.name}",
            "They came on a day without a partition, or their times are wrong; they can only be deleted row by row.",
            "llmctx retain --yes, which moves those of today and of the next days.", texts.name,
        )
        for part in parts
        if part.is_default and part.rows > 0
    ]  # fmt: skip
    return found


def _rights(rights: Any, names: dict[str, str]) -> list[Finding]:
    if rights["may_insert"] or not rights["may_insert_rows"]:
        return []
    return [
        Finding(
            "texts' rights", False, f"the role {rights['role']} may not INSERT into {names['texts']}",
            "Texts that it stores are in their rows, from which they are removed one by one.",
            f"GRANT INSERT ON {names['texts']} TO {rights['role']};", names["texts"],
        )
    ]  # fmt: skip


def _orphans(gone: int, names: dict[str, str], where: str) -> list[Finding]:
    if not gone:
        return []
    return [
        Finding(
            "texts' rows", False, f"of {_SOME:,} texts looked at, {counted(gone, 'belongs', 'belong')} to no row",
            "Rows were deleted by something other than llmctx, or by an older version: their texts are still there.",
            f"DELETE FROM {names['texts']} t WHERE {_has_no_row(names)};", where,  # noqa: S608
        )
    ]  # fmt: skip
