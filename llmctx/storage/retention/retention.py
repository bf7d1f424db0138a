"""One run of retention: what the rules (`policy.py`) ask for, told or done, partition by partition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.text import capitalize, counted
from llmctx.settings import Settings
from llmctx.storage.dependents import Dependent, dependents
from llmctx.storage.distribution import is_distributed
from llmctx.storage.engine import write_connection
from llmctx.storage.reflection import reflect
from llmctx.storage.retention import large_default, partitions
from llmctx.storage.retention.batch_delete import Sweep
from llmctx.storage.retention.partitions import Partition
from llmctx.storage.retention.partman import ManagedTable, find_managed_table
from llmctx.storage.retention.policy import Policy
from llmctx.storage.texts_table import DAYS_AHEAD, texts_of

Progress = Callable[[str, int, int | None], None]
"""Told how much more is done, of what, of how much in all."""


@dataclass(slots=True)
class Report:
    """The steps that were done, or would be."""

    done: bool
    steps: list[str] = field(default_factory=list)
    rows: int = 0
    """Rows deleted one by one; those of a partition that was dropped are not counted."""
    snapshots: int = 0
    """Rows whose texts were taken out."""
    notes: list[str] = field(default_factory=list)
    """What the team should know, and could do."""


async def retain(
    settings: Settings,
    policy: Policy,
    *,
    do: bool = False,
    now: datetime | None = None,
    progress: Progress = lambda what, more, total: None,
) -> Report:
    """Make what is to come, take away what has expired, or say so."""
    async with write_connection(settings) as connection:
        return await _Work(connection, settings, policy, now or datetime.now(UTC), Report(do), progress).run()


class _Work:
    def __init__(
        self,
        connection: AsyncConnection,
        settings: Settings,
        policy: Policy,
        now: datetime,
        report: Report,
        progress: Progress,
    ) -> None:
        self._connection, self._settings, self._policy = connection, settings, policy
        self._now, self._report, self._progress = now, report, progress

    async def run(self) -> Report:
        connection = self._connection
        log = await reflect(connection, self._settings)
        children = await dependents(connection, log)
        parts: list[Partition] | None = None
        managed: ManagedTable | None = None
        if self._settings.is_postgresql:
            parts = await partitions.list_partitions(connection, log)
            managed = await find_managed_table(connection, log)
        await connection.commit()
        if self._policy.rows is not None:
            self._report.notes += [child.index_advice for child in children if not child.is_indexed]
        if managed is not None:
            await self._leave_to(managed)
            parts = parts and await partitions.list_partitions(connection, log)
        elif parts is not None:
            await self._prepare(log, parts, self._policy.ahead)
        if (texts := texts_of(log)) is not None:
            await self._keep_texts(texts)
        for part in [partitions.as_single_partition(connection, log)] if parts is None else parts:
            await self._expire(log, children, part, droppable=parts is not None and managed is None)
        return self._report

    async def _leave_to(self, managed: ManagedTable) -> None:
        if managed.is_installed:
            self._report.steps.append(managed.step)
        else:
            self._report.notes.append(f"{capitalize(managed.step)}.")
        if self._policy.rows is not None and managed.retention is None:
            self._report.notes.append(managed.retention_statement(self._policy.rows))
        if self._report.done and managed.is_installed:
            await partitions.run_patiently(self._connection, [managed.maintenance])

    async def _prepare(self, log: Table, parts: list[Partition], ahead: int) -> None:
        default = next((part for part in parts if part.is_default), None)
        if (end := partitions.calendar_ends(parts, self._now, ahead)) is not None:
            self._report.notes.append(
                f"The partitions follow no calendar that llmctx recognizes: create those from {end:%Y-%m-%d %H:%M} "
                "UTC on."
            )
        for gap in partitions.months_without_partition(parts, self._now, ahead):
            whole = await partitions.with_free_name(self._connection, log, gap)
            prospect = await large_default.plan(self._connection, log, whole, default, self._now)
            if (month := prospect.month) is None:
                self._report.notes.append(
                    f"{whole} stays in the default partition, which holds too many of its rows to be split while "
                    "rows are written."
                )
                continue
            rest = "" if month == whole else f", from {month.first:%Y-%m-%d} on"
            self._report.steps.append(f"make partition {month.partition(log.name)} for {whole}{rest}")
            if prospect.writers_wait:
                self._report.notes.append(
                    f"Writers have to wait while the default partition is searched for rows of {whole}."
                )
            if self._report.done and prospect.in_steps and default is not None:
                await large_default.make_partition(self._connection, log, month, default)
            elif self._report.done:
                await partitions.make_partition(self._connection, log, month, default)

    async def _keep_texts(self, texts: Table) -> None:
        """Make the next days of texts that stand apart, and drop those that have expired, with their rows or before."""
        parts = await partitions.list_partitions(self._connection, texts) or []
        await self._connection.commit()
        await self._prepare(texts, parts, min(DAYS_AHEAD, 31 * self._policy.ahead))
        of_rows, own = self._cut(self._policy.errors or self._policy.rows), self._cut(self._policy.snapshots)
        cuts = [cut for cut in (of_rows, own) if cut is not None]
        if not cuts:
            return
        cut = max(cuts)
        for part in parts:
            if part.upper is not None and part.upper <= cut:
                keep = self._policy.detach and (own is None or part.upper > own)
                self._report.steps.append(
                    f"{'detach' if keep else 'drop'} partition {part.name}, about {counted(max(part.rows, 0), 'text')}"
                )
                if self._report.done:
                    await partitions.remove(self._connection, texts, part, keep=keep)
            elif part.is_default or (self._policy.exact and part.lower is not None and part.lower < cut):
                sweep = Sweep(self._connection, texts, part, (), self._progress)
                if count := await sweep.count_expired(cut, cut):
                    self._report.steps.append(
                        f"delete {counted(count, 'text')} of {part.name} from before {cut:%Y-%m-%d}"
                    )
                    if self._report.done:
                        self._report.snapshots += await sweep.delete(cut, cut)

    async def _expire(self, log: Table, children: list[Dependent], part: Partition, *, droppable: bool) -> None:
        """Drop a partition that has expired as a whole, unless errors in it are kept, or rows depend on it."""
        rows, errors = self._cut(self._policy.rows), self._cut(self._policy.errors or self._policy.rows)
        if not droppable or part.upper is None or errors is None or part.upper > errors or children:
            exact = self._policy.exact or bool(children) or not part.is_short
            expired = rows is not None and part.upper is not None and part.upper <= rows
            for leaf in await partitions.leaf_partitions(self._connection, part):
                await self._sweep(log, children, leaf, rows=exact or expired)
            return
        word = "detach" if self._policy.detach else "drop"
        about = "" if await is_distributed(self._connection, log) else f", about {counted(max(part.rows, 0), 'row')}"
        self._report.steps.append(f"{word} partition {part.name}{about}")
        if self._report.done:
            await partitions.remove(self._connection, log, part, keep=self._policy.detach)

    async def _sweep(self, log: Table, children: list[Dependent], part: Partition, *, rows: bool = True) -> None:
        sweep = Sweep(self._connection, log, part, children, self._progress)
        oldest = part.lower or datetime.min.replace(tzinfo=UTC)
        cut, errors, texts = (
            self._cut(days) for days in (self._policy.rows, self._policy.errors, self._policy.snapshots)
        )
        if rows and cut is not None and oldest < cut and (count := await sweep.count_expired(cut, errors or cut)):
            self._report.steps.append(f"delete {counted(count, 'row')} of {part.name} from before {cut:%Y-%m-%d}")
            if self._report.done:
                self._report.rows += await sweep.delete(cut, errors or cut)
        if texts is not None and oldest < texts and (count := await sweep.count_with_texts(texts)):
            self._report.steps.append(
                f"remove the texts from {counted(count, 'row')} of {part.name} from before {texts:%Y-%m-%d}"
            )
            if self._report.done:
                self._report.snapshots += await sweep.clear_texts(texts)

    def _cut(self, days: int | None) -> datetime | None:
        return None if days is None else self._now - timedelta(days=days)
