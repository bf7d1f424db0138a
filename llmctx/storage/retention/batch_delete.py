"""Small deletes over a table that has no partitions for it, a few pages at a time, each its own transaction.

The table is walked in the order in which it lies on disk, so no index is needed, and every page is met once. Only a
statement that changes the very row waits for a lock of ours. A walk that is broken off is begun anew next time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Table, bindparam, column, text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.columns import ColumnKind
from llmctx.core.record import SNAPSHOTS
from llmctx.storage.dependents import Dependent
from llmctx.storage.distribution import is_distributed, largest_shard
from llmctx.storage.host_types import as_kind
from llmctx.storage.retention.partitions import Partition
from llmctx.storage.rollup.marks import mark_spans
from llmctx.storage.texts_table import texts_of

_TARGET_S: Final = 0.2  # for one step
_FEW: Final = 1000  # rows of a step that an index finds
_SMALLEST, _LARGEST = 16, 16_384  # pages of a step


class Sweep:
    """Delete from one partition, or from a table that has none."""

    def __init__(
        self,
        connection: AsyncConnection,
        log: Table,
        part: Partition,
        children: Sequence[Dependent],
        progress: Callable[[str, int, int | None], None],
    ) -> None:
        self._connection, self._log, self._part = connection, log, part
        self._children, self._progress = children, progress
        self._postgresql = connection.dialect.name == "postgresql"
        self._texts = texts_of(log)
        self._spoken = [name for name in SNAPSHOTS if name in log.c and log.c[name].nullable]

    async def count_expired(self, cut: datetime, errors: datetime) -> int:
        """Return how many rows are older than `cut`, those with errors than `errors`."""
        return await self._count(f"created_at < :cut AND {self._no_longer_wanted()}", cut, errors)

    async def count_with_texts(self, cut: datetime) -> int:
        """Return how many rows from before `cut` have texts."""
        return await self._count(self._has_texts(), cut, cut) if self._spoken else 0

    async def delete(self, cut: datetime, errors: datetime) -> int:
        condition = f"created_at < :cut AND {self._no_longer_wanted()}"
        before = [
            f"DELETE FROM {child.name} WHERE {self._quoted(child.column)} IN "  # noqa: S608  names are quoted
            f"(SELECT {self._quoted(child.call_column)} FROM {self._source} WHERE {{where}} AND {condition})"
            for child in self._children
        ]
        if self._texts is not None:
            rows = f"SELECT call_id, created_at FROM {self._source} WHERE {{where}} AND {condition}"  # noqa: S608
            texts = self._connection.dialect.identifier_preparer.format_table(self._texts)
            # the bound of time keeps it from the days whose rows have not expired
            before.append(f"DELETE FROM {texts} WHERE created_at < :cut AND (call_id, created_at) IN ({rows})")  # noqa: S608
        delete = f"DELETE FROM {self._source} WHERE {{where}} AND {condition}"  # noqa: S608
        oldest = f"SELECT min(created_at) AS at FROM {self._source} WHERE {condition}"  # noqa: S608
        kind = self._log.c.created_at.type
        first = await self._connection.scalar(self._bound(oldest, cut, errors).columns(at=kind))
        span = None if first is None else (first, max(cut, errors))
        return await self._walk([*before, delete], cut, errors, "rows looked through", span)

    async def clear_texts(self, cut: datetime) -> int:
        nothing = ", ".join(f"{self._quoted(name)} = NULL" for name in self._spoken)
        update = f"UPDATE {self._source} SET {nothing} WHERE {{where}} AND {self._has_texts()}"  # noqa: S608
        if self._texts is not None:
            return await self._silence_few(update, cut)
        return await self._walk([update], cut, cut, "texts looked through")

    async def _silence_few(self, update: str, cut: datetime) -> int:
        """Take out texts of rows that an index finds: nearly all texts stand apart."""
        found = f"SELECT ctid FROM {self._source} WHERE {self._has_texts()} LIMIT {_FEW}"  # noqa: S608
        statement = self._bound(update.format(where=f"ctid = ANY (ARRAY({found}))"), cut, cut)
        left, touched = await self.count_with_texts(cut), 0
        while left > 0 and (rows := (await self._connection.execute(statement)).rowcount) > 0:
            await self._connection.commit()
            left, touched = left - rows, touched + rows
            self._progress("texts taken out", rows, touched + max(left, 0))
        await self._connection.rollback()
        return touched

    # -- how ------------------------------------------------------------------------------------------------------

    @property
    def _source(self) -> str:
        return f"ONLY {self._part.name}" if self._postgresql else self._part.name

    def _quoted(self, name: str) -> str:
        return self._connection.dialect.identifier_preparer.quote(name)

    def _no_longer_wanted(self) -> str:
        if "success" not in self._log.c:
            return "TRUE"
        named = column("success", self._log.c.success.type)  # without its table: these are the rows of a partition
        flag = as_kind(named, ColumnKind.FLAG)
        succeeded = flag.compile(dialect=self._connection.dialect, compile_kwargs={"literal_binds": True})
        return f"(({succeeded}) IS NOT FALSE OR created_at < :errors)"

    def _has_texts(self) -> str:
        some = " OR ".join(f"{self._quoted(name)} IS NOT NULL" for name in self._spoken)
        return f"created_at < :cut AND ({some})"

    def _bound(self, statement: str, cut: datetime, errors: datetime) -> Any:
        kind = self._log.c.created_at.type
        given = {"cut": cut, "errors": errors}
        named = [bindparam(name, value, type_=kind) for name, value in given.items() if f":{name}" in statement]
        return text(statement).bindparams(*named)

    async def _count(self, condition: str, cut: datetime, errors: datetime) -> int:
        statement = f"SELECT count(*) FROM {self._source} WHERE {condition}"  # noqa: S608
        found = await self._connection.scalar(self._bound(statement, cut, errors)) or 0
        await self._connection.rollback()
        return int(found)

    async def _walk(
        self,
        statements: Sequence[str],
        cut: datetime,
        errors: datetime,
        what: str,
        span: tuple[datetime, datetime] | None = None,
    ) -> int:
        """Run `statements` over some pages at a time. Returns how many rows the last of them touched.

        Each step marks the hours of `span`, whose totals change.
        """
        end = await self._end()
        touched, at, pages = 0, 0, 256
        while at < end:
            began = time.monotonic()
            where = self._where(at, min(at + pages, end))
            for statement in statements:
                bound = self._bound(statement.format(where=where), cut, errors)
                rows = (await self._connection.execute(bound)).rowcount
            if span is not None and rows > 0:
                await mark_spans(self._connection, self._log, [span])
            await self._connection.commit()
            touched += max(rows, 0)
            self._progress(what, min(pages, end - at), end)
            at += pages
            took = time.monotonic() - began
            pages = max(_SMALLEST, pages // 2) if took > _TARGET_S else min(_LARGEST, pages * 2)
            await asyncio.sleep(min(took / 2, _TARGET_S))  # others want the disk as well
        return touched

    async def _end(self) -> int:
        """Return the number of pages of the table, or of Citus's largest shard; SQLite counts rows."""
        found: int | None
        if await is_distributed(self._connection, self._log):
            found = await largest_shard(self._connection, self._part.name)
        elif self._postgresql:
            size = "pg_relation_size(to_regclass(:name)) / current_setting('block_size')::int"
            found = await self._connection.scalar(text(f"SELECT {size}"), {"name": self._part.name})
        else:
            found = await self._connection.scalar(text(f"SELECT max(rowid) + 1 FROM {self._part.name}"))  # noqa: S608
        await self._connection.rollback()
        return int(found or 0)

    def _where(self, first: int, after: int) -> str:
        if self._postgresql:
            return f"ctid >= '({first},0)'::tid AND ctid < '({after},0)'::tid"
        return f"rowid >= {first} AND rowid < {after}"
